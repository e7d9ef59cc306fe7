from pathlib import Path

import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.media import mel
from omnijax.media.mel import MelConfig, flush_stream, init_stream, log_mel, stream_mel

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "media.npz")
RELEASED = MelConfig(floor="clip_max")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize("name", ["long", "short"])
def test_with_the_released_floor_it_equals_the_whisper_feature_extractor(name):
    samples = GOLDEN[f"audio_{name}"].astype(np.float32) / 32768
    np.testing.assert_allclose(log_mel(samples, RELEASED), GOLDEN[f"mel_{name}"], atol=1e-4)


def test_a_clip_has_one_frame_for_each_whole_hop():
    for samples in (160, 319, 320, 16_000, 16_159):
        assert log_mel(noise(samples)).shape == (samples // 160, 128)


def test_a_clip_of_five_minutes_is_not_cut():
    samples = noise(5 * 60 * 16_000)
    whole = log_mel(samples)
    assert whole.shape == (30_000, 128)
    # Frames far from both ends see the same samples in a cut-out.
    np.testing.assert_allclose(whole[29_000:29_010], log_mel(samples[160 * 28_990 :])[10:20], 1e-5)


def test_the_fixed_floor_is_every_clips_and_the_released_one_follows_the_loudest_frame():
    quiet = noise(3200)
    loud = np.concatenate([quiet, 10 * noise(3200, 1)])
    keep = 17  # frames whose windows end within the quiet part
    np.testing.assert_allclose(log_mel(quiet)[:keep], log_mel(loud)[:keep], atol=1e-5)
    silence = np.zeros(1600, np.float32)
    assert (log_mel(silence) == (-6.5 + 4) / 4).all()
    assert log_mel(np.concatenate([silence, loud]), RELEASED)[:5].min() > (-10 + 4) / 4
    assert (log_mel(silence, MelConfig(floor_log10=-5.0)) == (-5 + 4) / 4).all()


def test_clips_of_many_lengths_share_a_few_compiled_sizes():
    before = mel._host()[0]._cache_size()
    for samples in range(16_000, 64_000, 777):
        log_mel(noise(samples))
    assert mel._host()[0]._cache_size() - before <= 6


@pytest.mark.parametrize("count", [1, 16, 17, 24, 25, 100, 300, 6144])
def test_a_compiled_size_is_at_most_half_as_much_again_as_needed(count):
    size = mel._bucket(count)
    assert count <= size <= max(16, 1.5 * count)


def test_the_released_floor_cannot_be_streamed():
    with pytest.raises(UserError, match="'clip_max'.*cannot be streamed"):
        init_stream(RELEASED)


def test_samples_that_are_not_finite_are_refused_offline_and_in_a_stream():
    samples = noise(1000)
    samples[7] = np.nan
    with pytest.raises(UserError, match="sample 7 is nan"):
        log_mel(samples)
    with pytest.raises(UserError, match="sample 7 is nan"):
        stream_mel(init_stream(), samples)


def test_a_clip_shorter_than_a_hop_is_refused_and_says_how_long_it_is():
    with pytest.raises(UserError, match="159 samples.*160"):
        log_mel(noise(159))


def test_a_stream_of_nothing_flushes_to_no_frames():
    assert flush_stream(init_stream()).shape == (0, 128)


def test_a_streams_memory_stays_under_two_windows_however_long_it_runs():
    state = init_stream()
    for seed in range(200):
        state, _ = stream_mel(state, noise(333, seed))
        assert len(state.pending) < 800 and state.pending.base is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bins": 0}, "bins is 0"),
        ({"window": 401}, "window is 401"),
        ({"window": 200}, "window is 200"),
        ({"floor": "clip"}, "floor is 'clip'"),
    ],
)
def test_a_config_that_cannot_be_is_refused_with_field_and_value(change, message):
    with pytest.raises(UserError, match=message):
        MelConfig(**change)
