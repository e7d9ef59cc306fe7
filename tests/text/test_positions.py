import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from omnijax.text import PositionState
from omnijax.text.positions import as_int, audio_of_patches, qwen3_omni_video

COUNT = st.integers(0, 9)
SIDE = st.integers(1, 5)
BLOCKS = st.one_of(
    st.tuples(st.just("text"), COUNT),
    st.tuples(st.just("vision"), SIDE, SIDE),
    st.tuples(st.just("patch"), SIDE, SIDE, COUNT),
)


def place(state, block):
    kind, *sizes = block
    if kind == "patch":
        state, seen = state.vision(*sizes[:2])
        state, heard = state.sound_beside(sizes[2])
        return state, np.concatenate([seen, heard])
    return getattr(state, kind)(*sizes)


def by_the_rule(blocks):
    """TM-RoPE written token by token, as REFERENCE §4 puts it."""
    ids = []
    for kind, *sizes in blocks:
        start = max((max(t) for t in ids), default=-1) + 1
        if kind == "text":
            ids += [(start + i,) * 3 for i in range(sizes[0])]
        else:
            ids += [(start, start + r, start + c) for r in range(sizes[0]) for c in range(sizes[1])]
            if kind == "patch":
                ids += [(start + i,) * 3 for i in range(sizes[2])]
    return np.array(ids, int).reshape(-1, 3)


@given(st.lists(BLOCKS, max_size=8))
def test_positions_follow_the_rule_token_by_token(blocks):
    state, parts = PositionState(), [np.zeros((0, 3), int)]
    for block in blocks:
        state, ids = place(state, block)
        parts.append(ids)
    whole = np.concatenate(parts)
    np.testing.assert_array_equal(whole, by_the_rule(blocks))
    assert state.next == (whole.max() + 1 if len(whole) else 0)


@given(st.lists(BLOCKS, max_size=8), st.lists(st.integers(0, 3), max_size=30))
def test_a_stream_cut_anywhere_gets_the_ids_of_the_whole(blocks, cuts):
    """Text and sound come in chunks of any size, also the sound beside a picture."""
    cuts = iter(cuts)

    def in_parts(method, state, count):
        parts = [np.zeros((0, 3), int)]
        while count:
            step = min(count, next(cuts, count) or count)
            state, ids = getattr(state, method)(step)
            parts.append(ids)
            count -= step
        return state, parts

    state, parts = PositionState(), [np.zeros((0, 3), int)]
    for kind, *sizes in blocks:
        if kind == "text":
            state, more = in_parts("text", state, sizes[0])
            parts += more
            continue
        state, ids = state.vision(*sizes[:2])
        parts.append(ids)
        if kind == "patch":
            state, more = in_parts("sound_beside", state, sizes[2])
            parts += more
    np.testing.assert_array_equal(np.concatenate(parts), by_the_rule(blocks))


@given(st.integers(1, 40), st.sampled_from([0.5, 1.0, 0.8, 0.1, 2 / 3]), st.integers(0, 400))
def test_sound_is_shared_out_without_drift_and_none_is_lost(patches, seconds, available):
    rate = 6.25
    times = [(i + 0.25) * seconds for i in range(patches)]
    shares = audio_of_patches(times, seconds, 2, rate, available)
    assert all(share >= 0 for share in shares)
    for i, total in enumerate(np.cumsum(shares)):
        assert total == min(available, int((i + 1) * seconds * rate + 1e-6))


def test_an_uneven_video_takes_the_sound_of_its_true_times():
    # Frames at 0, 1 | 2, 3 | 10, 11 s: the second patch lasts until the third begins at 10 s.
    assert audio_of_patches([0.5, 2.5, 10.5], 2.0, 2, 1.0, 20) == [2, 8, 2]


def test_half_a_patch_at_the_end_does_not_move_the_sound():
    # Three frames at 4 a second; the last is repeated, so its mean time is its own.
    assert audio_of_patches([0.125, 0.5], 0.5, 2, 6.25, 20) == [3, 3]


@given(st.integers(1, 4), SIDE, SIDE, st.integers(0, 30), st.sampled_from([0.5, 1.0, 2.0]))
def test_merged_video_and_sound_are_in_order_of_time_and_lose_no_token(t, h, w, audio, seconds):
    state, ids, is_audio = qwen3_omni_video(PositionState(7, 7), t, h, w, seconds, 13.0, audio)
    assert len(ids) == t * h * w + audio and is_audio.sum() == audio
    assert (np.diff(ids[:, 0]) >= 0).all()
    assert state.next == ids.max() + 1
    np.testing.assert_array_equal(ids[is_audio][:, 0], 7 + np.arange(audio))


def test_whole_ids_are_int32_and_others_keep_their_fraction():
    assert as_int(np.array([[1.0, 2.0, 3.0]])).dtype == np.int32
    assert as_int(np.array([[1.5, 2.0, 3.0]])).dtype == np.float32
