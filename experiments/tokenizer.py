"""Trains nano's tokenizer on OmniWorld's training sentences; the file ships with the package.

    python experiments/tokenizer.py

The same corpus gives the same file. `--text=FILE --out=FILE` trains on the lines of your own file.
"""

import collections
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags

from omnijax.data.omniworld import corpus_texts
from omnijax.errors import UserError
from omnijax.text.tokenizer import SPECIAL, train_tokenizer
from omnijax.text.tools import ToolCall, as_call, render_call, render_definitions

_OUT = flags.DEFINE_string("out", "omnijax/assets/nano/tokenizer.json", "File to write.")
_TEXT = flags.DEFINE_string("text", None, "Train on this file's lines in place of OmniWorld.")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 1024, "Bytes and special tokens included.")


def template_texts() -> Iterator[str]:
    """What the template itself writes between special tokens, so that it costs few tokens."""
    definition = {"type": "function", "function": {"name": "a", "description": "b"}}
    for words in (
        "system\n" + render_definitions([definition], ""),
        render_call(ToolCall("a", {"b": "c"})),
    ):
        yield from re.split("|".join(map(re.escape, SPECIAL.values())), words)
    yield from ("user\n", "assistant\n", "<0.1 seconds>")


def as_written(text: str) -> str:
    """A corpus that lists calls as JSON means what the template makes of them."""
    if text.startswith('{"') and '"arguments"' in text:
        return render_call(as_call(json.loads(text)))
    return text


def main(argv) -> None:
    del argv
    try:
        if _TEXT.value and not _OUT.present:
            raise UserError(f"--text needs --out: the shipped {_OUT.value} would be overwritten")
        if _TEXT.value and not Path(_TEXT.value).is_file():
            raise UserError(f"no file at {_TEXT.value}")
        lines = Path(_TEXT.value).read_text("utf-8").splitlines() if _TEXT.value else corpus_texts()
        texts = [as_written(line) for line in lines]
        # A text counts a hundred times at most, or the commonest would take merges from the rest.
        counts = collections.Counter(texts)
        texts = [text for text, count in counts.items() for _ in range(min(count, 100))]
        frame = list(template_texts()) * (1 + len(texts) // 20)
        tokenizer = train_tokenizer(texts + frame, _VOCAB_SIZE.value)
    except UserError as error:
        print(f"tokenizer: {error}", file=sys.stderr)
        sys.exit(2)
    Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(_OUT.value)
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    words = sorted({word for text in texts for word in re.findall(r"[^\W\d_]+", text)})
    whole = sum(len(tokenizer.encode(" " + word)) == 1 for word in words)
    print(
        f"{_OUT.value}: {tokenizer.vocab_size} tokens; {tokens / max(len(texts), 1):.1f} tokens a "
        f"text; {whole} of {len(words)} words are one token"
    )


if __name__ == "__main__":
    app.run(main)
