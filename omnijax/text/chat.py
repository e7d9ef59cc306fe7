"""The chat template: a conversation to tokens, loss mask, positions and media arrays.

The only place that knows Qwen3.5's template. What a conversation becomes (here with a picture, a
tool and `ChatStyle()`; the loss falls on what stands between » and «):

    <|im_start|>system
    # Tools ...<|im_end|>
    <|im_start|>user
    <|vision_start|><|image_pad|><|image_pad|><|vision_end|>Light it.<|im_end|>
    <|im_start|>assistant
    »<tool_call>
    <function=set_lamp>
    <parameter=colour>
    red
    </parameter>
    </function>
    </tool_call><|im_end|>«
    <|im_start|>user
    <tool_response>
    done
    </tool_response><|im_end|>

Sound is `<|audio_start|><|audio_pad|>...<|audio_end|>`. Each temporal patch of a video is
`<0.5 seconds><|vision_start|><|video_pad|>...<|audio_pad|>...<|vision_end|>`: its sound, if it has
any, follows its picture inside the block and shares its time ids; sound that outlasts the pictures
comes after them as a clip of its own [C].
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.media import ProcessorConfig
from omnijax.text.builder import Builder, Rendered
from omnijax.text.content import pieces_of, split_content
from omnijax.text.positions import PositionState
from omnijax.text.style import DEFAULT_STYLE, ChatStyle
from omnijax.text.tokenizer import Tokenizer
from omnijax.text.tools import parse_tool_calls, render_call, render_definitions

ROLES = ("system", "user", "assistant", "tool")


class ChatState(NamedTuple):
    """What a rendered history leaves behind for the next turn; `ChatState()` is the beginning.

    windows, frames: how many attention windows and vision blocks are numbered already.
    open_calls: tool calls of the last reply that wait for results.
    after_result: whether the last message was a tool's result.
    closing: text still due before the next message; "reply" where the reply itself is open.
    """

    positions: PositionState = PositionState()
    windows: int = 0
    frames: int = 0
    messages: int = 0
    open_calls: int = 0
    after_result: bool = False
    closing: Literal["", "newline", "reply"] = ""

    def after_reply(self, tokens: Sequence[Any], tokenizer: Tokenizer) -> "ChatState":
        """The state once the model has read these tokens of its own reply (cache included).

        Whether the last of them is `<|im_end|>` or the reply was stopped before it, the next turn
        begins as the template says.
        """
        tokens = [int(token) for token in tokens]
        ended = bool(tokens) and tokens[-1] == tokenizer.special("im_end")
        return self._replace(
            positions=self.positions.text(len(tokens))[0],
            messages=self.messages + 1,
            open_calls=len(parse_tool_calls(tokenizer.decode(tokens))),
            after_result=False,
            closing="newline" if ended else "reply",
        )


def render(
    chat: Mapping[str, Any],
    tokenizer: Tokenizer,
    processor: ProcessorConfig,
    *,
    add_generation_prompt: bool = False,
    max_tokens: int | None = None,
    window_chunks: int | None = None,
    style: ChatStyle = DEFAULT_STYLE,
    rng: np.random.Generator | None = None,
) -> Rendered:
    """A whole conversation as arrays; media in the order of their placeholder tokens.

    chat: {"messages": [{"role", "content", "tool_calls"?, "reasoning_content"?}], "tools"?: [...]}.
    window_chunks: the audio encoder's window for this example; None takes the processor's.
    rng: puts time stamps at random intervals into sound, for training.
    Raises UserError where it does not fit `max_tokens`; nothing is ever cut.
    """
    if not isinstance(chat, Mapping) or not isinstance(chat.get("messages"), Sequence):
        raise UserError("a chat is an object with a list of messages")
    return render_turn(
        chat["messages"],
        tokenizer,
        processor,
        ChatState(),
        tools=chat.get("tools"),
        add_generation_prompt=add_generation_prompt,
        max_tokens=max_tokens,
        window_chunks=window_chunks,
        style=style,
        rng=rng,
    )[0]


def render_turn(
    messages: Sequence[Any],
    tokenizer: Tokenizer,
    processor: ProcessorConfig,
    state: ChatState,
    *,
    tools: Any = None,
    add_generation_prompt: bool = True,
    max_tokens: int | None = None,
    window_chunks: int | None = None,
    style: ChatStyle = DEFAULT_STYLE,
    rng: np.random.Generator | None = None,
) -> tuple[Rendered, ChatState]:
    """The next messages of a conversation: exactly the suffix that the whole would have had.

    After a reply was generated, continue from `state.after_reply(tokens, tokenizer)`.
    """
    begins = state.messages == 0
    if not begins:
        style.check_continues()
    if not begins and tools:
        raise UserError("tools are offered in the first turn; this conversation has begun")
    if not messages:
        raise UserError("there is no message to render")
    builder = Builder(
        tokenizer,
        processor,
        style,
        window_chunks,
        rng,
        state.positions,
        state.windows,
        state.frames,
    )
    if state.closing == "reply":
        builder.control("im_end")
    if state.closing:
        builder.text("\n")
    open_calls = _render_messages(builder, messages, tools, style, state)
    if add_generation_prompt:
        builder.control("im_start")
        builder.text("assistant\n")
        _open_thought(builder, style)
    rendered = builder.finish(max_tokens)
    return rendered, ChatState(
        positions=builder.positions,
        windows=builder.windows,
        frames=builder.frames,
        messages=state.messages + len(messages),
        open_calls=open_calls,
        after_result=messages[-1]["role"] == "tool",
    )


def _render_messages(builder: Builder, messages, tools, style: ChatStyle, state: ChatState) -> int:
    open_calls = state.open_calls
    roles = [_role(message, index) for index, message in enumerate(messages)]
    last_question = max((i for i, role in enumerate(roles) if role == "user"), default=-1)
    if state.messages == 0 and (tools or roles[0] == "system"):
        _render_system(builder, messages[0] if roles[0] == "system" else None, tools, style)
    for index, (role, message) in enumerate(zip(roles, messages, strict=True)):
        if role == "system":
            if index or state.messages:
                raise UserError("the system message must be the first one")
        elif role == "user":
            builder.control("im_start")
            builder.text("user\n")
            for piece in pieces_of(message.get("content"), "user"):
                builder.piece(piece)
            builder.control("im_end")
            builder.text("\n")
            open_calls = 0
        elif role == "assistant":
            thinks = style.keep_thinking or index > last_question
            open_calls = _render_reply(builder, message, style, thinks)
        else:
            if not open_calls:
                raise UserError(f"message {state.messages + index} is a tool result without a call")
            if index == 0 and state.after_result:
                raise UserError("the results of one reply's calls must be rendered together")
            open_calls -= 1
            first = index == 0 or roles[index - 1] != "tool"
            last = index + 1 == len(roles) or roles[index + 1] != "tool"
            _render_result(builder, message, first, last)
    return open_calls


def _render_system(builder: Builder, message, tools, style: ChatStyle) -> None:
    pieces = pieces_of(message.get("content"), "system") if message else []
    if any(not isinstance(piece, str) for piece in pieces):
        raise UserError("the system message takes only text")
    words = "".join(pieces)
    if tools:
        words = _definitions(tools, style.tool_instructions) + ("\n\n" + words if words else "")
    builder.control("im_start")
    builder.text("system\n" + words)
    builder.control("im_end")
    builder.text("\n")


def _definitions(tools, instructions: str) -> str:
    if isinstance(tools, Mapping | str) or not isinstance(tools, Sequence):
        raise UserError(f"tools are a list of definitions, not {type(tools).__name__}")
    return render_definitions(tools, instructions)


def _render_reply(builder: Builder, message, style: ChatStyle, thinks: bool) -> int:
    pieces, calls = split_content(message)
    if any(not isinstance(piece, str) for piece in pieces):
        kind = next(piece.kind for piece in pieces if not isinstance(piece, str))
        raise UserError(f"an assistant's content takes text and tool calls, not {kind}")
    words, thought = "".join(pieces), message.get("reasoning_content") or ""
    if not thought and "</think>" in words:  # As the released template finds them.
        before, words = words.rsplit("</think>", 1)
        thought, words = before.split("<think>")[-1].strip("\n"), words.lstrip("\n")
    builder.control("im_start")
    builder.text("assistant\n")
    if style.thinking != "none" and thinks:
        _open_thought(builder, style)
        if style.thinking == "on":
            builder.text(f"{thought.strip()}\n</think>\n\n", loss=True)
    calls_text = "\n".join(render_call(call) for call in calls)
    builder.text("\n\n".join(part for part in (words, calls_text) if part), loss=True)
    builder.control("im_end", loss=True)
    builder.text("\n")
    return len(calls)


def _open_thought(builder: Builder, style: ChatStyle) -> None:
    """What the template itself writes of a reply; generation starts after it."""
    if style.thinking != "none":
        builder.text("<think>\n" if style.thinking == "on" else "<think>\n\n</think>\n\n")


def _render_result(builder: Builder, message, first: bool, last: bool) -> None:
    if first:
        builder.control("im_start")
        builder.text("user")
    builder.text("\n<tool_response>\n")
    for piece in pieces_of(message.get("content"), "tool"):
        builder.piece(piece)
    builder.text("\n</tool_response>")
    if last:
        builder.control("im_end")
        builder.text("\n")


def _role(message: Any, index: int) -> str:
    if not isinstance(message, Mapping):
        raise UserError(f"message {index} is {type(message).__name__}, not an object")
    role = message.get("role")
    if role not in ROLES:
        raise UserError(f"message {index} has role {role!r}, not one of {', '.join(ROLES)}")
    return role
