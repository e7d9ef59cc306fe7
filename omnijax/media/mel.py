"""Log-mel spectrogram: a 25 ms window every 10 ms, offline and streamed.

Equal to the released WhisperFeatureExtractor (``floor="clip_max"``) without its limit of 30 s.
Frame t is centred on sample ``hop * t``; the clip is mirrored at both ends; a clip of A samples
has ``A // hop`` frames, so samples past the last whole hop only enter through the last window.

Lengths vary from clip to clip, so the compiled part runs on a few static sizes (`_bucket`): no
clip causes a compilation of its own.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.errors import UserError
from omnijax.typing import Array, Float

SMALLEST_POWER = 1e-10
MAX_FRAMES_PER_CALL = 6144
MIN_FRAMES_PER_CALL = 16


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """Front end of the audio encoder; the defaults are those of the released models at 16 kHz.

    floor: "fixed" bounds log10(power) from below by `floor_log10`, the same for every clip, so
    a frame depends on nothing after it and the mel streams. "clip_max" (released) bounds it by
    the clip's own maximum less 8 decades, which is known only at the clip's end.
    floor_log10: -6.5 is the released floor of a loud clip: speech near full scale reaches 1.5,
    and 1.5 - 8 = -6.5 (Voxtral Realtime fixes the same 1.5). [C]
    """

    sample_rate: int = 16_000
    bins: int = 128
    window: int = 400
    hop: int = 160
    floor: str = "fixed"
    floor_log10: float | int = -6.5

    def __post_init__(self):
        for name in ("sample_rate", "bins", "window", "hop"):
            if getattr(self, name) < 1:
                raise UserError(f"mel {name} is {getattr(self, name)}, must be at least 1")
        if self.window % 2 or self.window // 2 < self.hop:
            raise UserError(
                f"mel window is {self.window} samples, must be even and at least twice the hop "
                f"of {self.hop}"
            )
        if self.floor not in ("fixed", "clip_max"):
            raise UserError(f"mel floor is {self.floor!r}, must be 'fixed' or 'clip_max'")


class MelState(NamedTuple):
    """A stream's memory: at most one window of samples, whatever came before.

    pending: samples from the start of the next frame on (mirrored head included), or all of them
        while the head, half a window, is not yet known.
    received: samples so far.  emitted: frames so far.
    """

    pending: np.ndarray
    received: int
    emitted: int


@functools.lru_cache(maxsize=8)
def mel_filters(config: MelConfig) -> Float[np.ndarray, "bands M"]:
    """Slaney-scaled, area-normalised triangles from librosa, computed once (its import is slow)."""
    from librosa.filters import mel

    filters = mel(
        sr=config.sample_rate, n_fft=config.window, n_mels=config.bins, htk=False, norm="slaney"
    )
    filters = np.ascontiguousarray(filters.T, dtype=np.float32)
    filters.flags.writeable = False
    return filters


def log10_mel(samples: Float[Array, " A"], config: MelConfig) -> Float[Array, "T M"]:
    """log10 of mel power, [hop * (T + k - 1)] samples -> [T, M], k = ceil(window / hop).

    Pure jnp, for use inside jit: neither mirrored ends nor floor, frame t begins at hop * t.
    """
    overlap = -(-config.window // config.hop)
    blocks = samples.astype(jnp.float32).reshape(-1, config.hop)
    count = blocks.shape[0] - overlap + 1
    # Overlapping frames as shifted copies of the hops: no gather.
    frames = jnp.concatenate([blocks[i : i + count] for i in range(overlap)], axis=1)
    angle = 2 * np.pi * np.arange(config.window) / config.window
    hann = (0.5 - 0.5 * np.cos(angle)).astype(np.float32)
    with jax.named_scope("mel"):
        spectrum = jnp.fft.rfft(frames[:, : config.window] * hann)
        power = spectrum.real**2 + spectrum.imag**2
        mel = jnp.matmul(power, mel_filters(config), precision=jax.lax.Precision.HIGHEST)
        return jnp.log10(jnp.maximum(mel, SMALLEST_POWER))


@functools.lru_cache(maxsize=1)
def _host():
    """(compiled log10_mel, device): on the CPU, so that the data path keeps off the accelerator.

    One thread a clip: XLA's pool is shared with whatever else runs in the process, and a clip of
    half a millisecond would wait for a training step's matmuls (measured means on two busy
    cores: 47-75 ms against 1-8).
    Where JAX was started without a CPU backend, its default device.
    """
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.jit(log10_mel, static_argnames="config"), jax.local_devices()[0]
    options = {"xla_cpu_multi_thread_eigen": False}
    return jax.jit(log10_mel, static_argnames="config", compiler_options=options), device


def check_length(samples: int, config: MelConfig, name: str = "audio") -> None:
    """Raises UserError where so many samples are shorter than one hop: they have no frame."""
    if samples < config.hop:
        raise UserError(f"{name} has {samples} samples, mel needs at least one hop of {config.hop}")


def log_mel(
    samples: Float[np.ndarray, " A"], config: MelConfig = MelConfig()
) -> Float[np.ndarray, "T M"]:
    """Log-mel of a whole clip of any length, T = A // hop; computed by jit on the host.

    Raises UserError for a clip shorter than one hop and for samples that are not finite.
    """
    _check_finite(samples)
    check_length(len(samples), config)
    count = len(samples) // config.hop
    half = config.window // 2
    end = config.hop * (count - 1) + half
    head = _mirrored(samples, -half, 0)
    tail = _mirrored(samples, len(samples), max(end, len(samples)))
    padded = np.concatenate([head, samples[:end], tail]).astype(np.float32, copy=False)
    return _finish(_frames(padded, count, config), config)


def init_stream(config: MelConfig = MelConfig()) -> MelState:
    """The state before the first sample."""
    if config.floor != "fixed":
        raise UserError(
            f"mel floor is {config.floor!r}: it depends on the whole clip and cannot be streamed, "
            "use 'fixed'"
        )
    return MelState(np.zeros(0, np.float32), 0, 0)


def stream_mel(
    state: MelState, chunk: Float[np.ndarray, " A"], config: MelConfig = MelConfig()
) -> tuple[MelState, Float[np.ndarray, "T M"]]:
    """Takes any number of samples, gives the frames whose windows they complete (maybe none)."""
    _check_finite(chunk)
    half = config.window // 2
    pending = np.concatenate([state.pending, chunk.astype(np.float32, copy=False)])
    received = state.received + len(chunk)
    if received <= half:
        return MelState(pending, received, 0), np.zeros((0, config.bins), np.float32)
    if state.received <= half:
        pending = np.concatenate([_mirrored(pending, -half, 0), pending])
    count = max(0, (len(pending) - config.window) // config.hop + 1)
    frames = _frames(pending, count, config)
    state = MelState(pending[count * config.hop :].copy(), received, state.emitted + count)
    return state, _finish(frames, config)


def flush_stream(state: MelState, config: MelConfig = MelConfig()) -> Float[np.ndarray, "T M"]:
    """The last frames, once the clip has ended: those whose windows reach past its end."""
    count = state.received // config.hop - state.emitted
    if count <= 0:
        return np.zeros((0, config.bins), np.float32)
    if state.received <= config.window // 2:
        return log_mel(state.pending, config)
    length = len(state.pending)
    end = config.hop * (count - 1) + config.window
    padded = np.concatenate([state.pending, _mirrored(state.pending, length, max(end, length))])
    return _finish(_frames(padded, count, config), config)


def _check_finite(samples) -> None:
    if not np.isfinite(samples).all():
        first = int(np.argmin(np.isfinite(samples)))
        raise UserError(f"audio sample {first} is {samples[first]}, must be a finite number")


def _mirrored(samples, start: int, stop: int):
    """Positions [start, stop) of the clip mirrored at its first and last sample, endlessly."""
    period = max(1, 2 * (len(samples) - 1))
    index = np.arange(start, stop) % period
    return samples[np.minimum(index, period - index)]


def _bucket(count: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ...: at most half as much again as is needed."""
    size = MIN_FRAMES_PER_CALL
    while size < count:
        size *= 2
    return size * 3 // 4 if size > MIN_FRAMES_PER_CALL and size * 3 // 4 >= count else size


def _frames(padded, count: int, config: MelConfig):
    """The first `count` frames of `padded`, by compiled calls of static sizes."""
    out = np.empty((count, config.bins), np.float32)
    overlap = -(-config.window // config.hop)
    compiled, device = _host()
    for first in range(0, count, MAX_FRAMES_PER_CALL):
        n = min(MAX_FRAMES_PER_CALL, count - first)
        begin = first * config.hop
        part = padded[begin : begin + (n - 1) * config.hop + config.window]
        buffer = np.zeros((_bucket(n) + overlap - 1) * config.hop, np.float32)
        buffer[: len(part)] = part
        out[first : first + n] = np.asarray(compiled(jax.device_put(buffer, device), config))[:n]
    return out


def _finish(log10_power, config: MelConfig):
    """Floor and scale, in place: (max(x, floor) + 4) / 4."""
    if config.floor == "clip_max":
        floor = np.float32(log10_power.max() - 8.0)
    else:
        floor = np.float32(config.floor_log10)
    np.maximum(log10_power, floor, out=log10_power)
    log10_power += 4.0
    log10_power *= 0.25
    return log10_power
