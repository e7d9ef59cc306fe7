"""Speech in turn with text: late, early or all at once, each row its own length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.generate.sampling import SamplingConfig
from omnijax.generate.speech import SpeechConfig, SpeechGenerator
from omnijax.models.talker import Talker, presets, speech_inputs
from omnijax.models.talker.prompt import Marks, Voice, prompt_row

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = presets.tiny()
MODEL = Talker(CONFIG)
MARKS = Marks((1, 2, 3), (1, 4, 3), (5, 3))
FRAMES = np.arange(12).reshape(3, 4)
PROMPTS = [prompt_row(CONFIG, MARKS, voice=Voice((9,), FRAMES)), prompt_row(CONFIG, MARKS)]
TEXTS = [list(range(10, 20)), list(range(30, 35))]
GREEDY = {"sampling": SamplingConfig(), "residual_sampling": SamplingConfig()}
# Every id that is allowed is as likely as any other.
EVEN = {
    "sampling": SamplingConfig(temperature=1e9),
    "residual_sampling": SamplingConfig(temperature=1e9),
}


@functools.cache
def params():
    example = speech_inputs(jnp.zeros((1, 4, CONFIG.codebooks), jnp.int32))
    drawn = jax.jit(MODEL.init)(jax.random.key(3), example)["params"]
    # Far from ties, and no end: a mark's logit is zero, below the best of 16 codes.
    drawn["codec_head"]["w"] = 20 * drawn["codec_head"]["w"].at[:, CONFIG.codebook_size :].set(0)
    drawn["mtp"]["head"] = 20 * drawn["mtp"]["head"]
    return drawn


def generator(max_len=256, **options):
    config = SpeechConfig(**(GREEDY | options))
    return SpeechGenerator(MODEL, params(), config, max_len=max_len, prefill_chunk=16)


def drained(stream, most=60):
    """The rest of every row's frames, and what each had read before each packet."""
    rows, read = [[] for _ in stream.done], []
    for _ in range(most):
        if all(stream.done):
            return [np.array(row) for row in rows], read
        for row, frames in zip(rows, stream.step(), strict=True):
            row.extend(frames)
        read.append(stream.read)
    raise AssertionError("the stream does not end")


@functools.cache
def at_once():
    return generator()(PROMPTS, TEXTS, max_frames=22)


def test_four_text_tokens_and_four_frames_in_turn_then_freely():
    stream = generator().start(PROMPTS, max_frames=22)
    for row, text in enumerate(TEXTS):
        stream.push(text, row=row, last=True)
    rows, read = drained(stream)
    # Ten tokens and the mark of their end; five and theirs.
    assert read[:4] == [[4, 4], [8, 6], [11, 6], [11, 6]]
    for row, expected in zip(rows, at_once(), strict=True):
        np.testing.assert_array_equal(row, expected)
        assert ((row >= 0) & (row < CONFIG.codebook_size)).all() and row.shape[1] == 4


@pytest.mark.parametrize("sizes", [(1,) * 12, (3, 5, 2, 1)])
def test_late_text_changes_nothing_but_the_time(sizes):
    stream = generator().start(PROMPTS, max_frames=22)
    stream.push(TEXTS[1], row=1, last=True)
    rows, left, pushed = [[], []], list(TEXTS[0]), 0
    for size in sizes:
        for row, frames in zip(rows, stream.step(), strict=True):
            row.extend(frames)
        # What it has said stands on what it has read, and it has read whole chunks only.
        assert stream.read[0] <= pushed and stream.read[0] % 4 == 0
        assert len(rows[0]) == stream.read[0]
        part, left = left[:size], left[size:]
        pushed += len(part)
        stream.push(part, last=not left)
        if not left:
            break
    rest, _ = drained(stream)
    for row, more, expected in zip(rows, rest, at_once(), strict=True):
        np.testing.assert_array_equal(np.array([*row, *more]), expected)


