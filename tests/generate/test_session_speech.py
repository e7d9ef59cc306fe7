"""A session that speaks: sound as the text comes, tool calls unspoken, interruptions."""

import sys
from pathlib import Path

import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.generate.session import AudioChunk, Session, TextDelta, ToolCall, TurnEnd
from omnijax.text import ChatStyle
from omnijax.text.tools import ToolCall as Call
from omnijax.text.tools import render_call

sys.path.insert(0, str(Path(__file__).parent))
import tiny_speaker as tiny  # noqa: E402
from test_session import PROCESSOR, TOKENIZER, TOOLS, Dictated, model  # noqa: E402, F401

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
        events.append(event)
        kinds.append(type(event))
        if sum(kind is AudioChunk for kind in kinds) > 8:
            break  # the untrained Talker never ends
    assert kinds.index(AudioChunk) < len(kinds) - 1 - kinds[::-1].index(TextDelta)
    assert ToolCall in kinds
    times = [event.seconds for event in events if type(event) is not TurnEnd]
    assert times == sorted(times)
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


def interrupted(talk, chunks=3):
    """(the answer after so many packets, still open, what was said by then)."""
    answer = talk.respond(96)
    for event in answer:
        chunks -= isinstance(event, AudioChunk)
        if not chunks:
            return answer, talk.speech.said.strip()
    raise AssertionError("the answer ended before it was interrupted")


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
