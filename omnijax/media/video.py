"""Video: frames with true timestamps and their sound track, sampling, reading and writing."""

import math
import numbers
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.media.audio import Audio, check_audio, check_file, decode_track
from omnijax.media.image import smart_resize
from omnijax.typing import Float


class Video(NamedTuple):
    """frames uint8 [N, H, W, 3]; times float64 [N] seconds; the sound, starting at time 0.

    duration: seconds until the last frame goes off show; None: one median frame after it comes.
    """

    frames: np.ndarray
    times: np.ndarray
    audio: Audio | None = None
    duration: float | None = None


def check_video(video: Video, name: str = "video") -> Video:
    """The video as given, or a UserError that says what is wrong with it."""
    frames, times = video.frames, video.times
    if len(frames) == 0:
        raise UserError(f"{name}: has no frames")
    if frames.ndim != 4 or frames.shape[3] != 3:
        raise UserError(f"{name}: frames have shape {frames.shape}, must be [N, height, width, 3]")
    if frames.dtype != np.uint8:
        raise UserError(f"{name}: frames are {frames.dtype}, must be uint8 in 0..255")
    if times.shape != (len(frames),):
        raise UserError(f"{name}: {len(frames)} frames, but times have shape {times.shape}")
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise UserError(f"{name}: times must be finite and increasing, are {times}")
    if video.audio is not None:
        check_audio(video.audio, f"{name}: sound track")
    return video


def clip_seconds(times: Float[np.ndarray, " N"], duration: float | int | None = None) -> float:
    """Until when the clip lasts: as told, else one median frame after the last one's start."""
    if duration is not None:
        return duration
    return float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 0.0))


def check_rate(fps: Any) -> None:
    """Raises UserError if frames cannot be sampled at so many a second."""
    if not isinstance(fps, numbers.Real) or not 0 < fps < math.inf:
        raise UserError(
            f"video: the rate to sample is {fps!r} frames a second, must be a number over 0"
        )


def choose_frames(
    times: Float[np.ndarray, " N"],
    *,
    fps: float | int,
    max_frames: int,
    min_frames: int = 1,
    sampling: str = "grid",
    duration: float | int | None = None,
) -> np.ndarray:
    """Indices of the frames to keep, increasing, no more than max_frames, none twice.

    "grid": the frame on show at each k / fps while the clip lasts. Where that is over the budget,
    the rate is lowered so that max_frames span the clip. A source slower than fps gives each
    of its frames once. "linspace": transformers' Qwen3VLVideoProcessor.sample_frames, which
    spreads int(seconds * fps) frames evenly from the first to the last.
    """
    check_rate(fps)
    if sampling not in ("grid", "linspace"):
        raise UserError(f"video: sampling is {sampling!r}, must be 'grid' or 'linspace'")
    if max_frames < 1:
        raise UserError(f"video: the budget is {max_frames} frames, must be at least 1")
    total, seconds = len(times), clip_seconds(times, duration)
    if sampling == "linspace":
        count = int((seconds - times[0]) * fps + 1e-6)
        count = min(max(count, min_frames), max_frames, total)
        return np.linspace(0, total - 1, count).round().astype(int)
    length = max(seconds - times[0], 1e-9)
    count = max(1, math.ceil(length * fps - 1e-3))
    step = 1 / fps
    if not min_frames <= count <= max_frames:
        count = min(max(count, min_frames), max_frames)
        step = length / count
    shown_at = times[0] + step * np.arange(count)
    # A millisecond of slack: containers round timestamps. In whole microseconds, so that the last
    # bit of a time never decides, and frames that were chosen once are chosen again.
    index = np.searchsorted(np.round(times, 6), np.round(shown_at + 1e-3, 6), side="right") - 1
    return np.unique(index)


def sample_frames(
    video: Video,
    *,
    fps: float | int,
    max_frames: int,
    min_frames: int = 1,
    sampling: str = "grid",
) -> Video:
    """The frames that `choose_frames` keeps, with their true times; the sound stays as it was."""
    check_video(video)
    index = choose_frames(
        video.times,
        fps=fps,
        max_frames=max_frames,
        min_frames=min_frames,
        sampling=sampling,
        duration=video.duration,
    )
    duration = clip_seconds(video.times, video.duration)
    return Video(video.frames[index], video.times[index], video.audio, duration)