def test_a_row_without_text_waits_and_says_nothing():
    stream = generator().start(PROMPTS)
    before = np.asarray(stream.state.hidden)
    assert stream.waiting == [True, True]
    assert [len(frames) for frames in stream.step()] == [0, 0]
    stream.push([7, 8, 9])
    assert [len(frames) for frames in stream.step()] == [0, 0] and stream.read == [0, 0]
    np.testing.assert_array_equal(stream.state.hidden, before)
    stream.push([10], row=0)
    assert stream.waiting == [False, True]
    assert [len(frames) for frames in stream.step()] == [4, 0]
    assert stream.waiting == [True, True]
    assert [len(frames) for frames in stream.step()] == [0, 0]


def test_packets_of_one_frame_are_the_same_speech():
    stream = generator().start(PROMPTS, max_frames=22)
    for row, text in enumerate(TEXTS):
        stream.push(text, row=row, last=True)
    rows = [[], []]
    while not all(stream.done):
        for row, frames in zip(rows, stream.step(1), strict=True):
            assert len(frames) <= 1
            row.extend(frames)
    for row, expected in zip(rows, at_once(), strict=True):
        np.testing.assert_array_equal(np.array(row), expected)


def test_a_turn_of_eight_frames_comes_in_packets_of_four_or_at_once():
    stream = generator(frame_chunk=8).start(PROMPTS, max_frames=22)
    for row, text in enumerate(TEXTS):
        stream.push(text, row=row, last=True)
    rows, read = drained(stream)
    assert read[:5] == [[4, 4], [4, 4], [8, 6], [8, 6], [11, 6]]
    at_once = generator(frame_chunk=8, packet=8)(PROMPTS, TEXTS, max_frames=22)
    for row, expected in zip(rows, at_once, strict=True):
        np.testing.assert_array_equal(row, expected)


def test_text_is_held_back_where_it_would_lead_by_more_than_it_may():
    def spoken_before(read, rows, **options):
        """Frames of the first row before each of its text chunks but the first."""
        stream = generator(**options).start(PROMPTS, max_frames=40, paces=rows)
        for row, text in enumerate(TEXTS):
            stream.push(text, row=row, last=True)
        frames, before = 0, {}
        while stream.read[0] < read:
            had = stream.read[0]
            made = len(stream.step()[0])
            if stream.read[0] > had:
                before[had] = frames
            frames += made
        return before

    # Ten tokens and the mark of their end. Of 8 read, 6 may be unsaid: two are, in 5 frames each.
    assert spoken_before(11, [5.0, 1.0], lead=6) == {0: 0, 4: 4, 8: 10}
    assert spoken_before(11, [5.0, 1.0], lead=2) == {0: 0, 4: 10, 8: 30}
    assert spoken_before(11, [1.0, 5.0], lead=6) == {0: 0, 4: 4, 8: 8}  # at its own pace
    assert spoken_before(11, [5.0, 1.0]) == {0: 0, 4: 4, 8: 8}  # no limit


def test_a_row_speaks_the_same_beside_a_silent_one():
    for row, (text, expected) in enumerate(zip(TEXTS, at_once(), strict=True)):
        stream = generator().start(PROMPTS, max_frames=22)
        stream.push(text, row=row, last=True)
        said = []
        while not stream.done[row]:
            frames = stream.step()
            said.extend(frames[row])
            assert not len(frames[1 - row])
        np.testing.assert_array_equal(np.array(said), expected)


@pytest.mark.parametrize("policy", ["chunked", "learned"])
def test_speech_ends_of_itself_but_never_while_text_remains(policy):
    speech = generator(policy=policy, frame_chunk=4, **EVEN)
    lengths = []
    for seed in range(4):
        stream = speech.start(PROMPTS, seed=seed)
        for row, text in enumerate(TEXTS):
            stream.push(text, row=row, last=True)
        rows, read = drained(stream, most=300)
        assert stream.reasons == ["stop", "stop"] and read[-1] == [11, 6]
        lengths += [len(row) for row in rows]
    assert len(set(lengths)) > 2


def test_a_learned_talker_reads_first_and_then_waits_for_what_it_asks_for():
    stream = generator(policy="learned", **EVEN).start(PROMPTS, seed=1)
    assert [len(frames) for frames in stream.step()] == [0, 0] and stream.waiting == [True, True]
    stream.push([7])
    for _ in range(200):
        stream.step()
        if stream.waiting[0]:
            break
    assert stream.waiting == [True, True] and stream.read == [1, 0]
    assert not len(stream.step()[0])  # it asked, and waits
    stream.push([8, 9], last=True)
    for _ in range(300):
        if stream.done[0]:
            break
        stream.step()
    assert stream.read[0] == 4 and stream.reasons[0] == "stop"


