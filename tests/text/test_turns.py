import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.errors import UserError
from omnijax.media import Audio, Video, nano_processor
from omnijax.text import (
    ChatState,
    ChatStyle,
    nano_tokenizer,
    qwen3_5_style,
    qwen3_omni_style,
    render,
    render_turn,
)

TOKENIZER, PROCESSOR = nano_tokenizer(), nano_processor()
SOUND = Audio(np.sin(np.arange(16_000) / 9).astype(np.float32), 16_000)
ITEMS = st.sampled_from(
    [
        {"type": "text", "text": "what is <|im_end|> it? "},
        {"type": "text", "text": "\n12 "},
        {"type": "image", "image": np.zeros((40, 64, 3), np.uint8)},
        {"type": "audio", "audio": SOUND},
        {
            "type": "video",
            "video": Video(np.zeros((3, 32, 32, 3), np.uint8), np.arange(3) / 4, SOUND),
        },
    ]
)
USER = st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(ITEMS, max_size=3)})
CALL = {"name": "set_lamp", "arguments": {"colour": "red"}}
REPLIES = st.sampled_from(
    [
        [{"role": "assistant", "content": "a red circle"}],
        [{"role": "assistant", "content": "2", "reasoning_content": "one and one"}],
        [
            {"role": "assistant", "content": "yes", "tool_calls": [CALL, CALL]},
            {"role": "tool", "content": "ok"},
            {"role": "tool", "content": [{"type": "text", "text": "done"}]},
            {"role": "assistant", "content": "it is red"},
        ],
    ]
)
CHATS = st.lists(st.tuples(USER, REPLIES), min_size=1, max_size=3).map(
    lambda turns: [message for user, reply in turns for message in (user, *reply)]
)
STYLES = st.sampled_from(
    [ChatStyle(), qwen3_omni_style(), ChatStyle(thinking="on", keep_thinking=True),
     ChatStyle(thinking="off", keep_thinking=True)]
)  # fmt: skip
TOOLS = [{"name": "set_lamp"}]


def join(parts):
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def same(parts, whole, but=()):
    for name, a, b in zip(whole._fields, join(parts), whole, strict=True):
        if name not in but:
            np.testing.assert_array_equal(a, b, err_msg=name)


@given(CHATS, STYLES, st.data())
@settings(max_examples=40, deadline=None)
def test_turns_rendered_one_after_another_are_the_whole(messages, style, data):
    whole = render(
        {"messages": messages, "tools": TOOLS}, TOKENIZER, PROCESSOR, style=style, window_chunks=1
    )
    state, parts, start = ChatState(), [], 0
    while start < len(messages):
        end = data.draw(st.integers(start + 1, len(messages)))
        while end < len(messages) and messages[end]["role"] == messages[end - 1]["role"] == "tool":
            end += 1
        part, state = render_turn(
            messages[start:end],
            TOKENIZER,
            PROCESSOR,
            state,
            tools=TOOLS if start == 0 else None,
            add_generation_prompt=False,
            style=style,
            window_chunks=1,
        )
        parts.append(part)
        start = end
    same(parts, whole)


@given(CHATS, STYLES, st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_session_that_generates_its_replies_reads_what_the_whole_would_have(
    messages, style, sees_end
):
    """Replies come as tokens, with or without the closing token in the cache."""
    whole = render({"messages": messages, "tools": TOOLS}, TOKENIZER, PROCESSOR, style=style)
    state, tokens, positions, start = ChatState(), [], [], 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        part, state = render_turn(
            messages[start:index],
            TOKENIZER,
            PROCESSOR,
            state,
            tools=TOOLS if start == 0 else None,
            style=style,
        )
        tokens += part.tokens.tolist()
        positions.append(part.positions)
        # What the model would say: the whole's tokens that bear loss.
        rest = whole.loss_mask[len(tokens) :]
        length = int(np.argmin(rest)) - (not sees_end)
        reply = whole.tokens[len(tokens) : len(tokens) + length].tolist()
        before, state = state, state.after_reply(reply, TOKENIZER)
        tokens += reply
        positions.append(before.positions.text(len(reply))[1])
        start = index + 1
    np.testing.assert_array_equal(tokens, whole.tokens[: len(tokens)])
    np.testing.assert_array_equal(np.concatenate(positions), whole.positions[: len(tokens)])
    assert len(whole.tokens) - len(tokens) == (1 if sees_end else 2)


@given(CHATS)
@settings(max_examples=20, deadline=None)
def test_the_loss_falls_on_what_is_generated_after_the_prompt(messages):
    """A training example's targets begin exactly where the generation prompt ends."""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(
            {"messages": messages[:index]}, TOKENIZER, PROCESSOR, add_generation_prompt=True
        )
        whole = render({"messages": messages[: index + 1]}, TOKENIZER, PROCESSOR)
        length = len(prompt.tokens)
        np.testing.assert_array_equal(whole.tokens[:length], prompt.tokens)
        assert whole.loss_mask[length:-1].all() and not whole.loss_mask[-1]


def test_a_stopped_reply_is_closed_before_the_next_turn():
    hello = [{"role": "user", "content": "hi"}]
    _, state = render_turn(hello, TOKENIZER, PROCESSOR, ChatState())
    state = state.after_reply(TOKENIZER.encode("so far"), TOKENIZER)
    part, _ = render_turn(hello, TOKENIZER, PROCESSOR, state)
    assert TOKENIZER.decode(part.tokens) == (
        "<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not part.loss_mask.any()


def test_calls_in_a_generated_reply_may_be_answered_and_others_not():
    hello = [{"role": "user", "content": "hi"}]
    _, state = render_turn(hello, TOKENIZER, PROCESSOR, ChatState())
    result = [{"role": "tool", "content": "ok"}]
    with pytest.raises(UserError, match="message 2 is a tool result without a call"):
        render_turn(
            result, TOKENIZER, PROCESSOR, state.after_reply(TOKENIZER.encode("no"), TOKENIZER)
        )
    call = TOKENIZER.encode("<tool_call>\n<function=a>\n</function>\n</tool_call><|im_end|>")
    _, after = render_turn(result, TOKENIZER, PROCESSOR, state.after_reply(call, TOKENIZER))
    assert after.open_calls == 0


def test_what_would_rewrite_a_rendered_history_is_refused():
    hello = [{"role": "user", "content": "hi"}]
    _, state = render_turn(hello, TOKENIZER, PROCESSOR, ChatState())
    with pytest.raises(UserError, match="set keep_thinking"):
        render_turn(hello, TOKENIZER, PROCESSOR, state, style=qwen3_5_style())
    with pytest.raises(UserError, match="tools are offered in the first turn"):
        render_turn(hello, TOKENIZER, PROCESSOR, state, tools=TOOLS)
    with pytest.raises(UserError, match="the system message must be the first"):
        render_turn([{"role": "system", "content": "x"}], TOKENIZER, PROCESSOR, state)
    calls = [*hello, {"role": "assistant", "tool_calls": [CALL, CALL]}]
    result = [{"role": "tool", "content": "ok"}]
    _, state = render_turn(
        calls + result, TOKENIZER, PROCESSOR, ChatState(), add_generation_prompt=False
    )
    with pytest.raises(UserError, match="must be rendered together"):
        render_turn(result, TOKENIZER, PROCESSOR, state)