def patch_times(times: Float[np.ndarray, " N"], temporal_patch: int) -> tuple[float, ...]:
    """The mean time of each temporal patch's frames, the last frame repeated to fill the last."""
    fill = -len(times) % temporal_patch
    filled = np.concatenate([times, np.repeat(times[-1:], fill)])
    return tuple(float(t) for t in filled.reshape(-1, temporal_patch).mean(axis=1))


def smart_resize_video(
    num_frames: int,
    height: int,
    width: int,
    *,
    factor: int,
    temporal_patch: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    """smart_resize with the area summed over the frames, as transformers' Qwen3-VL does it."""
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    kept = smart_resize(
        height, width, factor=factor, min_pixels=0, max_pixels=2**62, name="video frame"
    )
    filled = round(num_frames / temporal_patch) * temporal_patch
    area = filled * kept[0] * kept[1]
    if area > max_pixels:
        scale = math.sqrt(num_frames * height * width / max_pixels)
        return (
            max(factor, math.floor(height / scale / factor) * factor),
            max(factor, math.floor(width / scale / factor) * factor),
        )
    if area < min_pixels:
        scale = math.sqrt(min_pixels / (num_frames * height * width))
        return (
            math.ceil(height * scale / factor) * factor,
            math.ceil(width * scale / factor) * factor,
        )
    return kept


def load_video(
    path: str | Path,
    *,
    fps: float | int | None = None,
    max_frames: int | None = None,
    min_frames: int = 1,
    max_seconds: float | int | None = None,
) -> Video:
    """Reads frames, their true times, and the sound track at its own rate.

    Time 0 is where the first of picture and sound begins; sound that begins later has silence
    before it, so sample n sounds at n / rate. With `fps` or `max_frames` only the frames that
    `choose_frames` keeps are held in memory. `max_seconds` is a limit: a longer video is an
    error, never cut.
    """
    import av

    path = check_file(path)
    try:
        frames, times, rotation, duration = _read_frames(
            av, path, fps, max_frames, min_frames, max_seconds
        )
        audio, start = _read_sound(av, path)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a video: {error.strerror}") from error
    if rotation:
        frames = np.rot90(frames, rotation, axes=(1, 2))
    zero = times[0] if audio is None else min(times[0], start)
    if audio is not None:
        late = round((start - zero) * audio.sample_rate)
        samples = np.concatenate([np.zeros(late, np.float32), audio.samples])
        audio = check_audio(Audio(samples, audio.sample_rate), f"{path}: sound track")
    return check_video(Video(frames, times - zero, audio, duration - zero), str(path))


def _read_frames(av, path, fps, max_frames, min_frames, max_seconds):
    """(frames, times, quarter turns, time of the end); decodes once, keeps what is wanted."""
    with av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.video:
            raise UserError(f"{path}: has no frames (no picture track)")
        stream = container.streams.video[0]
        base = float(stream.time_base)
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
    if not packets:
        raise UserError(f"{path}: has no frames")
    if any(p.pts is None for p in packets):
        raise UserError(f"{path}: has frames without a time")
    stamps = np.unique([p.pts for p in packets])
    times = stamps * base
    last = max(packets, key=lambda p: p.pts)
    duration = (last.pts + last.duration) * base if last.duration else clip_seconds(times)
    seconds = float(duration - times[0])
    if max_seconds is not None and seconds > max_seconds:
        raise UserError(f"{path}: lasts {seconds:.2f} s, over the limit of {max_seconds:g} s")
    wanted = np.arange(len(stamps))
    if fps is not None or max_frames is not None:
        wanted = choose_frames(
            times,
            fps=len(times) / max(seconds, 1e-9) if fps is None else fps,
            max_frames=len(times) if max_frames is None else max_frames,
            min_frames=min_frames,
            duration=duration,
        )
    frames, places, rotation = _decode(av, path, stamps, set(wanted.tolist()), by_order=False)
    if frames is None:
        frames, places, rotation = _decode(av, path, stamps, set(wanted.tolist()), by_order=True)
    if not frames:
        raise UserError(f"{path}: has no frames")
    return np.stack(frames), times[places], rotation, float(duration)


def _decode(av, path, stamps, wanted: set, by_order: bool):
    """Frames whose place among `stamps` is wanted; None where their own times do not increase.

    Frames come in the order of show, but some containers (H.264 in AVI) only know the order of
    decoding and stamp them wrongly: then the n-th frame takes the n-th time.
    """
    place_of = {int(stamp): place for place, stamp in enumerate(stamps)}
    frames, places, rotation, previous, place = [], [], 0, -1, -1
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for count, frame in enumerate(container.decode(stream)):
            place = count if by_order else place_of.get(frame.pts, -1)
            if place <= previous and not by_order:
                return None, [], 0
            previous = place
            if place not in wanted:
                continue
            rotation = (getattr(frame, "rotation", 0) or 0) // 90 % 4
            frames.append(frame.to_ndarray(format="rgb24"))
            places.append(place)
            if frames[-1].shape != frames[0].shape:
                raise UserError(
                    f"{path}: the picture changes from {frames[0].shape[1::-1]} to "
                    f"{frames[-1].shape[1::-1]} pixels at frame {place}"
                )
    if by_order and place + 1 != len(stamps):
        raise UserError(
            f"{path}: the times of its frames cannot be told: {place + 1} frames, "
            f"{len(stamps)} times"
        )
    return frames, places, rotation


def _read_sound(av, path) -> tuple[Audio | None, float]:
    with av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.audio:
            return None, 0.0
        samples, rate, start = decode_track(container, container.streams.audio[0])
    return (Audio(samples, rate), start) if len(samples) else (None, 0.0)


def write_video(path: str | Path, video: Video, *, quality: int = 20) -> None:
    """Writes .mp4 (H.264, AAC) or .webm (VP9, Opus) with the frames' own times and the sound.

    quality: the encoder's constant rate factor, lower is better. Opus needs sound at 48, 24, 16,
    12 or 8 kHz; resample first.
    """
    import av

    path = Path(path)
    codecs = {".mp4": ("libx264", "aac"), ".webm": ("libvpx-vp9", "libopus")}
    if path.suffix not in codecs:
        raise UserError(f"{path}: the ending is {path.suffix!r}, must be .mp4 or .webm")
    check_video(video)
    height, width = video.frames.shape[1:3]
    if height % 2 or width % 2:
        raise UserError(f"video: is {width}x{height} pixels, both sides must be even to encode")
    if video.times[0] < 0:
        raise UserError(f"video: begins at {video.times[0]} s, must begin at 0 or later")
    try:
        with av.open(str(path), "w") as container:
            _encode(av, container, codecs[path.suffix], video, quality)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _encode(av, container, codecs, video: Video, quality: int) -> None:
    height, width = video.frames.shape[1:3]
    seconds = clip_seconds(video.times, video.duration)
    rate = Fraction(len(video.times) / max(seconds - video.times[0], 1e-3)).limit_denominator(1001)
    picture = container.add_stream(codecs[0], rate=rate)
    picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
    picture.options = {"crf": str(quality), "b": "0"}
    ticks = 1000 if codecs[0] == "libvpx-vp9" else 90_000
    picture.time_base = picture.codec_context.time_base = Fraction(1, ticks)
    sound = None
    if video.audio is not None:
        sound = container.add_stream(codecs[1], rate=video.audio.sample_rate, layout="mono")
    last = round(video.times[-1] * ticks)
    for pixels, time in zip(video.frames, video.times, strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = round(time * ticks), Fraction(1, ticks)
        _mux(container, picture.encode(frame), last, seconds, ticks)
    _mux(container, picture.encode(), last, seconds, ticks)
    if sound is not None:
        samples = np.ascontiguousarray(video.audio.samples[None], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = video.audio.sample_rate, 0
        frame.time_base = Fraction(1, video.audio.sample_rate)
        container.mux(sound.encode(frame))
        container.mux(sound.encode())


def _mux(container, packets, last: int, seconds: float, ticks: int) -> None:
    """Encoders give the last frame the mean duration: it is on show until the clip ends."""
    for packet in packets:
        if packet.pts == last:
            packet.duration = max(1, round(seconds * ticks) - last)
        container.mux(packet)
