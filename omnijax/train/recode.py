"""A Talker that begins on another codec's codes, from what it has learned of the codes before.

Of the same speech both codecs' codes are counted together. A new code's embedding is then the mean
of those of the codes that stood where it stands, and so are the columns of the heads. It is a
start, not a translation: finer codebooks, which code what the coarser leave, have little in common.
"""

from pathlib import Path

import numpy as np

from omnijax.data.codes import CodesSource
from omnijax.errors import UserError
from omnijax.train.checkpoint import load_weights, save_weights
from omnijax.train.state import Params
from omnijax.typing import Float, Int

PRIOR = 0.5  # of a count, shared out as the old codes are met: an unmet code is their mean


def counted_together(
    old: CodesSource, new: CodesSource, size: int
) -> tuple[Int[np.ndarray, "Q V V"], int]:
    """How often each new code (axis 1) stood in a frame with each old one, for each codebook.

    size: codes of a codebook.

    Returns:
      The counts, and the number of utterances counted: those of the same place whose text, voice
      and length are the same.
    """
    books = {name: source[0].codes.shape[1] for name, source in (("old", old), ("new", new))}
    if books["old"] != books["new"]:
        raise UserError(f"codecs with as many codebooks are needed, these have {books}")
    counts = np.zeros((books["new"], size, size), np.int64)
    counted = 0
    for place in range(min(len(old), len(new))):
        before, now = old[place], new[place]
        if before[:3] != now[:3] or len(before.codes) != len(now.codes):
            continue
        most = max(before.codes.max(), now.codes.max())
        if most >= size:
            raise UserError(f"utterance {place} has code {most}, the Talker's go up to {size - 1}")
        for book in range(len(counts)):
            np.add.at(counts[book], (now.codes[:, book], before.codes[:, book]), 1)
        counted += 1
    if not counted:
        raise UserError("no utterance is in both folders in the same place and of one length")
    return counts, counted


def recode(params: Params, counts: Int[np.ndarray, "Q V V"]) -> Params:
    """A Talker's parameters for the new codes; all but its code tables and heads as they were."""
    old = counts.sum(1, keepdims=True) / np.maximum(counts.sum((1, 2), keepdims=True), 1)
    share: Float[np.ndarray, "Q V V"] = (counts + PRIOR * old).astype(np.float64)
    share /= share.sum(2, keepdims=True)
    size = counts.shape[1]

    def rows(table, share):
        return (share @ np.asarray(table, np.float64)).astype(np.asarray(table).dtype)

    def columns(head, share):
        return np.swapaxes(rows(np.swapaxes(head, -1, -2), share), -1, -2)

    table = np.array(params["codec_embed"]["table"])  # ends and marks follow the codes
    head = np.array(params["codec_head"]["w"])
    table[:size] = rows(table[:size], share[0])
    head[:, :size] = columns(head[:, :size], share[0])
    mtp = params["mtp"] | {
        "embed": rows(params["mtp"]["embed"], share[1:]),
        "head": columns(params["mtp"]["head"], share[1:]),
    }
    return params | {"codec_embed": {"table": table}, "codec_head": {"w": head}, "mtp": mtp}


def recode_weights(talker: Path, old: Path, new: Path, directory: Path) -> int:
    """Writes an exported Talker's weights as they begin on another codec's codes.

    They begin a stage (`starts_from`); a voice they are not, for nothing says how they sound.

    Args:
      talker: a folder that `export_talker` wrote; old, new: folders of codes, of the codec whose
        codes it speaks and of the other, whose train splits are counted.

    Returns:
      The number of utterances counted.
    """
    params, config = load_weights(talker)
    if "talker" not in config or "codec" not in config:
        raise UserError(f"the weights in {talker} are no Talker's")
    before, now = CodesSource(old), CodesSource(new)
    if before.codec != config["codec"]:
        raise UserError(
            f"the Talker in {talker} speaks codes of codec {config['codec']}, those in {old} are "
            f"{before.codec}'s"
        )
    counts, counted = counted_together(before, now, config["talker"]["codebook_size"])
    save_weights(directory, recode(params, counts), config | {"codec": now.codec})
    return counted