def test_a_learned_talker_that_never_asks_reads_on_all_the_same():
    stream = generator(policy="learned", longest_token=5).start(PROMPTS)  # greedy: no mark wins
    stream.push([7, 8, 9])
    said = 0
    while not stream.waiting[0]:
        said += len(stream.step()[0])
    assert said == 15 and stream.read == [3, 0] and not any(stream.done)


def test_sampling_repeats_with_its_seed_and_differs_with_another():
    speech = generator(frame_chunk=4, policy="chunked", **EVEN)
    draw = lambda seed: speech(PROMPTS, TEXTS, seed=seed, max_frames=8)  # noqa: E731
    same = [np.array_equal(a, b) for a, b in zip(draw(1), draw(1), strict=True)]
    other = [np.array_equal(a, b) for a, b in zip(draw(1), draw(2), strict=True)]
    assert all(same) and not any(other)


def test_guidance_goes_on_from_no_voice_beyond_the_voice_that_is_shown():
    rows = [PROMPTS[0], prompt_row(CONFIG, MARKS, voice=Voice((), 2 + FRAMES))]
    plain = [prompt_row(CONFIG, MARKS, voice=Voice())] * 2
    said = {
        guidance: generator(guidance=guidance)(rows, TEXTS, unshown=plain, max_frames=22)
        for guidance in (0.0, 1.0, 3.0)
    }
    expected = {0.0: generator()(plain, TEXTS, max_frames=22)}
    expected[1.0] = generator()(rows, TEXTS, max_frames=22)
    for guidance, alone in expected.items():
        for row, own in zip(said[guidance], alone, strict=True):
            np.testing.assert_array_equal(row, own)
    for row in range(2):
        assert not np.array_equal(said[3.0][row], said[1.0][row])
        assert not np.array_equal(said[1.0][row], said[0.0][row])
    # Whichever of the two is longer.
    swapped = generator(guidance=0.0)(plain, TEXTS, unshown=rows, max_frames=22)
    for row, own in zip(swapped, expected[1.0], strict=True):
        np.testing.assert_array_equal(row, own)


@pytest.mark.parametrize("policy", ["chunked", "learned"])
def test_what_is_drawn_under_guidance_is_what_is_drawn_without_where_nothing_differs(policy):
    warm = SamplingConfig(temperature=0.9, top_k=5, repetition_penalty=1.05)
    drawn = {
        "policy": policy,
        "sampling": warm,
        "residual_sampling": SamplingConfig(temperature=2.0),
    }
    alone = generator(**drawn)(PROMPTS, TEXTS, seed=3, max_frames=22)
    twice = generator(guidance=3.0, **drawn)(PROMPTS, TEXTS, seed=3, max_frames=22, unshown=PROMPTS)
    for row, own in zip(alone, twice, strict=True):
        np.testing.assert_array_equal(row, own)


def test_a_guided_row_asks_for_text_and_ends_as_another():
    ends = []
    for options in ({}, {"unshown": [PROMPTS[1], PROMPTS[1]]}):
        stream = generator(guidance=2.0, policy="learned", **EVEN).start(PROMPTS, seed=1, **options)
        for row, text in enumerate(TEXTS):
            stream.push(text, row=row, last=True)
        rows, _ = drained(stream, most=300)
        assert stream.reasons == ["stop", "stop"]
        ends.append([len(row) for row in rows])
    assert ends[0] == ends[1]


