from pathlib import Path

import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.media.audio import Audio, load_audio
from omnijax.media.video import (
    Video,
    check_video,
    choose_frames,
    load_video,
    patch_times,
    sample_frames,
    smart_resize_video,
    write_video,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "media.npz")


def clip(count: int = 24, fps: float = 12.0, rate: int | None = 48_000) -> Video:
    """Frame n is grey of level 10 n; a click every half second."""
    level = (10 * np.arange(count)).astype(np.uint8)
    frames = np.broadcast_to(level[:, None, None, None], (count, 32, 48, 3))
    audio = None
    if rate:
        samples = np.zeros(int(count / fps * rate), np.float32)
        for start in range(0, len(samples), rate // 2):
            samples[start : start + rate // 100] = 0.8
        audio = Audio(samples, rate)
    return Video(np.ascontiguousarray(frames), np.arange(count) / fps, audio)


@pytest.mark.parametrize("ending", ["mp4", "webm"])
def test_a_video_written_and_read_keeps_frames_times_and_sound(tmp_path, ending):
    video = clip()
    write_video(tmp_path / f"a.{ending}", video)
    back = load_video(tmp_path / f"a.{ending}")
    assert back.frames.shape == video.frames.shape
    np.testing.assert_allclose(back.times, video.times, atol=1.1e-3)
    assert abs(back.duration - 2.0) < 2e-3
    error = np.abs(back.frames.astype(float) - video.frames).mean()
    assert error < 4
    assert back.audio.sample_rate == 48_000 and abs(back.audio.seconds - 2.0) < 0.06
    loud = np.abs(back.audio.samples) > 0.3
    onsets = np.flatnonzero(loud)[np.diff(np.flatnonzero(loud), prepend=-9999) > 4000] / 48_000
    np.testing.assert_allclose(onsets, [0, 0.5, 1.0, 1.5], atol=0.01)


def test_uneven_frame_times_survive_the_file(tmp_path):
    times = np.array([0, 0.1, 0.5, 0.6, 1.7])
    video = Video(clip(5).frames, times, None, 2.0)
    write_video(tmp_path / "a.mp4", video)
    back = load_video(tmp_path / "a.mp4")
    np.testing.assert_allclose(back.times, times, atol=1e-3)
    assert back.audio is None and abs(back.duration - 2.0) < 2e-3


def test_reading_with_a_rate_holds_only_the_sampled_frames_and_they_are_the_same(tmp_path):
    write_video(tmp_path / "a.mp4", clip(48, 24.0))
    whole = load_video(tmp_path / "a.mp4")
    few = load_video(tmp_path / "a.mp4", fps=4)
    sampled = sample_frames(whole, fps=4, max_frames=99)
    assert len(few.frames) == 8
    np.testing.assert_array_equal(few.frames, sampled.frames)
    np.testing.assert_array_equal(few.times, sampled.times)
    again = sample_frames(few, fps=4, max_frames=99)
    np.testing.assert_array_equal(again.times, few.times)


def test_frames_that_were_chosen_once_are_chosen_again_whatever_the_first_time():
    """In milliseconds as .mkv and .webm keep them, where a frame may lie just on the slack."""
    grid = 250 * np.arange(1, 200)
    stamps = np.sort(np.concatenate([[0], grid + 1, grid - 20]))
    for start in (0, 7, 33, 1_234):
        times = (stamps + start) * 1e-3
        end = times[-1] + 0.042
        once = choose_frames(times, fps=4, max_frames=999, duration=end)
        zero = times[0]
        again = choose_frames(times[once] - zero, fps=4, max_frames=999, duration=end - zero)
        assert len(again) == len(once)
        np.testing.assert_array_equal(
            choose_frames(times - zero, fps=4, max_frames=999, duration=end - zero), once
        )


def test_reading_no_fewer_frames_than_the_least_that_are_wanted(tmp_path):
    write_video(tmp_path / "a.mp4", clip(48, 24.0))
    limits = {"fps": 1, "max_frames": 16, "min_frames": 12}
    sampled = sample_frames(load_video(tmp_path / "a.mp4"), **limits)
    few = load_video(tmp_path / "a.mp4", **limits)
    assert len(few.frames) == 12
    np.testing.assert_array_equal(few.frames, sampled.frames)


def test_sound_that_begins_after_the_picture_has_silence_before_it(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width, picture.height = 32, 32
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for n in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = n
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        tone = np.full((1, 4000), 16384, np.int16)
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 4000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    back = load_video(tmp_path / "a.mkv")
    assert len(back.audio.samples) == 8000
    assert (back.audio.samples[:4000] == 0).all() and (back.audio.samples[4000:] == 0.5).all()


def test_frames_are_the_ones_on_show_at_each_step_of_the_grid():
    times = np.arange(72) / 24
    index = choose_frames(times, fps=4, max_frames=99)
    np.testing.assert_array_equal(index, np.arange(12) * 6)
    index = choose_frames(np.arange(90) / 30, fps=4, max_frames=99)
    np.testing.assert_array_equal(index[:5], [0, 7, 15, 22, 30])
    uneven = np.array([0, 0.1, 0.2, 1.4, 1.6])
    np.testing.assert_array_equal(choose_frames(uneven, fps=2, max_frames=9), [0, 2, 3, 4][:3])


def test_over_the_budget_the_rate_is_lowered_and_the_clip_still_spanned():
    index = choose_frames(np.arange(300) / 30, fps=4, max_frames=10)
    np.testing.assert_array_equal(index, np.arange(10) * 30)


def test_a_source_slower_than_the_rate_gives_each_frame_once():
    index = choose_frames(np.arange(6) / 2.0, fps=8, max_frames=99)
    np.testing.assert_array_equal(index, np.arange(6))


def test_a_single_frame_is_kept():
    assert choose_frames(np.array([0.0]), fps=4, max_frames=9).tolist() == [0]


def test_linspace_sampling_and_timestamps_equal_the_released_processors():
    for total, source, fps in [(90, 30.0, 2.0), (100, 24.0, 4.0)]:
        expected = GOLDEN[f"sampled_{total}_of_{source:.0f}_at_{fps:.0f}"]
        index = choose_frames(
            np.arange(total) / source, fps=fps, max_frames=768, min_frames=4, sampling="linspace"
        )
        np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(patch_times(index[:7] / 24.0, 2), GOLDEN["timestamps_of_that"])


def test_the_size_for_a_whole_video_equals_the_released_one():
    ours = [
        smart_resize_video(
            n, h, w, factor=32, temporal_patch=2, min_pixels=131_072, max_pixels=786_432
        )
        for n, (h, w) in zip(GOLDEN["counts"].tolist(), GOLDEN["sizes"].tolist(), strict=True)
    ]
    np.testing.assert_array_equal(ours, GOLDEN["resized_video"])


FRAMES = np.zeros((3, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "video, message",
    [
        (Video(FRAMES[:0], np.zeros(0)), "has no frames"),
        (Video(FRAMES[..., 0], np.arange(3.0)), r"shape \(3, 32, 32\)"),
        (Video(FRAMES.astype(np.float32), np.arange(3.0)), "float32, must be uint8"),
        (Video(FRAMES, np.arange(2.0)), r"3 frames, but times have shape \(2,\)"),
        (Video(FRAMES, np.array([0, 2.0, 1.0])), "increasing"),
        (Video(FRAMES, np.array([0, np.nan, 1.0])), "finite"),
        (Video(FRAMES, np.arange(3.0), Audio(np.zeros(0, np.float32), 8000)), "sound track"),
    ],
)
def test_what_is_no_video_is_refused(video, message):
    with pytest.raises(UserError, match=message):
        check_video(video)
    with pytest.raises(UserError, match=message):
        sample_frames(video, fps=2, max_frames=9)


def test_a_rate_budget_or_way_of_sampling_that_cannot_be_is_refused():
    times = np.arange(5.0)
    for change, message in [
        ({"fps": 0}, "is 0 frames a second"),
        ({"fps": float("nan")}, "is nan frames a second"),
        ({"max_frames": 0}, "budget is 0 frames"),
        ({"sampling": "random"}, "'random'"),
    ]:
        with pytest.raises(UserError, match=message):
            choose_frames(times, **{"fps": 2, "max_frames": 9, **change})


def test_an_unreadable_video_is_refused_by_name(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video " * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    write_video(tmp_path / "whole.mp4", clip(48))
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name, message in {
        "text.mp4": "cannot be read as a video",
        "empty.mp4": r"empty \(0 bytes\)",
        "cut.mp4": "cannot be read as a video",
        "missing.mp4": "no such file",
    }.items():
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            load_video(tmp_path / name)


def test_tags_that_are_not_utf_8_do_not_matter(tmp_path):
    write_video(tmp_path / "a.mp4", clip())
    plain = (tmp_path / "a.mp4").read_bytes()
    assert b"Lavf" in plain  # the writer's name
    (tmp_path / "b.mp4").write_bytes(plain.replace(b"Lavf", b"\xe9\xe8\xe7f"))
    ours, theirs = load_video(tmp_path / "a.mp4"), load_video(tmp_path / "b.mp4")
    np.testing.assert_array_equal(ours.frames, theirs.frames)
    assert len(load_audio(tmp_path / "b.mp4").samples)


def test_a_file_with_sound_alone_has_no_frames(tmp_path):
    from omnijax.media.audio import save_audio

    save_audio(tmp_path / "a.wav", clip().audio)
    with pytest.raises(UserError, match="a.wav: has no frames"):
        load_video(tmp_path / "a.wav")


def test_a_length_limit_is_an_error_that_names_length_and_limit(tmp_path):
    write_video(tmp_path / "a.mp4", clip())
    with pytest.raises(UserError, match="lasts 2.00 s, over the limit of 1 s"):
        load_video(tmp_path / "a.mp4", max_seconds=1)
    assert len(load_video(tmp_path / "a.mp4", max_seconds=2.01).frames) == 24


def test_writing_what_cannot_be_encoded_is_refused(tmp_path):
    video = clip()
    with pytest.raises(UserError, match="'.avi', must be .mp4 or .webm"):
        write_video(tmp_path / "a.avi", video)
    with pytest.raises(UserError, match="48x31 pixels"):
        write_video(tmp_path / "a.mp4", video._replace(frames=video.frames[:, :31]))
    with pytest.raises(UserError, match="begins at -1.0 s"):
        write_video(tmp_path / "a.mp4", video._replace(times=video.times - 1))


def test_frames_of_a_container_that_knows_only_decoding_order_are_all_kept_in_order(tmp_path):
    import av

    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for n in range(50):
            frame = np.full((64, 64, 3), 5 * n, np.uint8)
            frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    back = load_video(tmp_path / "a.avi")
    np.testing.assert_allclose(back.times, np.arange(50) / 25, atol=1e-6)
    np.testing.assert_allclose(back.frames.mean((1, 2, 3)), 5 * np.arange(50), atol=3)


def test_a_film_held_sideways_is_read_upright(tmp_path):
    video = clip(6)
    video.frames[:, :16, :24] = 255  # the upper left quarter
    write_video(tmp_path / "a.mp4", video._replace(audio=None))
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30], ">i4")
    data[at : at + 36] = quarter.tobytes()  # show it turned by 90 degrees clockwise
    (tmp_path / "turned.mp4").write_bytes(bytes(data))
    upright = load_video(tmp_path / "turned.mp4").frames
    assert upright.shape == (6, 48, 32, 3)
    assert upright[:, :20, 20:].mean() > 200 and upright[:, :20, :12].mean() < 80
