"""Stored speech as codec frames, with what is said, in which language, by whom.

A folder has one file a split, SPLIT.npz, that `write_codes` writes and `CodesSource` reads (in a
mixture as ``codes:FOLDER``). `fingerprint` says which codec made the codes: those of another mean
nothing to a Talker, or to its Code2Wav.
"""

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.files import whole
from omnijax.typing import Int

# What numpy raises for a file that is no npz, is cut off, empty, or lacks a part.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)


class Utterance(NamedTuple):
    """What is said, and the frames that say it."""

    text: str
    language: str
    voice: str
    description: str  # of the voice, in words
    codes: Int[np.ndarray, "R Q"]


def fingerprint(table: Any) -> str:
    """Of a codec by its codebooks [Q, V, W], to the precision in which weights are kept.

    Of any other weights by one of their arrays.
    """
    import ml_dtypes

    kept = np.asarray(table, np.float32).astype(ml_dtypes.bfloat16)
    return hashlib.sha256(kept.tobytes()).hexdigest()[:16]


def write_codes(
    folder: str | os.PathLike, split: str, utterances: Iterable[Utterance], codec: str
) -> int:
    """Writes a split's file, whole or not at all; returns how many utterances it has.

    codec: the `fingerprint` of the codec that made the codes.
    """
    rows, codes, lengths = [], [], []
    for utterance in utterances:
        if not len(utterance.codes):
            raise UserError(f"utterance {len(rows)} ({utterance.text!r}) has no frames")
        rows.append(utterance._replace(codes=None)[:4])
        codes.append(np.asarray(utterance.codes, np.int16))
        lengths.append(len(utterance.codes))
    if not rows:
        raise UserError(f"there are no utterances to write to {folder}")
    path = Path(folder) / f"{split}.npz"
    with whole(path) as partial:
        np.savez_compressed(
            partial,
            codes=np.concatenate(codes),
            lengths=np.array(lengths, np.int32),
            meta=np.frombuffer(json.dumps({"codec": codec, "rows": rows}).encode(), np.uint8),
        )
    return len(rows)


def codec_of(folder: str | os.PathLike, split: str = "train") -> str:
    """The mark of the codec that made a split's codes, which `fingerprint` gives."""
    with _opened(folder, split) as file:
        return json.loads(file["meta"].tobytes())["codec"]


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
            self.codec: str = meta["codec"]
            self._rows = meta["rows"]
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
        return Utterance(*self._rows[place], codes)

    def of_voice(self, voice: str) -> list[int]:
        """Places of what a voice says, in every language."""
        return self._of_voice.get(voice, [])


def check_codec(source: CodesSource, config: Mapping[str, Any], where: str) -> None:
    """The codes must be of a codec with the Talker's codebooks."""
    books = source[0].codes.shape[1]
    if books != config["codebooks"]:
        raise UserError(
            f"{where} has {books} codebooks, config.talker.codebooks is {config['codebooks']}"
        )
    largest = int(source._codes.max())
    if largest >= config["codebook_size"]:
        raise UserError(
            f"{where} has code {largest}, config.talker.codebook_size is {config['codebook_size']}"
        )
