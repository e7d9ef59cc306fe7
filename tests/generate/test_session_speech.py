"""A session that speaks: sound as the text comes, tool calls unspoken, interruptions."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from omnijax.data.codes import ThinkerStream, fingerprint_of
from omnijax.errors import UserError
from omnijax.generate.prompts import collate_prompts
from omnijax.generate.session import AudioChunk, Session, TextDelta, ToolCall
from omnijax.generate.speaker import Speaker
from omnijax.models.codec import Codec
from omnijax.models.talker import Talker
from omnijax.models.talker.context import context_of
from omnijax.models.thinker import Thinker
from omnijax.text import ChatStyle, render
from omnijax.text.chat import ChatState
from omnijax.text.tools import ToolCall as Call
from omnijax.text.tools import render_call

sys.path.insert(0, str(Path(__file__).parent))
import tiny_speaker as tiny  # noqa: E402
from test_session import (  # noqa: E402, F401
    AUDIO,
    IMAGE,
    PROCESSOR,
    TOKENIZER,
    TOOLS,
    Dictated,
    model,
)

pytestmark = pytest.mark.usefixtures("quick_compile")
END = "<|im_end|>"
ANSWER = "the red circle is left of the blue cross and the bell rings twice"


@pytest.fixture(scope="module")
def speaker():
    return tiny.speaker(pace={"": 1.0})


def session(model, speaker, *texts, **options):  # noqa: F811
    return Session(
        Dictated(model, *texts), TOKENIZER, PROCESSOR, speaker=speaker, tools=TOOLS, **options
    )


def test_the_answer_is_spoken_while_it_is_written_and_its_calls_are_not(model, speaker):  # noqa: F811
    call = render_call(Call("play", {"times": 2}))
    talk = session(model, speaker, ANSWER + call + END)
    talk.push(text="hi")
    events, kinds = [], []
    for event in talk.respond(96):
        assert not events or event.seconds >= events[-1].seconds
        events.append(event)
        kinds.append(type(event))
        if sum(kind is AudioChunk for kind in kinds) > 8:
            break  # the untrained Talker never ends
        if type(event) is AudioChunk:
            assert ("tool_calls" in talk.messages[-1]) == (ToolCall in kinds)
    assert kinds.index(AudioChunk) < len(kinds) - 1 - kinds[::-1].index(TextDelta)
    assert ToolCall in kinds
    assert all(e.sample_rate == 24_000 and len(e.samples) for e in events if type(e) is AudioChunk)
    alone = speaker.start(speaker.voice())
    alone.push(ANSWER, last=True)
    count = sum(map(len, talk.speech.codes))
    for _ in alone.packets():
        if sum(map(len, alone.codes)) >= count:
            break
    np.testing.assert_array_equal(
        np.concatenate(talk.speech.codes)[:count], np.concatenate(alone.codes)[:count]
    )


def test_an_answer_whose_call_was_not_handed_out_is_cut_as_any_other(model, speaker):  # noqa: F811
    call = render_call(Call("play", {"times": 2}))
    for until, whole in ((TextDelta, False), (ToolCall, True)):
        generator = Dictated(model, ANSWER + call + END, block=96)  # both in one block
        talk = Session(generator, TOKENIZER, PROCESSOR, speaker=speaker, tools=TOOLS)
        talk.push(text="hi")
        for event in talk.respond(96):
            if isinstance(event, until):
                break
        if not whole:
            with pytest.raises(UserError, match="no tool call waits for a result"):
                talk.push(tool_result="done")
        talk.push(text="stop", heard=0)
        message = talk.messages[-1]
        assert message["content"] == (ANSWER if whole else "")
        assert ("tool_calls" in message) == whole


def test_a_push_stops_the_speech_and_what_was_said_stays_in_the_history(model, speaker):  # noqa: F811
    talk = session(model, speaker, ANSWER + END, "yes" + END)
    talk.push(text="hi")
    heard = 0
    answer = talk.respond(96)
    for event in answer:
        heard += isinstance(event, AudioChunk)
        if heard == 3:
            break
    said = talk.speech.said.strip()
    assert said and ANSWER.startswith(said) and said != ANSWER
    talk.push(text="stop")
    assert not any(isinstance(event, AudioChunk) for event in answer)  # within one packet
    assert talk.messages[-1] == {"role": "assistant", "content": said}

    # The Thinker goes on as if it had said just that.
    other = Session(Dictated(model, said), TOKENIZER, PROCESSOR, tools=TOOLS)
    other.push(text="hi")
    for _ in other.respond(len(TOKENIZER.encode(said))):
        pass
    other.push(text="stop")
    talk.respond(1), other.respond(1)
    np.testing.assert_allclose(talk._rows.logits, other._rows.logits, atol=1e-4)
    assert int(talk._rows.cache.length[0]) == int(other._rows.cache.length[0])


@pytest.mark.parametrize("over", [False, True])
def test_of_sound_that_was_not_played_yet_the_words_are_not_in_the_history(model, over):  # noqa: F811
    talk = session(model, tiny.speaker(pace={"": 4.0}), ANSWER + END, "yes" + END)
    talk.push(text="hi")
    played = 12 * 48 / 24_000  # frames of the tiny codec
    sound, words = 0.0, ""
    for event in talk.respond(96):
        if isinstance(event, AudioChunk):
            sound += len(event.samples) / event.sample_rate
            words = talk.speech.said.strip() if sound <= played + 1e-6 else words
        if sound > 2 * played and not over:
            break
    assert words and words != talk.speech.said.strip()
    for heard in (-1.0, float("nan")):
        with pytest.raises(UserError, match="heard is .*: it must be seconds"):
            talk.push(text="stop", heard=heard)
    talk.push(text="stop", heard=played)
    assert talk.messages[-1] == {"role": "assistant", "content": words}
    talk.push(image=IMAGE, heard=0)  # the answer has ended
    assert talk.messages[-1]["content"] == words
    used = int(talk._rows.cache.length[0])
    asked = {"messages": talk.messages[:1], "tools": TOOLS}
    prompt = render(asked, TOKENIZER, PROCESSOR, add_generation_prompt=True)
    assert used == len(prompt.tokens) + len(TOKENIZER.encode(words))


def test_an_answer_that_was_heard_to_its_end_or_of_which_nothing_is_told_stays_whole(model):  # noqa: F811
    for heard in (None, 60):
        talk = session(model, tiny.speaker(), "two bells" + END)
        talk.push(text="hi")
        list(talk.respond(96))
        talk.push(text="and?", heard=heard)
        assert talk.messages[-1] == {"role": "assistant", "content": "two bells"}
    silent = Session(Dictated(model), TOKENIZER, PROCESSOR)
    with pytest.raises(UserError, match="heard is 1: nobody speaks"):
        silent.push(text="hi", heard=1)


def listener(model, **options):  # noqa: F811
    """A speaker whose Talker reads the user's turn."""
    talker = dataclasses.replace(tiny.TALKER, thinker_width=model[0].config.decoder.width)
    shape = (talker.thinker_width, talker.decoder.width)
    heard = {"w": jax.random.normal(jax.random.key(5), shape)}
    mark = fingerprint_of(model[1])
    return Speaker(
        Talker(talker), tiny.params() | {"hidden_projection": heard},
        Codec(tiny.tiny_codec.config()), tiny.codec_params(), TOKENIZER, tiny.VOICES,
        dataclasses.replace(tiny.GREEDY, context=True),
        **{"max_len": 256, "thinker": ThinkerStream(mark, talker.accept_hidden_layer)} | options,
    )  # fmt: skip


