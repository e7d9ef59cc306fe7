"""Law 2 for the codec: encoder and Code2Wav, fed in any pieces, give what they give fed whole."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omnijax.errors import UserError
from omnijax.models.codec import (
    Codec,
    flush_encode,
    init_decode_state,
    init_encode_state,
    init_encode_stream,
    restart_rows,
    stream_decode,
    stream_encode,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "codec"))
import tiny_codec as tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compile")

MODEL, FRAME, MAX_FRAMES = tiny.MODEL, tiny.MODEL.config.samples_per_frame, 14
PARAMS = tiny.params(MODEL, 1)
VOICED_PARAMS = tiny.params(tiny.VOICED, 1)
HEARING_PARAMS = tiny.params(tiny.HEARING, 1)


@jax.jit
def whole(samples, codes):
    """Offline: what the quantiser is given, its codes, and the samples of `codes`."""

    def run(codec):
        features = codec.encoder(samples)[0]
        return features, codec.quantiser.encode(features), codec.decode(codes)

    return MODEL.apply(PARAMS, method=run)


@jax.jit
def voiced(codes):
    return tiny.VOICED.apply(VOICED_PARAMS, codes, method="decode")


@jax.jit
def hearing(samples):
    def run(codec):
        features = codec.encoder(samples)[0]
        return features, codec.quantiser.encode(features)

    return tiny.HEARING.apply(HEARING_PARAMS, method=run)


@jax.jit
def hearing_step(state, samples):
    step = lambda codec: codec.encoder(samples, state)[::-1]  # noqa: E731
    return tiny.HEARING.apply(HEARING_PARAMS, method=step)


@jax.jit
def features_step(state, samples):
    return MODEL.apply(PARAMS, method=lambda codec: codec.encoder(samples, state)[::-1])


def pieces(x, fractions):
    return np.split(x, sorted(int(f * x.shape[1]) for f in fractions), axis=1)


fractions = st.lists(st.floats(0, 1), max_size=8)


@settings(max_examples=25, deadline=None)
@given(cuts=fractions, seed=st.integers(0, 2**31))
@example(cuts=[], seed=0)
@example(cuts=[0.5, 0.5, 1.0], seed=0)
def test_code2wav_fed_in_any_pieces_equals_code2wav_fed_whole(cuts, seed):
    codes = tiny.codes(2, MAX_FRAMES, seed)
    expected = whole(np.zeros((2, MAX_FRAMES * FRAME), np.float32), codes)[2]
    assert np.abs(expected).max() < 1  # nothing is hidden by the clipping
    state, out = init_decode_state(MODEL, 2), []
    for part in pieces(codes, cuts):
        state, samples = stream_decode(MODEL, PARAMS, state, part)
        assert samples.shape[1] == FRAME * part.shape[1]
        out.append(samples)
    np.testing.assert_allclose(np.concatenate(out, 1), expected, atol=1e-5)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(cuts=fractions, seed=st.integers(0, 2**31))
@example(cuts=[], seed=0)
def test_a_voices_source_keeps_its_phase_over_any_pieces(cuts, seed):
    codes = tiny.codes(2, MAX_FRAMES, seed)
    expected = voiced(codes)
    assert np.abs(expected).max() < 1
    state, out = init_decode_state(tiny.VOICED, 2), []
    for part in pieces(codes, cuts):
        state, samples = stream_decode(tiny.VOICED, VOICED_PARAMS, state, part)
        out.append(samples)
    np.testing.assert_allclose(np.concatenate(out, 1), expected, atol=1e-5)
    # A row that starts again has neither phase nor loudness of what was before.
    state = restart_rows(state, jnp.array([True, False]))
    again = stream_decode(tiny.VOICED, VOICED_PARAMS, state, codes)[1]
    np.testing.assert_allclose(again[0], expected[0], atol=1e-5)
    assert np.abs(again[1] - expected[1]).max() > 1e-3


@settings(max_examples=25, deadline=None)
@given(cuts=fractions, seed=st.integers(0, 2**31))
@example(cuts=[], seed=0)
@example(cuts=[1 / FRAME / MAX_FRAMES, 0.5, 0.5], seed=0)
def test_the_encoder_fed_any_samples_gives_the_codes_of_the_whole_clip(cuts, seed):
    samples = tiny.noise(2, MAX_FRAMES * FRAME, seed)
    expected = whole(samples, tiny.codes(2, MAX_FRAMES))[1]
    stream, out = init_encode_stream(MODEL, 2), []
    for part in pieces(samples, cuts):
        stream, codes = stream_encode(MODEL, PARAMS, stream, part)
        out.append(codes)
    # A code may fall the other way only where two codes are equally near: none here.
    np.testing.assert_array_equal(np.concatenate(out, 1), expected)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(cuts=fractions, seed=st.integers(0, 2**31))
@example(cuts=[], seed=0)
def test_an_encoder_that_reads_spectra_hears_the_same_over_any_pieces(cuts, seed):
    # Silence, a click and noise: what is heard reaches back over four frames of silence.
    samples = tiny.noise(2, MAX_FRAMES * FRAME, seed)
    samples[:, 3 * FRAME : 7 * FRAME] = 0
    samples[1, 4 * FRAME + 5] = 1
    expected, codes = hearing(samples)
    assert np.ptp(expected) > 0.1  # it hears
    state, out = init_encode_state(tiny.HEARING, 2), []
    at = [0, *sorted(int(f * MAX_FRAMES) for f in cuts), MAX_FRAMES]
    for first, last in zip(at, at[1:], strict=False):
        if first < last:
            state, features = hearing_step(state, samples[:, first * FRAME : last * FRAME])
            out.append(features)
    np.testing.assert_allclose(np.concatenate(out, 1), expected, atol=1e-5)
    stream, out = init_encode_stream(tiny.HEARING, 2), []
    for part in pieces(samples, cuts):
        stream, found = stream_encode(tiny.HEARING, HEARING_PARAMS, stream, part)
        out.append(found)
    np.testing.assert_array_equal(np.concatenate(out, 1), codes)
    # A row that starts again hears nothing of what was before.
    state = restart_rows(state, jnp.array([True, False]))
    again = hearing_step(state, samples)[1]
    np.testing.assert_allclose(again[0], expected[0], atol=1e-5)
    assert np.abs(again[1] - expected[1]).max() > 1e-3


@pytest.mark.parametrize("sizes", [[1] * MAX_FRAMES, [4, 1, 4, 1, 4], [1, 1, 4, 4, 4]])
def test_what_is_quantised_is_the_same_in_any_pieces(sizes):
    samples = tiny.noise(2, MAX_FRAMES * FRAME, 5)
    expected = whole(samples, tiny.codes(2, MAX_FRAMES))[0]
    state, out, first = init_encode_state(MODEL, 2), [], 0
    for size in sizes:
        part = samples[:, first * FRAME : (first + size) * FRAME]
        state, features = features_step(state, part)
        out.append(features)
        first += size
    np.testing.assert_allclose(np.concatenate(out, 1), expected, atol=1e-5)


def test_code2wav_scanned_frame_by_frame_in_one_program_equals_code2wav_fed_whole():
    codes = tiny.codes(2, MAX_FRAMES, 9)
    expected = whole(np.zeros((2, MAX_FRAMES * FRAME), np.float32), codes)[2]

    @jax.jit
    def scanned(state, codes):
        def step(state, frame):
            return MODEL.apply(PARAMS, state, frame[:, None], method="decode_step")

        return jax.lax.scan(step, state, codes.swapaxes(0, 1))[1]

    out = np.asarray(scanned(init_decode_state(MODEL, 2), codes))  # [R, B, samples of a frame]
    np.testing.assert_allclose(out.swapaxes(0, 1).reshape(2, -1), expected, atol=1e-5)


def test_a_clip_that_ends_within_a_frame_is_filled_with_silence():
    samples = tiny.noise(1, 2 * FRAME + 5, 3)
    encode = jax.jit(lambda samples: MODEL.apply(PARAMS, samples, method="encode"))
    expected = encode(samples)
    stream, first = stream_encode(MODEL, PARAMS, init_encode_stream(MODEL), samples)
    stream, last = flush_encode(MODEL, PARAMS, stream)
    assert (first.shape[1], last.shape[1], stream.pending.shape[1]) == (2, 1, 0)
    np.testing.assert_array_equal(np.concatenate([first, last], 1), expected)
    assert flush_encode(MODEL, PARAMS, stream)[1].shape == (1, 0, 4)


def test_the_state_has_one_size_however_long_the_stream_and_each_row_its_own_clock():
    state = init_decode_state(MODEL, 2)
    shapes = jax.tree.map(np.shape, state)
    # The second row starts anew after five frames; the first goes on.
    codes = tiny.codes(2, 10, 8)
    state, _ = stream_decode(MODEL, PARAMS, state, codes[:, :5])
    state = restart_rows(state, jax.numpy.array([False, True]))
    state, out = stream_decode(MODEL, PARAMS, state, codes[:, 5:])
    assert jax.tree.map(np.shape, state) == shapes
    silence = np.zeros((2, 10 * FRAME), np.float32)
    expected = np.asarray(whole(silence, codes)[2])[0, 5 * FRAME :]
    np.testing.assert_allclose(out[0], expected, atol=1e-5)
    again = np.asarray(whole(silence[:, : 5 * FRAME], codes[:, 5:])[2])[1]
    np.testing.assert_allclose(out[1], again, atol=1e-5)


def test_a_stream_refuses_codes_out_of_range_wrong_shapes_and_numbers_that_are_none():
    state, codes = init_decode_state(MODEL), tiny.codes(1, 3)
    codes[0, 2, 1] = 11
    with pytest.raises(UserError, match="code 11 of frame 2, codebook 1, is out of range.*0 to 10"):
        stream_decode(MODEL, PARAMS, state, codes)
    with pytest.raises(UserError, match=r"shape \(1, 3, 3\), the codec takes \[rows, frames, 4\]"):
        stream_decode(MODEL, PARAMS, state, codes[..., :3])
    with pytest.raises(UserError, match="a sample is nan"):
        bad = np.full((1, 3), np.nan, np.float32)
        stream_encode(MODEL, PARAMS, init_encode_stream(MODEL), bad)


def test_the_form_that_looks_ahead_is_not_streamed():
    with pytest.raises(UserError, match="trim is 'both': that form looks ahead"):
        init_decode_state(Codec(tiny.config(trim="both")))
