import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.generate.prompts import collate_prompts
from omnijax.generate.session import Session, TextDelta, ToolCall, TurnEnd
from omnijax.generate.text import TextGenerator
from omnijax.media import (
    Audio,
    ProcessorConfig,
    Video,
    load_video,
    video_arrays,
    write_video,
)
from omnijax.models import presets
from omnijax.models.thinker import Thinker, text_inputs
from omnijax.text import ChatStyle, nano_tokenizer, qwen3_5_style, render
from omnijax.text.tools import ToolCall as Call
from omnijax.text.tools import render_call

pytestmark = pytest.mark.usefixtures("quick_compile")

TOKENIZER = nano_tokenizer()
PROCESSOR = ProcessorConfig(
    mel_bins=16, audio_chunk_frames=32, audio_window_chunks=2, patch_size=2, min_pixels=16,
    max_pixels=64, min_side=4, video_fps=4.0,
)  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "play",
            "parameters": {"properties": {"times": {"type": "integer"}}},
        },
    }
]
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
AUDIO = Audio(np.sin(np.arange(12_000) / 9).astype(np.float32) / 2, 16_000)
STRIP = np.zeros((8, 4000, 3), np.uint8)
VIDEO = Video(np.stack([IMAGE] * 4), np.arange(4) / 4, AUDIO)


@pytest.fixture(scope="module")
def model():
    config = dataclasses.replace(
        presets.tiny(),
        vocab_size=TOKENIZER.vocab_size,
        audio_token_id=TOKENIZER.special("audio_pad"),
        image_token_id=TOKENIZER.special("image_pad"),
        video_token_id=TOKENIZER.special("video_pad"),
    )
    thinker = Thinker(config)
    init = jax.jit(lambda key: thinker.init(key, text_inputs(jnp.zeros((1, 4), jnp.int32))))
    params = init(jax.random.key(0))["params"]
    # Sharper logits than at initialisation, so that no two are near a tie.
    params["lm_head"] = jax.tree.map(lambda w: 20 * w, params["lm_head"])
    return thinker, params


class Dictated(TextGenerator):
    """Says what is dictated, token by token through its real cache; then what it likes."""

    def __init__(self, model, *texts, block=4):
        stops = (TOKENIZER.special("im_end"), TOKENIZER.special("endoftext"))
        super().__init__(*model, stop_ids=stops, max_len=384, prefill_chunk=128, block=block)
        self.script = [TOKENIZER.encode(text) for text in texts]
        self.produced: list[int] = []

    def decode(self, state, max_new_tokens=128, on_tokens=None):
        said: list[int] = []
        while self.script and len(said) < max_new_tokens:
            forced = np.zeros((1, TOKENIZER.vocab_size), np.float32)
            forced[0, self.script[0].pop(0)] = 1e9
            state, ((new,),) = super().decode(state._replace(logits=forced), 1)
            said.append(new)
            if not self.script[0]:
                del self.script[0]
                break
        if not said:
            state, (said,) = super().decode(state, max_new_tokens)
        self.produced += said
        return state, [said]


def start(model, *texts, block=4, **options):
    generator = Dictated(model, *texts, block=block)
    return generator, Session(generator, TOKENIZER, PROCESSOR, **options)


def shown(events) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def assert_as_at_once(generator, session, tokens, tools=()):
    """The last answer began with the tokens that the whole conversation gives in one rendering."""
    chat = {"messages": session.messages[:-1], "tools": list(tools)}
    rendered = render(chat, TOKENIZER, PROCESSOR, add_generation_prompt=True)
    inputs = collate_prompts([rendered], PROCESSOR)
    state = generator.prefill(generator.start(1), inputs)
    _, (whole,) = TextGenerator.decode(generator, state, len(tokens))
    assert whole == tokens and len(tokens) >= 4


