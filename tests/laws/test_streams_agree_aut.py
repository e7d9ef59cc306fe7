"""Law 2 for AuT: fed in any chunks, it gives what it gives when fed whole."""

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omnijax.errors import UserError
from omnijax.models.aut import AuT, AuTConfig, flush_stream, init_stream, stream_aut, window_ids

FRAMES, BINS, MAX_CHUNKS = 20, 16, 9
CONFIGS = {
    downsample: AuTConfig(
        mel_bins=BINS,
        chunk_frames=FRAMES,
        downsample=downsample,
        conv_channels=(3,) * convs,
        width=8,
        layers=2,
        heads=2,
        ffn=12,
        out_width=6,
    )
    for downsample, convs in ((8, 3), (16, 4))
}
MODELS = {downsample: AuT(config) for downsample, config in CONFIGS.items()}
ROW = (
    np.zeros((1, MAX_CHUNKS, FRAMES, BINS), np.float32),
    np.zeros((1, MAX_CHUNKS), np.int32),
    np.zeros((1, MAX_CHUNKS), np.int32),
)
PARAMS = {d: jax.jit(model.init)(jax.random.key(d), *ROW) for d, model in MODELS.items()}
APPLY = {d: jax.jit(model.apply) for d, model in MODELS.items()}


def clip(frames, seed):
    return np.random.default_rng(seed).standard_normal((frames, BINS)).astype(np.float32)


def whole(mel, window_chunks, downsample):
    """Offline: the clip as one row, padded to the longest."""
    row, lengths, windows = (x.copy() for x in ROW)
    chunks = -(-len(mel) // FRAMES)
    row.reshape(-1, BINS)[: len(mel)] = mel
    lengths[0, :chunks] = FRAMES
    if len(mel) % FRAMES:
        lengths[0, chunks - 1] = len(mel) % FRAMES
    windows[0, :chunks] = window_ids(chunks, window_chunks)
    features, valid = APPLY[downsample](PARAMS[downsample], row, lengths, windows)
    return np.asarray(features)[np.asarray(valid)]


def streamed(mel, cuts, window_chunks, downsample):
    model, params = MODELS[downsample], PARAMS[downsample]
    state, parts = init_stream(model, window_chunks), []
    for part in np.split(mel, cuts):
        state, tokens = stream_aut(model, params, state, part)
        parts.append(tokens)
    return np.concatenate([*parts, flush_stream(model, params, state)[1]])


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(0, FRAMES * MAX_CHUNKS),
    fractions=st.lists(st.floats(0, 1), max_size=10),
    window_chunks=st.sampled_from([1, 3]),
    downsample=st.sampled_from(sorted(CONFIGS)),
    seed=st.integers(0, 2**31),
)
@example(frames=0, fractions=[], window_chunks=3, downsample=16, seed=0)
@example(frames=1, fractions=[], window_chunks=3, downsample=16, seed=0)
@example(frames=6 * FRAMES, fractions=[0.5, 0.5], window_chunks=3, downsample=8, seed=0)
@example(frames=5 * FRAMES + 1, fractions=[0.99], window_chunks=3, downsample=16, seed=0)
def test_aut_fed_in_any_chunks_equals_aut_fed_whole(
    frames, fractions, window_chunks, downsample, seed
):
    mel = clip(frames, seed)
    cuts = sorted(int(f * frames) for f in fractions)
    expected = whole(mel, window_chunks, downsample)
    tokens = streamed(mel, cuts, window_chunks, downsample)
    assert tokens.shape == expected.shape
    np.testing.assert_allclose(tokens, expected, atol=1e-5)


def test_aut_fed_frame_by_frame_equals_aut_fed_whole():
    mel = clip(3 * FRAMES + 7, 1)
    tokens = streamed(mel, range(1, len(mel)), 3, 16)
    np.testing.assert_allclose(tokens, whole(mel, 3, 16), atol=1e-5)


def test_a_windows_tokens_are_out_with_its_last_frame_and_not_before():
    model, params = MODELS[16], PARAMS[16]
    mel, state, emitted = clip(6 * FRAMES, 2), init_stream(model, 3), []
    for frame in mel:
        state, tokens = stream_aut(model, params, state, frame[None])
        emitted.append(len(tokens))
    expected = np.zeros(6 * FRAMES, int)
    expected[3 * FRAMES - 1 :: 3 * FRAMES] = 3 * model.config.tokens_per_chunk
    assert emitted == expected.tolist()


def test_the_state_stays_within_one_window_however_long_the_audio():
    model, params = MODELS[16], PARAMS[16]
    state, largest, count = init_stream(model, 3), 0, 0
    for part in np.split(clip(FRAMES * 60, 3), 40):
        state, tokens = stream_aut(model, params, state, part)
        largest = max(largest, len(state.embedded) * FRAMES + len(state.frames))
        count += len(tokens)
    assert largest < 3 * FRAMES and count == 60 * model.config.tokens_per_chunk


def test_after_a_flush_the_next_clip_starts_anew():
    model, params = MODELS[16], PARAMS[16]
    first, second = clip(FRAMES + 3, 4), clip(3 * FRAMES, 5)
    state, _ = stream_aut(model, params, init_stream(model, 3), first)
    state, _ = flush_stream(model, params, state)
    _, tokens = stream_aut(model, params, state, second)
    np.testing.assert_allclose(tokens, whole(second, 3, 16), atol=1e-5)


def test_a_stream_refuses_wrong_bins_and_an_empty_window():
    model, params = MODELS[16], PARAMS[16]
    with pytest.raises(UserError, match="17 bins, the encoder takes 16"):
        stream_aut(model, params, init_stream(model, 1), np.zeros((3, 17), np.float32))
    with pytest.raises(UserError, match="window is 0 chunks"):
        init_stream(model, 0)
