"""Eight synthesised event sounds, each of another kind, mixed into a sound track."""

import numpy as np

from omnijax.typing import Float

SAMPLE_RATE = 16_000
SECONDS = 0.5  # no sound is longer, so that two events never overlap


def event_sound(name: str, rng: np.random.Generator) -> Float[np.ndarray, " A"]:
    """One sound at 16 kHz with full scale 1; its pitch varies a little."""
    n = int(SECONDS * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    tune = rng.uniform(0.94, 1.06)
    noise = rng.standard_normal(n)
    match name:
        case "bell":  # inharmonic partials, long decay
            wave = sum(
                a * np.sin(2 * np.pi * 880 * tune * ratio * t) * np.exp(-t * (5 + 2 * ratio))
                for ratio, a in ((1, 1), (2.76, 0.6), (5.4, 0.35))
            )
        case "drum":  # a low tone that falls, and a thud of noise
            phase = 2 * np.pi * np.cumsum(70 + 90 * np.exp(-t * 18)) * tune / SAMPLE_RATE
            wave = np.sin(phase) * np.exp(-t * 9) + 0.2 * _low(noise, 500) * np.exp(-t * 40)
        case "whistle":  # a pure tone that glides up
            phase = 2 * np.pi * np.cumsum(1500 + 2200 * t) * tune / SAMPLE_RATE
            wave = np.sin(phase) * _gate(t, 0.4)
        case "click":  # three short ticks
            wave = np.zeros(n)
            for start in (0.0, 0.09, 0.18):
                after = t - start
                tick = np.sin(2 * np.pi * 2600 * tune * after) * np.exp(-after * 350)
                wave += np.where(after >= 0, tick, 0)
        case "buzz":  # a low square wave
            wave = np.sign(np.sin(2 * np.pi * 130 * tune * t)) * _gate(t, 0.4) * 0.6
        case "splash":  # a burst of noise
            wave = (noise - _low(noise, 900)) * np.exp(-t * 10) * np.clip(t / 0.02, 0, 1) * 0.5
        case "horn":  # two steady harmonic tones
            wave = sum(np.sin(2 * np.pi * f * tune * k * t) / k
                       for f in (370, 466) for k in (1, 2, 3)) * _gate(t, 0.42)  # fmt: skip
        case "chirp":  # quick falling tweets
            within = np.mod(t, 0.1)
            phase = 2 * np.pi * (4800 * within - 14_000 * within**2) * tune
            wave = np.sin(phase) * np.sin(np.pi * within / 0.1) ** 2 * (t < 0.4)
        case _:
            raise KeyError(name)
    return wave / np.abs(wave).max()


def sound_track(
    events: list[dict], duration: float, rng: np.random.Generator
) -> Float[np.ndarray, " A"]:
    """The events' sounds at their times over a faint hiss, at 16 kHz."""
    track = rng.standard_normal(round(duration * SAMPLE_RATE)) * rng.uniform(5e-4, 2e-3)
    for event in events:
        start = round(event["time"] * SAMPLE_RATE)
        wave = event_sound(event["sound"], rng)[: len(track) - start]
        track[start : start + len(wave)] += wave * rng.uniform(0.3, 0.7)
    return track


def _low(wave: np.ndarray, hertz: float | int) -> np.ndarray:
    """Keeps what lies below a frequency, falling off as a second-order filter does."""
    frequencies = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    return np.fft.irfft(np.fft.rfft(wave) / (1 + (frequencies / hertz) ** 2), len(wave))


def _gate(t: np.ndarray, seconds: float) -> np.ndarray:
    return np.clip(np.minimum(t, seconds - t) / 0.02, 0, 1)
