"""Sound files: reading, checking, resampling, writing. Mono float32 everywhere inside."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from omnijax.errors import UserError
from omnijax.typing import Shaped

LOUDEST = 8.0  # of full scale 1: what is above is of another scale


class Audio(NamedTuple):
    """A mono clip: samples float32 [A], full scale -1..1, and samples a second."""

    samples: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def check_audio(audio: Audio, name: str = "audio", max_seconds: float | int | None = None) -> Audio:
    """The clip as given, or a UserError that says what is wrong with it. Never changes it."""
    samples, rate = audio
    if rate <= 0:
        raise UserError(f"{name}: sample rate is {rate} Hz, must be at least 1")
    if getattr(samples, "ndim", None) != 1:
        shape = np.shape(samples) if hasattr(samples, "ndim") else type(samples).__name__
        raise UserError(f"{name}: samples have shape {shape}, must be one mono channel [A]")
    if not np.issubdtype(samples.dtype, np.floating):
        raise UserError(f"{name}: samples are {samples.dtype}, must be float32 in -1..1")
    if len(samples) == 0:
        raise UserError(f"{name}: has no samples")
    finite = np.isfinite(samples)
    if not finite.all():
        first = int(np.argmin(finite))
        raise UserError(f"{name}: sample {first} is {samples[first]}, must be a finite number")
    peak = np.abs(samples).max()
    if peak > LOUDEST:
        raise UserError(f"{name}: samples reach {peak:g}, must be float32 in -1..1")
    if max_seconds is not None and len(samples) > max_seconds * rate:
        raise UserError(
            f"{name}: lasts {len(samples) / rate:.2f} s, over the limit of {max_seconds:g} s"
        )
    return audio


def load_audio(path: str | Path, max_seconds: float | int | None = None) -> Audio:
    """Reads a sound file at its own rate; several channels are mixed down by their mean.

    Whatever libsndfile knows (wav, flac, ogg, mp3, ...), else the sound track that ffmpeg finds
    (m4a, webm, mp4, ...). Not resampled, not cut: `resample` is a call of its own, and
    `max_seconds` is a limit that raises UserError.
    """
    path = check_file(path)
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, MemoryError, ValueError) as error:
        # Of a damaged header the length may be anything, more than there is memory too.
        audio = _read_with_av(path, str(error).rstrip("."))
    else:
        mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
        audio = Audio(np.ascontiguousarray(mono), rate)
    return check_audio(audio, str(path), max_seconds)


def resample(audio: Audio, rate: int) -> Audio:
    """The same clip at another rate, by soxr at high quality; the same object if it has it."""
    check_audio(audio)
    if rate <= 0:
        raise UserError(f"audio: the rate to resample to is {rate} Hz, must be at least 1")
    if rate == audio.sample_rate:
        return audio
    samples = soxr.resample(audio.samples.astype(np.float32), audio.sample_rate, rate)
    if len(samples) == 0:
        raise UserError(
            f"audio: {len(audio.samples)} samples at {audio.sample_rate} Hz are none at {rate} Hz"
        )
    return Audio(samples, rate)


def save_audio(path: str | Path, audio: Audio) -> None:
    """Writes by the file name's ending; .wav in 32-bit float (exact), others in their default.

    Raises UserError for samples outside -1..1 where the format would clip them.
    """
    check_audio(audio)
    path = Path(path)
    exact = path.suffix.lower() == ".wav"
    peak = float(np.abs(audio.samples).max())
    if not exact and peak > 1:
        raise UserError(f"audio: peak is {peak:.3f}, {path.suffix} holds at most 1")
    try:
        samples = audio.samples.astype(np.float32)
        soundfile.write(path, samples, audio.sample_rate, subtype="FLOAT" if exact else None)
    except (soundfile.LibsndfileError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be written: {error}") from error


def check_file(path: str | Path) -> Path:
    """The path, or a UserError where there is no readable file with anything in it."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: is not a file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if empty:
        raise UserError(f"{path}: the file is empty (0 bytes)")
    return path


def to_mono(planes: Shaped[np.ndarray, "channels A"]) -> np.ndarray:
    """The mean of the channels as float32 in -1..1; integer samples are scaled by their range."""
    if np.issubdtype(planes.dtype, np.integer):
        info = np.iinfo(planes.dtype)
        middle = (info.max + info.min + 1) / 2
        planes = (planes.astype(np.float64) - middle) / (info.max - middle + 1)
    return planes.mean(axis=0).astype(np.float32)


def decode_track(container, stream) -> tuple[np.ndarray, int, float]:
    """(samples [A], sample rate, start in seconds) of one sound track of a PyAV container.

    Gaps between packets of over 10 ms are filled with silence, so that sample n sounds at
    start + n / rate.
    """
    parts, rate, start, end = [], 0, None, 0.0
    for frame in container.decode(stream):
        channels = len(frame.layout.channels)
        planes = frame.to_ndarray()
        if not frame.format.is_planar:
            planes = planes.reshape(-1, channels).T
        mono = to_mono(planes)
        if rate and frame.sample_rate != rate:
            raise UserError(f"the sound track changes from {rate} Hz to {frame.sample_rate} Hz")
        rate = frame.sample_rate
        at = end if frame.time is None else frame.time
        if start is None:
            start = end = at
        gap = round((at - end) * rate)
        if gap > rate // 100:
            parts.append(np.zeros(gap, np.float32))
            end = at
        parts.append(mono)
        end += len(mono) / rate
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return samples, rate, 0.0 if start is None else start


def _read_with_av(path: Path, why: str) -> Audio:
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise UserError(f"{path}: has no sound track")
            samples, rate, _ = decode_track(container, container.streams.audio[0])
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot be read as sound: {why}; {error.strerror}") from error
    return Audio(samples, rate)
