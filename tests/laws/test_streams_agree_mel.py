"""Law 2 for the mel: fed in any chunks, it gives what it gives when fed whole."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.media.mel import flush_stream, init_stream, log_mel, stream_mel


def streamed(samples, cuts):
    state, parts = init_stream(), []
    for chunk in np.split(samples, cuts):
        state, frames = stream_mel(state, chunk)
        parts.append(frames)
    return np.concatenate([*parts, flush_stream(state)])


@settings(max_examples=150, deadline=None)
@given(
    length=st.one_of(st.integers(160, 900), st.integers(900, 20_000)),
    fractions=st.lists(st.floats(0, 1), max_size=12),
    seed=st.integers(0, 2**31),
    loudness=st.sampled_from([1e-4, 0.03, 0.5]),
)
def test_mel_fed_in_any_chunks_equals_mel_fed_whole(length, fractions, seed, loudness):
    samples = np.random.default_rng(seed).standard_normal(length).astype(np.float32) * loudness
    cuts = sorted(int(f * length) for f in fractions)
    np.testing.assert_allclose(streamed(samples, cuts), log_mel(samples), atol=1e-5)


def test_mel_fed_sample_by_sample_equals_mel_fed_whole():
    samples = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    np.testing.assert_allclose(streamed(samples, range(1, 1000)), log_mel(samples), atol=1e-5)


def test_a_frame_is_out_as_soon_as_its_window_is_complete():
    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    state, emitted = init_stream(), 0
    for end in range(100, 16_001, 100):
        state, frames = stream_mel(state, samples[end - 100 : end])
        emitted += len(frames)
        assert emitted == max(0, (end - 200) // 160 + 1 if end >= 201 else 0)