def test_the_talker_reads_the_user_s_turn_as_the_thinker_has_read_it(model):  # noqa: F811
    voice = listener(model)
    talk = session(model, voice, "yes" + END, ANSWER + END, system="be brief")
    talk.push(text="hi")
    list(talk.respond(8))
    talk.push(image=IMAGE, audio=AUDIO, text="what is it?")
    interrupted(talk, chunks=4)
    said = np.concatenate(talk.speech.codes)

    # The conversation at once through the Thinker without a cache, then the Talker alone.
    chat = {"messages": talk.messages[:-1], "tools": TOOLS}
    row = render(chat, TOKENIZER, PROCESSOR, add_generation_prompt=True)
    config = model[0].config
    layer = voice.talker.config.accept_hidden_layer
    decoder = dataclasses.replace(config.decoder, accept_hidden_layer=layer)
    run = jax.jit(Thinker(dataclasses.replace(config, decoder=decoder)).apply)
    stream = run({"params": model[1]}, collate_prompts([row], PROCESSOR)).aux.hidden[0]
    stream = np.asarray(stream)[: len(row.tokens)]
    turn = context_of(TOKENIZER, config.media_ids, row.tokens, row.positions, stream)
    assert turn.media.sum() > 4 and "brief" not in TOKENIZER.decode(turn.tokens.tolist())

    def alone(context):
        speech = voice.start(voice.voice(), context=context)
        speech.push(ANSWER, last=True)
        for _ in speech.packets():
            if sum(map(len, speech.codes)) >= len(said):
                return np.concatenate(speech.codes)[: len(said)]

    np.testing.assert_array_equal(alone(turn), said)
    (whole,) = voice.say_codes([ANSWER], [voice.voice()], contexts=[turn], whole=False)
    np.testing.assert_array_equal(whole[: len(said)], said)
    unseen = turn._replace(hidden=-turn.hidden)
    assert not np.array_equal(alone(unseen), said)  # what was seen and heard matters


def test_a_turn_that_the_talker_cannot_read_is_refused_before_anything_is(model):  # noqa: F811
    talk = session(model, listener(model, max_len=48), ANSWER + END)
    talk.push(image=IMAGE, text="what is left of the red circle, and what is right of it?")
    with pytest.raises(UserError, match=r"user's turn.* has \d+ positions .*, the limit .* is 48"):
        talk.respond()
    assert int(talk._rows.cache.length[0]) == 0 and talk._chat == ChatState()
    talk.drop()
    talk.push(text="hi")
    assert any(isinstance(event, AudioChunk) for event in talk.respond(16))


