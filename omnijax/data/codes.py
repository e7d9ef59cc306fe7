"""Stored speech as codec frames, with what is said, in which language, by whom.

A folder has one file a split, SPLIT.npz, that `write_codes` writes and `CodesSource` reads (in a
mixture as ``codes:FOLDER``). `fingerprint` says which codec made the codes: those of another mean
nothing to a Talker, or to its Code2Wav. An answer may have what the Thinker has read of its
question; then the file also says which Thinker, and after which layer.
"""

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.files import whole
from omnijax.models.talker.context import Context
from omnijax.sharding import flatten
from omnijax.typing import Int, PyTree

# What numpy raises for a file that is no npz, is cut off, empty, or lacks a part.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)


_LOOKED_AT, _LARGE = 4096, 2**24


class Utterance(NamedTuple):
    """What is said, and the frames that say it."""

    text: str
    language: str
    voice: str
    description: str  # of the voice, in words
    codes: Int[np.ndarray, "R Q"]
    context: Context | None = None  # of what it answers


def fingerprint(table: Any) -> str:
    """Of a codec by its codebooks [Q, V, W], to the precision in which weights are kept.

    Of any other weights by one of their arrays.
    """
    import ml_dtypes

    kept = np.asarray(table, np.float32).astype(ml_dtypes.bfloat16)
    return hashlib.sha256(kept.tobytes()).hexdigest()[:16]


def fingerprint_of(params: PyTree) -> str:
    """Of a Thinker's weights but its head, to the precision in which they are kept.

    Of each array no more than some thousands of entries are looked at, evenly spread: weights that
    differ nowhere there are told apart by none.
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(params).items()):
        if path.split("/")[0] != "lm_head":
            # What is large is cut on its device; for what is not, that would only be compiled.
            entries = (leaf if leaf.size > _LARGE else np.asarray(leaf)).reshape(-1)
            entries = entries[:: max(1, -(-entries.size // _LOOKED_AT))]
            digest.update(f"{path} {leaf.shape} {fingerprint(entries)}".encode())
    return digest.hexdigest()[:16]


class ThinkerStream(NamedTuple):
    """Whose stream contexts hold: a Thinker by `fingerprint_of` its weights, and the layer after
    which its stream was read."""

    mark: str
    layer: int


def write_codes(
    folder: str | os.PathLike,
    split: str,
    utterances: Iterable[Utterance],
    codec: str,
    thinker: ThinkerStream | None = None,
    speech: str = "",
) -> int:
    """Writes a split's file, whole or not at all; returns how many utterances it has.

    codec: the `fingerprint` of the codec that made the codes.
    thinker: whose stream the contexts hold, where there are any. It is kept in half precision.
    speech: of what the speech was made, by any mark that its maker knows again.
    """
    rows, codes, lengths, contexts = [], [], [], []
    for utterance in utterances:
        if not len(utterance.codes):
            raise UserError(f"utterance {len(rows)} ({utterance.text!r}) has no frames")
        if utterance.context is not None:
            if thinker is None:
                raise UserError(f"utterance {len(rows)} has a context, but of no Thinker")
            before = next((c for c in contexts if c is not None), utterance.context)
            width = np.shape(before.hidden)[1:]
            _check_context(utterance.context, f"the context of utterance {len(rows)}", width)
        rows.append(utterance[:4])
        codes.append(np.asarray(utterance.codes, np.int16))
        lengths.append(len(utterance.codes))
        contexts.append(utterance.context)
    if not rows:
        raise UserError(f"there are no utterances to write to {folder}")
    meta = {"codec": codec, "rows": rows, "thinker": thinker, "speech": speech}
    path = Path(folder) / f"{split}.npz"
    with whole(path) as partial:
        np.savez_compressed(
            partial,
            codes=np.concatenate(codes),
            lengths=np.array(lengths, np.int32),
            meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
            **(_as_arrays(contexts) if thinker else {}),
        )
    return len(rows)


def _check_context(context: Context, name: str, width: tuple[int, ...]) -> None:
    """What is stored is found again by how many media positions come before it."""
    if context.positions is None:
        raise UserError(f"{name} has no positions")
    tokens, states = len(context.tokens), len(context.hidden)
    if {tokens} != {len(context.media), len(context.positions)} or context.media.sum() != states:
        raise UserError(
            f"{name} has {tokens} tokens, {len(context.positions)} positions, {len(context.media)} "
            f"marks of media, {context.media.sum()} of them set, and {states} states"
        )
    if np.shape(context.hidden)[1:] != width:
        raise UserError(f"{name} has states {np.shape(context.hidden)}, those before it {width}")
    most = np.abs(context.hidden).max(initial=0)
    if not most <= np.finfo(np.float16).max:  # nor NaN
        raise UserError(
            f"{name}: the Thinker's stream reaches {most:g}, half precision ends at "
            f"{np.finfo(np.float16).max:g}"
        )


def _as_arrays(contexts: list[Context | None]) -> dict[str, np.ndarray]:
    there = [context for context in contexts if context is not None]
    if not there:
        raise UserError("no utterance has a context of the Thinker that is named")
    return {
        "context_lengths": np.array(
            [0 if c is None else len(c.tokens) for c in contexts], np.int32
        ),
        "context_tokens": np.concatenate([c.tokens for c in there]).astype(np.int32),
        "context_media": np.concatenate([c.media for c in there]).astype(bool),
        "context_positions": np.concatenate([c.positions for c in there]).astype(np.int32),
        "context_hidden": np.concatenate([c.hidden for c in there]).astype(np.float16),
    }


class _Contexts:
    """Those of a file, each by the place of its utterance."""

    def __init__(self, file: Mapping[str, np.ndarray]):
        self._parts = [file[f"context_{name}"] for name in ("tokens", "media", "positions")]
        self._hidden = file["context_hidden"]
        self._ends = np.cumsum(file["context_lengths"])
        self._starts = self._ends - file["context_lengths"]
        self._before = np.concatenate([[0], np.cumsum(self._parts[1])])  # media up to a position

    def __getitem__(self, place: int) -> Context | None:
        start, end = self._starts[place], self._ends[place]
        if start == end:
            return None
        tokens, media, positions = (part[start:end] for part in self._parts)
        hidden = self._hidden[self._before[start] : self._before[end]].astype(np.float32)
        return Context(tokens, media, hidden, positions)


def codec_of(folder: str | os.PathLike, split: str = "train") -> str:
    """The mark of the codec that made a split's codes, which `fingerprint` gives."""
    return made_by(folder, split)[0]