def test_a_row_beside_a_guided_one_is_as_it_was_and_late_text_changes_nothing():
    plain = [prompt_row(CONFIG, MARKS, voice=Voice()), PROMPTS[1]]
    speech = generator(guidance=3.0)
    stream = speech.start(PROMPTS, unshown=plain, max_frames=22)
    stream.push(TEXTS[1], row=1, last=True)
    rows = [[], []]
    for part in (TEXTS[0][:5], TEXTS[0][5:]):
        for row, frames in zip(rows, stream.step(), strict=True):
            row.extend(frames)
        stream.push(part, last=part[-1] == TEXTS[0][-1])
    rest, _ = drained(stream)
    rows = [np.array([*row, *more]) for row, more in zip(rows, rest, strict=True)]
    np.testing.assert_array_equal(rows[1], at_once()[1])
    assert not np.array_equal(rows[0], at_once()[0])
    whole = speech(PROMPTS, TEXTS, unshown=plain, max_frames=22)
    np.testing.assert_array_equal(rows[0], whole[0])


def test_a_row_that_is_full_ends_and_says_so():
    stream = generator(longest_token=1000).start(PROMPTS)
    for row, text in enumerate(TEXTS):
        stream.push(text, row=row, last=True)
    rows, read = drained(stream, most=100)
    assert stream.reasons == ["length", "length"] and read[-1] == [11, 6]
    for prompt, text, row in zip(PROMPTS, (11, 6), rows, strict=True):
        assert len(prompt.tokens) + text + len(row) == 256


@pytest.mark.parametrize("times, unread", [(1, 0), (2, 5)])
def test_speech_that_does_not_fit_is_an_error_and_not_a_clip_that_ends_early(times, unread):
    texts = [times * TEXTS[0], TEXTS[1]]
    speech = generator(max_len=48)
    message = rf"speech of row 0 .* after 48 positions, {unread} text .* is 48$"
    with pytest.raises(UserError, match=message):
        speech(PROMPTS, texts)
    frames = speech(PROMPTS, texts, whole=False)[0]
    read = len(texts[0]) + 1 - unread
    assert len(PROMPTS[0].tokens) + read + len(frames) == 48
    # A limit that was asked for, or one of a row that runs away, is none of the text's.
    assert len(speech(PROMPTS, TEXTS, max_frames=9)[0]) == 9
    left = 48 - len(PROMPTS[0].tokens) - len(TEXTS[0]) - 1
    assert len(speech(PROMPTS, TEXTS, max_frames=left - 2)[0]) == left - 2
    assert len(generator(longest_token=2)(PROMPTS, TEXTS)[0]) == 8 + 2 * 11


def test_what_cannot_be_is_refused_by_name_and_number():
    with pytest.raises(UserError, match="policy is 'rhythm'"):
        SpeechConfig(policy="rhythm")
    with pytest.raises(UserError, match="frame_chunk is 0"):
        SpeechConfig(frame_chunk=0)
    with pytest.raises(UserError, match="packet is 0"):
        SpeechConfig(packet=0)
    with pytest.raises(UserError, match="lead is -1"):
        SpeechConfig(lead=-1)
    with pytest.raises(UserError, match="guidance is -1.0"):
        SpeechConfig(guidance=-1.0)
    with pytest.raises(UserError, match="1 prompts without a voice, there must be 2"):
        generator(guidance=2.0).start(PROMPTS, unshown=PROMPTS[:1])
    with pytest.raises(UserError, match=r"residual_sampling.repetition_penalty is 1.05"):
        SpeechConfig(residual_sampling=SamplingConfig(repetition_penalty=1.05))
    for paces in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(UserError, match="a positive number for each of 2 prompts"):
            generator().start(PROMPTS, paces=paces)
    # Room for the prompt is not enough: four text tokens and four frames come at least.
    for max_len, chunk, policy in ((24, 8, "chunked"), (18, 2, "learned")):
        message = rf"has 17 positions and a first chunk .* {chunk}, the limit .* is {max_len}"
        with pytest.raises(UserError, match=message):
            generator(max_len=max_len, policy=policy).start(PROMPTS)
    stream = generator().start(PROMPTS)
    with pytest.raises(UserError, match=r"row 0 does not fit: 318 positions.*\(max_len\) is 256"):
        stream.push(30 * TEXTS[0], last=True)
    with pytest.raises(UserError, match="text id 64 at place 1"):
        stream.push([3, 64])
    with pytest.raises(UserError, match="frames is 5, it must be 1 to packet, 4"):
        stream.step(5)
    stream.push([3], last=True)
    with pytest.raises(UserError, match="text of row 0 has ended"):
        stream.push([4])