def test_the_stream_of_another_thinker_is_refused(model):  # noqa: F811
    other = ThinkerStream("of another", 2)
    with pytest.raises(UserError, match="learned to read the stream of Thinker of another, this"):
        session(model, listener(model, thinker=other), ANSWER + END)
    with pytest.raises(UserError, match="has learned to read no Thinker's"):
        listener(model, thinker=None)
    with pytest.raises(UserError, match="after 3 layers, accept_hidden_layer is 2"):
        listener(model, thinker=ThinkerStream("any", 3))


def interrupted(talk, chunks=3):
    """(the answer after so many packets, still open, what was said by then)."""
    answer = talk.respond(96)
    for event in answer:
        chunks -= isinstance(event, AudioChunk)
        if not chunks:
            return answer, talk.speech.said.strip()
    raise AssertionError("the answer ended before it was interrupted")


def test_a_turn_that_was_interrupted_before_its_answer_is_not_read_twice(model, monkeypatch):  # noqa: F811
    voice = tiny.speaker()
    talk = session(model, voice, "yes" + END)
    talk.push(text="hi")

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(voice, "start", interrupted)
        talk.respond()
    assert talk.unread and not talk.messages and talk._chat == ChatState()
    talk.respond()
    rendered = render(
        {"messages": talk.messages[:-1], "tools": TOOLS}, TOKENIZER, PROCESSOR,
        add_generation_prompt=True,
    )  # fmt: skip
    assert int(talk._rows.cache.length[0]) == len(rendered.tokens)


def test_a_push_that_is_refused_leaves_the_answer_running(model, speaker):  # noqa: F811
    talk = session(model, speaker, ANSWER + END)
    talk.push(text="hi")
    answer, _ = interrupted(talk)
    before = [dict(message) for message in talk.messages]
    with pytest.raises(UserError, match="no tool call waits for a result"):
        talk.push(tool_result="3")
    assert talk.messages == before
    assert isinstance(next(answer), AudioChunk | TextDelta)


def test_what_was_said_stands_behind_the_thought_when_an_answer_is_interrupted(model, speaker):  # noqa: F811
    thought = "let me see</think>\n\n"
    style = ChatStyle(thinking="on", keep_thinking=True)
    talk = session(model, speaker, thought + ANSWER + END, "yes" + END, style=style)
    talk.push(text="hi")
    _, said = interrupted(talk)
    assert said and ANSWER.startswith(said)
    talk.push(text="stop")
    assert talk.messages[-1] == {"role": "assistant", "content": thought + said}
    other = Session(Dictated(model, thought + said), TOKENIZER, PROCESSOR, tools=TOOLS, style=style)
    other.push(text="hi")
    for _ in other.respond(len(TOKENIZER.encode(thought)) + len(TOKENIZER.encode(said))):
        pass
    other.push(text="stop")
    talk.respond(1), other.respond(1)
    np.testing.assert_allclose(talk._rows.logits, other._rows.logits, atol=1e-4)


def test_speech_that_runs_away_or_does_not_fit_ends_and_the_text_goes_on(model, speaker):  # noqa: F811
    talk = session(model, speaker, "two bells" + END, ANSWER + " " + ANSWER + END)
    talk.push(text="hi")
    *_, end = talk.respond(96)
    tokens = len(TOKENIZER.encode("two bells")) + 1  # and the mark of the text's end
    assert end.speech == "length" and end.reason == "stop"
    assert sum(map(len, talk.speech.codes)) == 12 * tokens
    short = tiny.speaker(pace={"": 1.0}, max_len=40)
    talk = session(model, short, ANSWER + " " + ANSWER + END)
    talk.push(text="hi")
    *_, end = talk.respond(96)
    assert end.speech == "length" and talk.messages[-1]["content"] == ANSWER + " " + ANSWER


def test_of_text_that_does_not_fit_what_came_before_is_spoken():
    speech = tiny.speaker(max_len=64).start(tiny.speaker().voice())
    speech.push("two bells ring ")
    speech.push(" ".join([ANSWER] * 4))
    assert not speech.done and len(tiny.drained(speech))
    assert speech.reason == "length" and speech.done
    speech.push("and more", last=True)  # changes nothing
    assert speech.reason == "length"


def test_of_text_that_never_fits_nothing_is_spoken_and_nothing_counts_as_said():
    speech = tiny.speaker(max_len=64).start(tiny.speaker().voice())
    speech.push(" ".join([ANSWER] * 4), last=True)
    assert speech.done and speech.reason == "length"
    assert not len(tiny.drained(speech)) and not speech.said
    speech = tiny.speaker(max_len=64).start(tiny.speaker().voice())
    speech.push("two bells a ")
    speech.push(" ".join([ANSWER] * 4), last=True)
    assert len(tiny.drained(speech)) and speech.reason == "length"
    assert speech.said == "two bells"  # and not " a", which is one token as the mark of the end is
