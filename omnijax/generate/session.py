"""A conversation: streams in, typed events out, the model's cache kept from turn to turn.

session = Session(generator, tokenizer, processor)
session.push(image="picture.png", audio="question.wav")
for event in session.respond():
    ...  # TextDelta, ToolCall, TurnEnd
"""

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from omnijax.errors import UserError
from omnijax.generate.prompts import collate_prompts
from omnijax.generate.text import TextGenerator
from omnijax.media import ProcessorConfig, load_audio, load_image, load_video
from omnijax.text.chat import ChatState, ChatStyle, render_turn
from omnijax.text.tokenizer import Tokenizer
from omnijax.text.tools import parse_tool_calls

_HIDDEN = re.compile(r"<(tool_call|think)>.*?(</\1>|\Z)", re.DOTALL)


class TextDelta(NamedTuple):
    """More of the answer's text; never a part of a tool call or a thought."""

    text: str
    seconds: float  # since the last push


class ToolCall(NamedTuple):
    """A finished call; answer it with ``push(tool_result=...)``."""

    name: str
    arguments: dict[str, Any]
    seconds: float


class TurnEnd(NamedTuple):
    """The answer is over: "stop" by the model, "length" by ``max_new_tokens``."""

    reason: str
    text: str  # all of the answer, calls included, as the model wrote it
    tokens: int
    seconds: float


Event = TextDelta | ToolCall | TurnEnd


class Session:
    """One conversation with a Thinker.

    Args:
      generator: holds the model; its ``max_len`` is the longest conversation.
      tools: definitions that the model may call.
      system: a system message.
      style: how the template is written; past turns are never rewritten.
    """

    def __init__(
        self,
        generator: TextGenerator,
        tokenizer: Tokenizer,
        processor: ProcessorConfig,
        *,
        tools: Sequence[dict] = (),
        system: str | None = None,
        style: ChatStyle | None = None,
        seed: int = 0,
    ):
        self.messages: list[dict] = [{"role": "system", "content": system}] if system else []
        self._generator, self._tokenizer, self._processor = generator, tokenizer, processor
        self._tools, self._style = list(tools), style or ChatStyle()
        self._rows = generator.start(1, seed)
        self._chat = ChatState()
        self._unread = len(self.messages)  # messages at the end that the model has not read
        self._pushed = time.monotonic()

    def push(
        self, *items: dict, text=None, image=None, audio=None, video=None, tool_result=None
    ) -> None:
        """Add to the user's turn; media as paths or arrays, in the order image, video, audio, text.

        ``items`` are content items of the chat format, in an order of your own.

        Raises:
          UserError: a file cannot be read; the conversation is as it was.
        """
        given = {"image": image, "video": video, "audio": audio}
        load = {"image": load_image, "video": load_video, "audio": load_audio}
        items = [
            *items,
            *(
                {"type": kind, kind: load[kind](value) if _is_path(value) else value}
                for kind, value in given.items()
                if value is not None
            ),
        ]
        if text is not None:
            items.append({"type": "text", "text": text})
        if not items and tool_result is None:
            raise UserError("nothing was pushed: give text, image, audio, video or tool_result")
        if tool_result is not None:
            self._append({"role": "tool", "content": str(tool_result)})
        if items:
            last = self.messages[-1] if self._unread else None
            if last is not None and last["role"] == "user":
                last["content"] += items
            else:
                self._append({"role": "user", "content": items})
        self._pushed = time.monotonic()

    def respond(self, max_new_tokens: int = 256) -> Iterator[Event]:
        """Read what was pushed and answer it, as it is produced.

        Raises:
          UserError: nothing was pushed, or it does not fit; then `drop` takes it back.
        """
        if not self._unread:
            raise UserError("there is nothing to answer: push something first")
        rendered, chat = render_turn(
            self.messages[-self._unread :],
            self._tokenizer,
            self._processor,
            self._chat,
            tools=self._tools if self._chat.messages == 0 else None,
            style=self._style,
        )
        room = self._generator.max_len - int(self._rows.cache.length[0])
        if len(rendered.tokens) + max_new_tokens > room:
            raise UserError(
                f"the turn does not fit: {len(rendered.tokens)} tokens and an answer of up to "
                f"{max_new_tokens}, the conversation has room for {room}"
            )
        inputs = collate_prompts([rendered], self._processor)
        self._rows = self._generator.prefill(self._rows, inputs)
        self._unread = 0
        return self._stream(chat, max_new_tokens)

    def drop(self) -> None:
        """Take back what was pushed since the last answer."""
        del self.messages[len(self.messages) - self._unread :]
        self._unread = 0

    def _stream(self, chat: ChatState, budget: int) -> Iterator[Event]:
        produced: list[int] = []
        shown, calls = "", 0
        stops = set(self._generator.stop_ids)
        try:
            while len(produced) < budget and not (produced and produced[-1] in stops):
                steps = min(self._generator.block, budget - len(produced))
                self._rows, (new,) = self._generator.decode(self._rows, steps)
                produced += new
                text = self._text(produced)
                visible = _HIDDEN.sub("", text).lstrip("\n")
                # A character may still be incomplete, or a tag about to begin.
                visible = visible.rstrip("\ufffd")
                if len(visible) > len(shown) and visible.startswith(shown):
                    yield TextDelta(visible[len(shown) :], self._since())
                    shown = visible
                for call in parse_tool_calls(text, self._tools)[calls:]:
                    calls += 1
                    yield ToolCall(call.name, call.arguments, self._since())
        finally:
            # Also when the caller stops listening: what was produced, and only that, is history.
            text = self._text(produced)
            self.messages.append({"role": "assistant", "content": text})
            self._chat = chat.after_reply(produced, self._tokenizer)
        reason = "stop" if produced and produced[-1] in stops else "length"
        yield TurnEnd(reason, text, len(produced), self._since())

    def _text(self, tokens: Sequence[int]) -> str:
        stops = self._generator.stop_ids
        return self._tokenizer.decode([token for token in tokens if token not in stops])

    def _append(self, message: dict) -> None:
        self.messages.append(message)
        self._unread += 1

    def _since(self) -> float:
        return time.monotonic() - self._pushed


def _is_path(value: Any) -> bool:
    return isinstance(value, str) or hasattr(value, "__fspath__")
