"""What a session says: typed events, and the reader that finds them in an answer that grows."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from omnijax.text import tools
from omnijax.typing import Float

_OPENING = re.compile(r"<(tool_call|think)>")
_PART = re.compile(_OPENING.pattern + r".*?(?:</\1>|\Z)", re.DOTALL)
_TAGS = ("<tool_call>", "<think>")


class TextDelta(NamedTuple):
    """More of the answer's text; never a part of a tool call or a thought."""

    text: str
    seconds: float  # since the last push


class AudioChunk(NamedTuple):
    """More of the answer's speech, to be played after what came before.

    It comes sooner than it can be played: ``push(heard=...)`` says how much was.
    """

    samples: Float[np.ndarray, "_"]  # float32, 24 kHz, -1..1
    sample_rate: int
    seconds: float  # since the last push


class ToolCall(NamedTuple):
    """A finished call; answer it with ``push(tool_result=...)``."""

    name: str
    arguments: dict[str, Any]
    seconds: float


class TurnEnd(NamedTuple):
    """The answer is over: "stop" by the model, "length" by ``max_new_tokens``.

    speech: why its speech ended, where it was spoken: "stop" by the Talker, "length" where a limit
    cut it, "nothing to say".
    """

    reason: str
    text: str  # all of the answer, calls included, as the model wrote it
    tokens: int
    seconds: float
    speech: str | None = None


Event = TextDelta | AudioChunk | ToolCall | TurnEnd


class AnswerReader:
    """Finds text and calls in an answer, in the order in which they were written.

    Held back until it is certain what they are: an incomplete character, the beginning of a tag,
    and white space, which is left out at both ends of the answer.

    Args:
      definitions: tools whose schemas give the arguments their types.
      thinking: the answer begins inside a thought.
    """

    def __init__(self, definitions: Sequence[dict] = (), *, thinking: bool = False):
        self._definitions = list(definitions)
        self._read = 0  # characters of the answer that are dealt with
        self._inside = "think" if thinking else None
        self._space, self._begun = "", False

    def read(self, answer: str, *, last: bool = False) -> Iterator[str | tools.ToolCall]:
        """What is new in the answer so far; with ``last``, also what was waiting for more."""
        while True:
            rest = answer[self._read :]
            if self._inside is None:
                tag = _OPENING.search(rest)
                end = tag.start() if tag else _certain(rest, last)
                if text := self._trimmed(rest[:end]):
                    yield text
                self._read += tag.end() if tag else end
                if tag is None:
                    return
                self._inside = tag[1]
                continue
            closing = f"</{self._inside}>"
            end = rest.find(closing)
            if self._inside == "tool_call" and (end >= 0 or last):
                block = rest if end < 0 else rest[:end]
                yield from tools.parse_tool_calls(f"<tool_call>{block}", self._definitions)
            if end < 0:
                self._read += len(rest) if last else 0
                return
            self._read += end + len(closing)
            self._inside = None

    def _trimmed(self, text: str) -> str:
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if not self._begun:
            kept = kept.lstrip()
        self._begun |= bool(kept)
        return kept


def split_answer(
    answer: str,
    definitions: Sequence[dict] = (),
    *,
    thinking: bool = False,
    last: bool = True,
) -> tuple[str, list[tools.ToolCall]]:
    """The answer without its calls, and those; what a thought holds is no call, as for the reader.

    An answer without a call that can be read is left as it is. Arguments as for `AnswerReader`:
    one that goes on (``last`` False) has the calls that are closed.
    """
    whole = "<think>" * thinking + answer
    blocks = [part for part in _PART.finditer(whole) if part[1] == "tool_call"]
    if not last:
        blocks = [block for block in blocks if block[0].endswith("</tool_call>")]
    calls = [c for block in blocks for c in tools.parse_tool_calls(block[0], definitions)]
    if not calls:
        return answer, []
    for block in reversed(blocks):
        whole = whole[: block.start()] + whole[block.end() :]
    return whole.removeprefix("<think>" * thinking).strip(), calls


def _certain(text: str, last: bool) -> int:
    """Length of the text that no further token can change."""
    text = text.rstrip("\ufffd")
    tail = text[text.rfind("<") :] if "<" in text and not last else ""
    return len(text) - (len(tail) if any(tag.startswith(tail) for tag in _TAGS) else 0)
