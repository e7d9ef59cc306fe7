"""Media against transformers, live, on inputs that the golden file does not have."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import make_media as released  # noqa: E402

from omnijax.media.image import smart_resize  # noqa: E402
from omnijax.media.mel import MelConfig, log_mel, mel_filters  # noqa: E402
from omnijax.media.processor import ProcessorConfig, image_arrays, video_arrays  # noqa: E402
from omnijax.media.video import Video, choose_frames, patch_times, smart_resize_video  # noqa: E402

RELEASED_MEL = MelConfig(floor="clip_max")


@pytest.mark.parametrize("samples", [201, 5_000, 48_017, 16_000 * 60])
@pytest.mark.parametrize("loudness", [0.01, 1.0])
def test_mel_equals_the_whisper_feature_extractor_at_any_length(samples, loudness):
    rng = np.random.default_rng(samples)
    wave = released.speech_like(rng, samples).astype(np.float32) / 32768 * loudness
    np.testing.assert_allclose(log_mel(wave, RELEASED_MEL), released.whisper_mel(wave), atol=1e-4)


def test_mel_of_a_pure_tone_and_of_silence_equals_the_whisper_feature_extractor():
    tone = np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000).astype(np.float32)
    for wave in (tone, np.zeros(32_000, np.float32)):
        expected = released.whisper_mel(wave)
        np.testing.assert_allclose(log_mel(wave, RELEASED_MEL), expected, atol=1e-4)


def test_a_clip_padded_to_thirty_seconds_is_the_released_default():
    wave = released.speech_like(np.random.default_rng(1), 40_000).astype(np.float32) / 32768
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    expected = extractor(wave, sampling_rate=16_000, return_tensors="np")["input_features"][0].T
    padded = np.pad(wave, (0, 480_000 - len(wave)))
    np.testing.assert_allclose(log_mel(padded, RELEASED_MEL), expected, atol=1e-4)


def test_the_filter_bank_equals_the_released_one():
    filters = transformers.WhisperFeatureExtractor(feature_size=128).mel_filters
    np.testing.assert_allclose(mel_filters(RELEASED_MEL), filters, atol=1e-7)


@pytest.mark.parametrize("size", [(96, 96), (40, 300), (700, 513), (33, 31)])
def test_image_patches_equal_the_released_processors(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    limits = {"min_pixels": 4096, "max_pixels": 100_000}
    expected, grid = released.image_patches(image, **limits)
    out = image_arrays(image, ProcessorConfig(**limits))
    assert out.grid_thw == tuple(grid)
    np.testing.assert_allclose(out.patches, expected, atol=1e-6)


@pytest.mark.parametrize("frames", [2, 5, 8])
def test_video_patches_equal_the_released_processors(frames):
    video = np.random.default_rng(0).integers(0, 256, (frames, 64, 96, 3), dtype=np.uint8)
    expected, grid = released.video_patches(video)
    out = video_arrays(Video(video, np.arange(frames) / 2), ProcessorConfig(min_pixels=1024))
    assert out.grid_thw == tuple(grid)
    np.testing.assert_allclose(out.patches, expected, atol=1e-6)


def test_both_forms_of_smart_resize_equal_the_released_ones_on_a_thousand_sizes():
    rng = np.random.default_rng(3)
    limits = {"factor": 32, "min_pixels": 131_072, "max_pixels": 786_432}
    for frames, height, width in rng.integers(2, 3000, (1000, 3)).tolist():
        if max(height, width) > 200 * min(height, width):
            continue
        ours = smart_resize(height, width, **limits)
        assert ours == released.image_resize(height, width, *limits.values())
        ours = smart_resize_video(frames, height, width, temporal_patch=2, **limits)
        assert ours == released.video_resize(frames, height, width, 2, *limits.values())


def test_sampled_frames_and_timestamps_equal_the_released_processors():
    rng = np.random.default_rng(4)
    for _ in range(300):
        total = int(rng.integers(4, 2000))
        source = float(rng.choice([10, 23.976, 24, 25, 29.97, 30, 60]))
        fps = float(rng.choice([1, 2, 4]))
        expected = released.sampled(total, source, fps)
        index = choose_frames(
            np.arange(total) / source, fps=fps, max_frames=768, min_frames=4, sampling="linspace"
        )
        np.testing.assert_array_equal(index, expected)
        ours = patch_times(index / source, 2)
        np.testing.assert_allclose(ours, released.timestamps(index, source), atol=1e-9)
