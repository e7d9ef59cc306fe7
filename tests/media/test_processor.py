import dataclasses
from pathlib import Path

import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.media.mel import log_mel
from omnijax.media.processor import (
    ProcessorConfig,
    audio_arrays,
    audio_tokens,
    image_arrays,
    nano_processor,
    video_arrays,
)
from omnijax.media.video import Video

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "media.npz")
FULL, NANO = ProcessorConfig(), nano_processor()
ODD = dataclasses.replace(FULL, audio_chunk_frames=100)  # no whole number of tokens a chunk
GOLDEN_LIMITS = dataclasses.replace(FULL, min_pixels=1024, max_pixels=9216)


def noise(samples: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)


def test_each_chunk_and_the_tail_round_up_to_tokens_on_their_own():
    assert [audio_tokens(n, FULL) for n in (1, 16, 17, 160, 161, 320)] == [1, 1, 2, 10, 11, 20]
    assert [audio_tokens(n, ODD) for n in (1, 16, 17, 100, 101, 200)] == [1, 1, 2, 7, 8, 14]
    assert [audio_tokens(n, NANO) for n in (160, 161, 300, 320)] == [10, 11, 19, 20]


def test_audio_arrays_are_the_mel_in_chunks_with_zeros_past_its_end():
    samples = noise(41_000)  # 256 frames
    out = audio_arrays(samples, ODD)
    assert out.mel.shape == (3, 100, 128) and out.mel.dtype == np.float32
    assert out.lengths.tolist() == [100, 100, 56] and out.lengths.dtype == np.int32
    assert out.num_tokens == 7 + 7 + 4
    np.testing.assert_array_equal(out.mel.reshape(300, 128)[:256], log_mel(samples))
    assert (out.mel[2, 56:] == 0).all()


def test_chunks_fall_into_windows_of_the_configs_size_or_the_one_given():
    samples = noise(16_000 * 9)
    assert audio_arrays(samples, FULL).windows.tolist() == [0] * 5 + [1]  # after 8 s
    assert audio_arrays(samples, FULL, window_chunks=4).windows.tolist() == [0] * 4 + [1] * 2
    with pytest.raises(UserError, match="window is 0 chunks"):
        audio_arrays(samples, FULL, window_chunks=0)


def test_audio_is_limited_only_where_the_config_says_so():
    limited = dataclasses.replace(NANO, max_audio_seconds=1)
    audio_arrays(noise(16_000), limited)
    with pytest.raises(UserError, match="audio lasts 1.25 s, over the limit of 1 s"):
        audio_arrays(noise(20_000), limited)


@pytest.mark.parametrize("name", ["kept", "resized", "large"])
def test_image_patches_equal_the_released_processors(name):
    out = image_arrays(GOLDEN[f"image_{name}"], GOLDEN_LIMITS)
    assert out.grid_thw == tuple(GOLDEN[f"grid_{name}"])
    np.testing.assert_allclose(out.patches, GOLDEN[f"patches_{name}"], atol=1e-6)


def test_video_patches_equal_the_released_processors_with_the_last_frame_repeated():
    out = video_arrays(Video(GOLDEN["video"], np.arange(3) / 2.0), GOLDEN_LIMITS)
    assert out.grid_thw == tuple(GOLDEN["video_grid"])
    np.testing.assert_allclose(out.patches, GOLDEN["video_patches"], atol=1e-6)
    assert out.times == (0.25, 1.0)


def test_coordinates_name_the_place_that_each_patch_was_cut_from():
    rows, columns = 96, 64
    image = np.zeros((rows, columns, 3), np.uint8)
    image[..., 0] = np.arange(rows)[:, None] // 16
    image[..., 1] = np.arange(columns)[None] // 16
    out = image_arrays(image, NANO)
    seen = np.rint((out.patches.reshape(-1, 3, 2, 16, 16)[:, :2, 0, 0, 0] + 1) * 127.5)
    np.testing.assert_array_equal(out.coords, seen)
    assert out.coords[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert (out.grids == [6, 4]).all() and (out.frames == 0).all()
    assert out.num_tokens == 6 and out.times == (0.0,) and out.patch_seconds == 0


def test_a_clip_of_the_nano_size_has_four_tokens_every_half_second():
    video = Video(np.zeros((12, 64, 64, 3), np.uint8), np.arange(12) / 4)
    out = video_arrays(video, NANO)
    assert out.grid_thw == (6, 4, 4) and out.num_tokens == 24 and out.patch_seconds == 0.5
    assert out.times == (0.125, 0.625, 1.125, 1.625, 2.125, 2.625)
    np.testing.assert_array_equal(out.frames, np.repeat(np.arange(6), 16))


def test_a_video_of_twenty_four_frames_a_second_is_sampled_at_the_configs_rate():
    video = Video(np.zeros((72, 64, 64, 3), np.uint8), np.arange(72) / 24)
    assert video_arrays(video, NANO).grid_thw == (6, 4, 4)
    assert video_arrays(video, NANO, fps=2).grid_thw == (3, 4, 4)


def test_a_pixel_budget_for_the_whole_video_bounds_its_area():
    config = dataclasses.replace(FULL, max_video_pixels=12 * 64 * 64)
    video = Video(np.zeros((12, 200, 200, 3), np.uint8), np.arange(12) / 2)
    assert video_arrays(video, config).grid_thw == (6, 4, 4)


def test_a_picture_of_one_pixel_and_one_too_narrow_are_refused():
    with pytest.raises(UserError, match="image: is 1x1 pixels, each side must be at least 8"):
        image_arrays(np.zeros((1, 1, 3), np.uint8), NANO)
    with pytest.raises(UserError, match="2000x8 pixels, an aspect ratio of 250"):
        image_arrays(np.zeros((8, 2000, 3), np.uint8), NANO)
    with pytest.raises(UserError, match="video frame: is 1x1 pixels"):
        video_arrays(Video(np.zeros((2, 1, 1, 3), np.uint8), np.arange(2.0)), NANO)


def test_a_video_of_no_frames_is_refused():
    with pytest.raises(UserError, match="video: has no frames"):
        video_arrays(Video(np.zeros((0, 64, 64, 3), np.uint8), np.zeros(0)), NANO)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 0},
        {"audio_chunk_frames": 0},
        {"max_pixels": 100},
        {"video_fps": 0},
        {"max_video_frames": 0},
        {"video_sampling": "random"},
        {"sample_rate": 16_050},
        {"mel_floor": "none"},
    ],
)
def test_a_config_that_cannot_be_is_refused_with_field_and_value(change):
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"{name.removeprefix('mel_')}.* is {value!r}"):
        dataclasses.replace(FULL, **change)


def test_the_patch_width_is_what_the_vision_encoder_takes():
    assert FULL.patch_dim == image_arrays(np.zeros((64, 64, 3), np.uint8), NANO).patches.shape[1]