def test_events_stream_in_order_and_their_text_is_the_answer(model):
    _, session = start(model, "The red circle jumps.<|im_end|>")
    session.push(text="what happens?")
    events = list(session.respond())
    assert [type(event) for event in events[:-1]] == [TextDelta] * (len(events) - 1)
    assert len(events) > 2 and shown(events) == "The red circle jumps."
    end = events[-1]
    assert isinstance(end, TurnEnd) and end[:2] == ("stop", "The red circle jumps.")
    assert end.tokens == len(TOKENIZER.encode("The red circle jumps.<|im_end|>"))
    assert sorted(event.seconds for event in events) == [event.seconds for event in events]
    assert [message["role"] for message in session.messages] == ["user", "assistant"]


def test_an_answer_of_the_whole_length_says_so(model):
    generator, session = start(model)
    session.push(text="what happens?")
    end = list(session.respond(6))[-1]
    assert (end.reason, end.tokens) == ("length", 6) and len(generator.produced) == 6


def test_a_second_turn_with_picture_and_sound_is_answered_as_the_whole_rendered_at_once(model):
    generator, session = start(model, "A red circle.<|im_end|>", system="Be brief.")
    session.push(text="what is it?")
    list(session.respond())
    generator.produced.clear()
    session.push(image=IMAGE, audio=AUDIO, text="and now?")
    list(session.respond(10))
    assert_as_at_once(generator, session, generator.produced)
    roles = [message["role"] for message in session.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_a_clip_then_a_picture_keep_their_windows_frames_and_positions_apart(model):
    generator, session = start(model, "A bell.<|im_end|>")
    session.push(video=VIDEO)
    list(session.respond())
    generator.produced.clear()
    session.push({"type": "text", "text": "before"}, image=IMAGE, audio=AUDIO)
    list(session.respond(10))
    assert_as_at_once(generator, session, generator.produced)


def test_a_tool_call_is_an_event_and_never_text_and_its_result_goes_back(model):
    call = render_call(Call("play", {"times": 3}))
    generator, session = start(model, f"Sure.\n\n{call}<|im_end|>", tools=TOOLS)
    session.push(text="play it three times")
    events = list(session.respond())
    assert [e[:2] for e in events if isinstance(e, ToolCall)] == [("play", {"times": 3})]
    assert shown(events) == "Sure."
    assert events[-1].text == f"Sure.\n\n{call}"
    generator.produced.clear()
    session.push(tool_result="done", text="and?")
    list(session.respond(8))
    roles = [message["role"] for message in session.messages]
    assert roles == ["user", "assistant", "tool", "user", "assistant"]
    assert_as_at_once(generator, session, generator.produced, TOOLS)


def test_a_result_behind_what_the_user_said_is_told_to_come_first_and_drop_mends_it(model):
    call = render_call(Call("play", {"times": 3}))
    _, session = start(model, f"{call}<|im_end|>", "Good.<|im_end|>", tools=TOOLS)
    session.push(text="play it")
    list(session.respond())
    session.push(text="and?")
    with pytest.raises(UserError, match=r"result comes before what the user says.*drop\(\)"):
        session.push(tool_result="done")
    session.drop()
    session.push(tool_result="done", text="and?")
    with pytest.raises(UserError, match="no tool call waits"):  # it has its result
        session.push(tool_result="done")
    assert shown(session.respond()) == "Good."


def test_a_thought_is_not_shown(model):
    _, session = start(
        model,
        "hm, red\n</think>\n\nA red one.<|im_end|>",
        style=ChatStyle(thinking="on", keep_thinking=True),
    )
    session.push(text="which?")
    assert shown(session.respond()) == "A red one."


def test_a_style_that_drops_thoughts_is_refused_before_the_first_turn(model):
    for thinking in (True, False):
        with pytest.raises(UserError, match="drops past thoughts.*: set keep_thinking"):
            start(model, style=qwen3_5_style(thinking=thinking))


def test_a_call_inside_a_thought_is_no_call_anywhere(model):
    call = render_call(Call("play", {"times": 3}))
    thought = f"<think>\nperhaps {call}\n</think>\n\n"
    generator, session = start(model, f"{thought}No.<|im_end|>", tools=TOOLS)
    session.push(text="play?")
    events = list(session.respond())
    assert [type(event) for event in events if not isinstance(event, TextDelta)] == [TurnEnd]
    assert session.messages[-1] == {"role": "assistant", "content": f"{thought}No."}
    with pytest.raises(UserError, match="no tool call waits"):
        session.push(tool_result="done")
    _, session = start(model, f"{thought}Yes. {call}<|im_end|>", tools=TOOLS)
    session.push(text="play?")
    list(session.respond())
    assert session.messages[-1]["content"] == f"{thought}Yes."
    assert len(session.messages[-1]["tool_calls"]) == 1
    session.push(tool_result="done")
    with pytest.raises(UserError, match="no tool call waits"):
        session.push(tool_result="done")


def test_a_refused_result_does_not_end_the_answer_that_is_running(model):
    _, session = start(model, "The red circle jumps with a bell.<|im_end|>")
    session.push(text="what happens?")
    events = session.respond()
    heard = [next(events)]
    with pytest.raises(UserError, match="no tool call waits"):
        session.push(tool_result="3", text="stop")
    assert shown([*heard, *events]) == "The red circle jumps with a bell."
    assert not session.unread


def test_of_a_clip_only_the_frames_are_read_that_the_model_is_shown(model, tmp_path):
    frames = np.random.default_rng(1).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", Video(frames, np.arange(48) / 24))
    _, session = start(model)
    path = str(tmp_path / "a.mp4")
    session.push({"type": "video", "video": path, "fps": 2}, video=path)
    sparse, named = (item["video"] for item in session.unread[0]["content"])
    assert (len(sparse.frames), len(named.frames)) == (4, 8)
    for video, fps in ((sparse, 2), (named, None)):
        whole = video_arrays(load_video(path), PROCESSOR, fps)
        np.testing.assert_array_equal(video_arrays(video, PROCESSOR, fps).patches, whole.patches)


def test_blanks_and_what_cannot_be_heard_do_not_end_the_answer_that_is_running(model):
    _, session = start(model, "The red circle jumps with a bell.<|im_end|>")
    session.push(text="what happens?")
    events = session.respond()
    heard = [next(events)]
    for item in (
        {"type": "text", "text": " "},
        {"type": "audio", "audio": Audio(AUDIO.samples[:9], 16_000)},
    ):
        with pytest.raises(UserError, match="nothing was pushed|9 samples"):
            session.push(item)
    assert shown([*heard, *events]) == "The red circle jumps with a bell."


def test_an_incomplete_character_is_never_shown(model):
    text = "ça 🙂 là"
    tokens = TOKENIZER.encode(text)
    assert len(TOKENIZER.encode("🙂")) == 4
    _, session = start(model, text + "<|im_end|>", block=1)
    session.push(text="smile")
    deltas = [event.text for event in session.respond() if isinstance(event, TextDelta)]
    assert "".join(deltas) == text and not any("\ufffd" in delta for delta in deltas)
    _, session = start(model, text + "<|im_end|>", block=1)
    session.push(text="smile")
    cut = next(n for n in range(len(tokens)) if "\ufffd" in TOKENIZER.decode(tokens[: n + 2])) + 2
    assert shown(session.respond(cut)) == "ça"


@pytest.mark.parametrize("heard", [0, 1, 2])
def test_a_caller_who_stops_listening_leaves_a_session_that_goes_on_from_what_was_said(
    model, heard
):
    answer = "The red circle jumps with a bell."
    generator, session = start(model, answer + "<|im_end|>")
    session.push(text="what happens?")
    events = session.respond()
    for _ in range(heard):
        next(events)
    said = TOKENIZER.decode(generator.produced)
    assert answer.startswith(said) and bool(said) == bool(heard)
    session.push(text="stop. and now?")
    assert list(events) == []  # What was running has ended.
    assert session.messages[-1]["content"] == said
    generator.script.clear()
    generator.produced.clear()
    list(session.respond(8))
    assert session.messages[-3]["content"] == said
    assert_as_at_once(generator, session, generator.produced)


@pytest.mark.parametrize("call", ["prefill", "decode"])
def test_an_interrupt_that_takes_the_rows_with_it_leaves_a_session_that_goes_on(
    model, monkeypatch, call
):
    generator, session = start(model, "A red circle.<|im_end|>", "It jumps.<|im_end|>")
    session.push(text="what is it?")
    list(session.respond())
    session.push(image=IMAGE, text="and now?")
    events = iter(())

    def interrupted(*args):
        getattr(Dictated, call)(generator, *args)  # the rows' buffers are gone
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if call == "decode":
            events = session.respond()
            next(events)
        patch.setattr(generator, call, interrupted)
        list(events) or session.respond()
    if call == "decode":
        session.push(text="go on")
    generator.script.clear()
    generator.produced.clear()
    list(session.respond(8))
    roles = ["user", "assistant"] * (3 if call == "decode" else 2)
    assert [message["role"] for message in session.messages] == roles
    assert_as_at_once(generator, session, generator.produced)


def test_drop_takes_back_what_was_pushed_and_only_that(model):
    _, session = start(model, "Yes.<|im_end|>", system="Be brief.")
    session.push(text="never mind")
    session.push(image=IMAGE)
    session.drop()
    with pytest.raises(UserError, match="nothing to answer"):
        session.respond()
    session.push(text="is it red?")
    assert shown(session.respond()) == "Yes."
    assert [m["content"] for m in session.messages] == [
        "Be brief.", [{"type": "text", "text": "is it red?"}], "Yes.",
    ]  # fmt: skip
    session.push(text="more")
    session.drop()
    assert len(session.messages) == 3


def test_what_cannot_be_read_leaves_the_conversation_as_it_was(model, tmp_path):
    _, session = start(model, "Yes.<|im_end|>")
    session.push(text="look")
    nan = Audio(np.array([0, np.nan], np.float32), 16_000)
    for bad, message in (
        ({"image": tmp_path / "none.png"}, "none.png: no such file"),
        ({"image": IMAGE, "audio": str(tmp_path / "none.wav")}, "none.wav: no such file"),
        ({"image": IMAGE[:1, :1]}, "1x1 pixels, each side must be at least 4"),
        ({"audio": nan}, "sample 1 is nan"),
        ({"audio": nan._replace(sample_rate=0)}, "sample rate is 0"),
        ({"video": Video(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0))}, "has no frames"),
        ({"tool_result": "3"}, "no tool call waits"),
        ({"audio": AUDIO._replace(samples=AUDIO.samples[:100])}, "100 samples, mel needs .* 160"),
        ({"audio": Audio(AUDIO.samples[:400], 48_000)}, "audio has 133 samples, mel needs .* 160"),
        (
            {"video": VIDEO._replace(audio=AUDIO._replace(samples=AUDIO.samples[:100]))},
            "sound track has 100 samples, mel needs at least one hop of 160",
        ),
        ({"image": STRIP}, "4000x8 pixels, an aspect ratio of 500, over the limit of 200"),
        ({"video": Video(STRIP[None], np.zeros(1))}, "video frame: is 4000x8 pixels, an aspect"),
        ({"text": ""}, "nothing was pushed"),
        ({"text": " \n "}, "nothing was pushed"),
        ({}, "nothing was pushed"),
    ):
        with pytest.raises(UserError, match=message):
            session.push(**bad)
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        session.respond(0)
    assert shown(session.respond()) == "Yes."
    assert session.messages[0]["content"] == [{"type": "text", "text": "look"}]


def test_a_turn_that_does_not_fit_names_the_numbers_and_loses_nothing(model):
    _, session = start(model, "One.<|im_end|>", "Two.<|im_end|>")
    session.push(text="first")
    list(session.respond(8))
    used = len(TOKENIZER.encode("<|im_start|>user\nfirst<|im_end|>\n<|im_start|>assistant\nOne."))
    session.push(text="1 2 3 4 5 6 7 8 9 " * 30)
    message = rf"does not fit: \d+ tokens and an answer of up to 8, .* room for {384 - used - 1}$"
    with pytest.raises(UserError, match=message):
        session.respond(8)
    assert len(session.messages) == 2
    session.drop()
    session.push(text="second")
    assert shown(session.respond(8)) == "Two."
