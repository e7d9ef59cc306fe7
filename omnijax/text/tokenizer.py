"""Byte-level BPE with Qwen's special tokens: trained for nano, or any tokenizer.json.

`experiments/tokenizer.py` trains nano's own on OmniWorld's sentences.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import importlib_resources
import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from omnijax.errors import UserError
from omnijax.files import whole

# Qwen3.5's pre-tokeniser [transformers `tokenization_qwen3_5.py`]: each digit stands alone.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Name → string. The control tokens can never be written by a text; the tags are plain vocabulary
# entries, as in the released files (`"special": false`), since a model's own text holds them.
CONTROL = {
    name: f"<|{name}|>"
    for name in (
        "endoftext",
        "im_start",
        "im_end",
        "vision_start",
        "vision_end",
        "image_pad",
        "video_pad",
        "audio_start",
        "audio_end",
        "audio_pad",
    )
} | {  # The Talker's text-side marks (Qwen3-Omni's and Qwen3.5's names).
    "tts_pad": "<tts_pad>",
    "tts_bos": "<tts_text_bos>",
    "tts_eos": "<tts_text_eod>",
}
TAGS = {
    name: f"<{name}>"
    for name in ("tool_call", "/tool_call", "tool_response", "/tool_response", "think", "/think")
}
SPECIAL = CONTROL | TAGS

_CACHED_STRINGS = 4096


class Tokenizer:
    """Text to ids and back. Control tokens are found by their strings, never by fixed ids."""

    def __init__(self, backend: tokenizers.Tokenizer, source: str = "tokenizer"):
        self._backend, self._source = backend, source
        # A second copy reads `<|im_end|>` in a user's text as the ten characters that it is.
        self._literal = tokenizers.Tokenizer.from_str(backend.to_str())
        self._literal.encode_special_tokens = True
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Reads a Hugging Face tokenizer.json (or a directory that has one)."""
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"no tokenizer file at {path}")
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # The backend raises bare Exception.
            raise UserError(f"{path} is not a tokenizer.json: {error}") from None
        return cls(backend, str(path))

    def save(self, path: str | Path) -> None:
        data = json.loads(self._backend.to_str())
        with whole(path) as partial:
            partial.write_text(json.dumps(data, ensure_ascii=False, indent=0) + "\n", "utf-8")

    def encode(self, text: str, *, literal: bool = False) -> list[int]:
        """Ids of a text; with `literal`, strings of control tokens in it stay ordinary text."""
        backend = self._literal if literal else self._backend
        return backend.encode(text, add_special_tokens=False).ids

    def encode_literal(self, text: str) -> list[int]:
        """`encode(text, literal=True)`, remembered: templates repeat themselves. Do not modify."""
        ids = self._cache.get(text)
        if ids is None:
            if len(self._cache) >= _CACHED_STRINGS:
                self._cache.clear()
            ids = self._cache[text] = self.encode(text, literal=True)
        return ids

    def decode(self, ids: Iterable[Any], skip_special: bool = False) -> str:
        """Text of the ids (a list or any array); `skip_special` drops control tokens, not tags."""
        ids = np.asarray(ids if hasattr(ids, "shape") else list(ids), np.int64).tolist()
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def special(self, name: str) -> int:
        """Id of a special token by its name in `SPECIAL`, for example "im_start"."""
        if name not in SPECIAL:
            raise UserError(f"no special token is called {name!r}; there are {', '.join(SPECIAL)}")
        found = self._backend.token_to_id(SPECIAL[name])
        if found is None:
            raise UserError(f"{self._source} has no {SPECIAL[name]} token, which {name} needs")
        return found

    @property
    def vocab_size(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __getstate__(self):  # Data workers are separate processes.
        return self._backend.to_str(), self._source

    def __setstate__(self, state):
        self.__init__(tokenizers.Tokenizer.from_str(state[0]), state[1])


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE over texts; `vocab_size` counts the 256 bytes and the special tokens.

    The special tokens take the last ids, as in the released files.
    """
    least = 256 + len(SPECIAL)
    if vocab_size < least:
        raise UserError(f"vocab_size is {vocab_size}, the bytes and special tokens need {least}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken(s, normalized=False) for s in CONTROL.values()])
    backend.add_tokens([AddedToken(s, special=False, normalized=False) for s in TAGS.values()])
    return Tokenizer(backend)


def nano_tokenizer() -> Tokenizer:
    """The nano model's tokenizer, which the package brings."""
    file = importlib_resources.files("omnijax") / "assets" / "nano" / "tokenizer.json"
    with importlib_resources.as_file(file) as path:
        return Tokenizer.from_file(path)
