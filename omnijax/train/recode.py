"""A Talker that begins on another codec's codes, from what it has learned of the codes before.

Of the same speech both codecs' codes are counted together. A new code's embedding is then the mean
of those of the codes that stood where it stands, and so are the columns of the heads. It is a
start, not a translation: finer codebooks, which code what the coarser leave, have little in common.
"""

import numpy as np

from omnijax.data.codes import CodesSource
from omnijax.errors import UserError
from omnijax.train.state import Params
from omnijax.typing import Float, Int

PRIOR = 0.5  # of a count, shared out as the old codes are met: an unmet code is their mean
LEAST = 0.5  # of the utterances that both folders could share


def counted_together(
    old: CodesSource, new: CodesSource, books: int, size: int
) -> tuple[Int[np.ndarray, "Q V V"], int]:
    """How often each new code (axis 1) stood in a frame with each old one, for each codebook.

    books, size: codebooks, and codes of each.

    Returns:
      The counts, and the number of utterances counted: those of the same place whose text,
      language, voice, its description and length are the same.

    Raises:
      UserError: those are under half of what both have.
    """
    counts = np.zeros((books, size, size), np.int64)
    counted, most = 0, min(len(old), len(new))
    for place in range(most):
        before, now = old[place], new[place]
        if before[:4] != now[:4] or len(before.codes) != len(now.codes):
            continue
        for book in range(books):
            np.add.at(counts[book], (now.codes[:, book], before.codes[:, book]), 1)
        counted += 1
    if counted < LEAST * most:
        raise UserError(
            f"of {most} utterances {counted} are in the same place in both folders of codes, with "
            f"the same words, voice and length: at least {LEAST:.0%} must be"
        )
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