def made_by(folder: str | os.PathLike, split: str = "train") -> tuple[str, ThinkerStream | None]:
    """The mark of the codec that made a split's codes, and whose stream its contexts hold."""
    with _opened(folder, split) as file:
        return _made_by(json.loads(file["meta"].tobytes()))


def _made_by(meta: Mapping[str, Any]) -> tuple[str, ThinkerStream | None]:
    thinker = meta.get("thinker")
    return meta["codec"], ThinkerStream(*thinker) if thinker else None


@contextlib.contextmanager
def _opened(folder: str | os.PathLike, split: str) -> Iterator[Any]:
    path = Path(folder) / f"{split}.npz"
    if not path.is_file():
        raise UserError(
            f"no codes at {path}: experiments/talker.py codes makes them, of --task, in --out"
        )
    try:
        with np.load(path) as file:
            yield file
    except UNREADABLE as error:
        raise UserError(f"cannot read codes from {path}: {error}") from None


class CodesSource:
    """Random access to a split's utterances, and to those of one voice."""

    def __init__(self, folder: str | os.PathLike, split: str = "train"):
        with _opened(folder, split) as file:
            self._codes, lengths = file["codes"], file["lengths"]
            meta = json.loads(file["meta"].tobytes())
            self.codec, self.thinker = _made_by(meta)
            self.speech = meta.get("speech", "")
            self._rows = meta["rows"]
            self._contexts = _Contexts(file) if self.thinker else None
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        self.by_voice: dict[tuple[str, str], list[int]] = {}  # (voice, language) -> places
        self._of_voice: dict[str, list[int]] = {}
        for place, (_, language, voice, _) in enumerate(self._rows):
            self.by_voice.setdefault((voice, language), []).append(place)
            self._of_voice.setdefault(voice, []).append(place)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Utterance:
        codes = self._codes[self._starts[place] : self._ends[place]].astype(np.int32)
        context = self._contexts[place] if self._contexts else None
        return Utterance(*self._rows[place], codes, context)

    def of_voice(self, voice: str) -> list[int]:
        """Places of what a voice says, in every language."""
        return self._of_voice.get(voice, [])


def said_of(meta: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """What an `Utterance` begins with, of the "meta" of an example that is spoken."""
    return meta["answer"], meta["language"], meta["voice"], meta["voice_description"]


def made_before(
    folder: str | os.PathLike,
    split: str,
    example_at: Callable[[int], Mapping[str, Any]],
    count: int,
    by: tuple[str, ThinkerStream | None, str],
    size: int,
) -> bool:
    """Whether a split's file holds what would be made anew of the first `count` examples.

    by: the marks of the codec, the Thinker and the speech; size: samples of a frame. Of what is
    said the first, the middle and the last utterance are looked at.
    """
    try:
        there = CodesSource(folder, split)
    except UserError:
        return False
    if (there.codec, there.thinker, there.speech) != by or len(there) != count:
        return False

    def same(place: int) -> bool:
        meta, stored = example_at(place)["meta"], there[place]
        frames = -(-len(meta["speech"].samples) // size)
        return stored[:4] == said_of(meta) and len(stored.codes) == frames

    return all(map(same, {0, count // 2, count - 1}))


def check_codec(source: CodesSource, config: Mapping[str, Any], where: str) -> None:
    """The codes must be of a codec with the Talker's codebooks."""
    books = source[0].codes.shape[1]
    if books != config["codebooks"]:
        raise UserError(
            f"{where} has {books} codebooks, config.talker.codebooks is {config['codebooks']}"
        )
    for code in (int(source._codes.min()), int(source._codes.max())):
        if not 0 <= code < config["codebook_size"]:
            raise UserError(
                f"{where} has code {code}, config.talker.codebook_size is {config['codebook_size']}"
            )
