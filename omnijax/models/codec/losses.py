"""What a decoded waveform is compared by: mel spectrograms at several scales, and adversaries.

Every loss is a mean over its own terms and is returned apart; weights belong to the objective.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.media.mel import MelConfig, log10_mel
from omnijax.models.codec.config import (
    SAMPLE_RATE,
    EnvelopeConfig,
    PeriodicityConfig,
    check_each_positive,
)
from omnijax.models.codec.discriminators import Judgement
from omnijax.models.codec.spectrum import A_VOICE, envelope, periodicity
from omnijax.nn.encoder import check
from omnijax.typing import Array, Bool, Float

ADVERSARIAL = ("hinge", "least_squares")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelLossConfig:
    """Windows in samples, each with its mel bins; hops of a quarter (DAC, arXiv 2306.06546).

    floor_log10: power below it, of a window of 1024 and in proportion of others, counts as
    silence. Without a floor the digital silence between words, ten decades down, is what a codec
    spends itself on. OmniWorld's speech lies above -5 in three quarters of its bins.
    """

    windows: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    bins: tuple[int, ...] = (8, 16, 32, 64, 80, 80)
    sample_rate: int = SAMPLE_RATE
    floor_log10: float | int = -5.0

    def __post_init__(self):
        check_each_positive(self, "windows", "bins")
        check(
            len(self.windows) == len(self.bins),
            f"MelLossConfig.bins has {len(self.bins)} entries, windows has {len(self.windows)}",
        )
        check(
            all(window % 4 == 0 for window in self.windows),
            f"MelLossConfig.windows is {self.windows}, each must be a multiple of 4",
        )

    @property
    def scales(self) -> tuple[MelConfig, ...]:
        return tuple(
            MelConfig(sample_rate=self.sample_rate, bins=bins, window=window, hop=window // 4)
            for window, bins in zip(self.windows, self.bins, strict=True)
        )


def mel_loss(
    samples: Float[Array, "B A"],
    target: Float[Array, "B A"],
    config: MelLossConfig = MelLossConfig(),
) -> Float[Array, ""]:
    """Mean absolute difference of log10 mel power, each window's mean first, then over windows.

    Samples past the last whole hop of a window do not count in it; A must hold one window.
    """
    both = jnp.concatenate([samples, target]).astype(jnp.float32)
    length, largest = both.shape[1], max(config.windows)
    if length < largest:
        raise ValueError(f"{length} samples are fewer than the largest window of {largest}")
    with jax.named_scope("mel_loss"):
        total = jnp.zeros(())
        for scale in config.scales:
            whole = both[:, : length - length % scale.hop]
            mel = jax.vmap(lambda x, scale=scale: log10_mel(x, scale))(whole)
            mel = jnp.maximum(mel, config.floor_log10 + math.log10(scale.window / 1024))
            ours, theirs = jnp.split(mel, 2)
            total += jnp.mean(jnp.abs(ours - theirs))
        return total / len(config.windows)


def envelope_loss(
    predicted: Float[Array, "B R M"],
    samples: Float[Array, "B A"],
    config: EnvelopeConfig,
) -> Float[Array, ""]:
    """Mean absolute error of what a frame's features say of its own `envelope`.

    Without it nothing tells the encoder what a frame sounds like but a Code2Wav that has not
    learned to speak: on OmniWorld the two then agree on the mean spectrum and stay there.
    """
    frame = samples.shape[1] // predicted.shape[1]
    target = jax.lax.stop_gradient(envelope(samples, frame, config))
    return jnp.mean(jnp.abs(predicted.astype(jnp.float32) - target))


def timbre_loss(
    said: Float[Array, "B R M"], true: Float[Array, "B R M"], config: EnvelopeConfig
) -> Float[Array, ""]:
    """Mean absolute difference of two `envelope`s, each a clip's mean over its louder steps.

    That mean is what a voice is known by, and it is off by little wherever a frame is. Frame by
    frame a loss is content with the likeliest spectrum of its sound, in whichever voices are
    heard most. Louder: than the mean of the true clip's steps.
    """
    rows = true.shape[0]
    true = jax.lax.stop_gradient(true).reshape(rows, -1, config.bins)
    apart = said.astype(jnp.float32).reshape(true.shape) - true
    loudness = jnp.mean(true, -1, keepdims=True)
    loud = loudness >= jnp.mean(loudness, 1, keepdims=True)
    # Where all are as loud, their mean may be rounded above them.
    count = jnp.maximum(jnp.sum(loud, 1), 1)
    means = jnp.sum(jnp.where(loud, apart, 0.0), 1) / count
    return jnp.mean(jnp.abs(means))


def periodicity_loss(
    said: Float[Array, "B R M"],
    samples: Float[Array, "B A"],
    config: PeriodicityConfig = A_VOICE,
) -> Float[Array, ""]:
    """Mean absolute difference of a `periodicity` from that of the samples.

    Spectral losses leave a low voice whispered: where harmonics lie closer than their bins, noise
    of the same envelope costs no more than a pitch. Here too a pitch some semitones off costs more
    than none: the lags near the true one pull it in, those far away do not.
    """
    frame = samples.shape[1] // said.shape[1]
    target = jax.lax.stop_gradient(periodicity(samples, frame, config))
    return jnp.mean(jnp.abs(said.astype(jnp.float32) - target))


def pitch_of(
    samples: Float[Array, "B A"], frame: int, config: PeriodicityConfig, least: float = 0.5
) -> Float[Array, "B S"]:
    """log2 Hz at the middle of each of a frame's `config.steps`; nan where no lag reaches `least`.

    The best lag of `periodicity`, between lags by a parabola. Of two nearly as good the shorter
    counts, for a voice is as alike to itself two periods earlier: an octave costs 0.05. It must
    be better than its neighbours: what is lower than `lowest` has no pitch here. What is higher
    than `highest` has that of an octave or more below.
    """
    hop = frame // config.steps
    ahead = (config.window - hop) // 2  # a window ends with its step: its middle is earlier
    later = jnp.pad(samples[:, ahead:], ((0, 0), (0, ahead)))
    alike = periodicity(later, frame, config)
    alike = alike.reshape(samples.shape[0], -1, config.lags)
    octaves = np.linspace(np.log2(config.highest), np.log2(config.lowest), config.lags)
    octaves = octaves.astype(np.float32)
    best = jnp.argmax(alike + 0.05 * octaves, axis=-1)
    inside = jnp.clip(best, 1, config.lags - 2)[..., None] + np.arange(-1, 2)
    left, middle, right = jnp.moveaxis(jnp.take_along_axis(alike, inside, -1), -1, 0)
    bend = jnp.minimum(left - 2 * middle + right, -1e-6)
    offset = jnp.clip(0.5 * (left - right) / bend, -1, 1)
    log_hertz = octaves[0] + (inside[..., 1] + offset) * (octaves[1] - octaves[0])
    is_one = (middle >= least) & (middle >= left) & (middle >= right)
    return jnp.where(is_one, log_hertz, jnp.nan)


def pitch_loss(said: Float[Array, "B S"], true: Float[Array, "B S"]) -> Float[Array, ""]:
    """Mean absolute difference in octaves, of the steps whose true pitch is no nan."""
    has = jnp.isfinite(true)
    apart = jnp.where(has, jnp.abs(said - jnp.where(has, true, 0.0)), 0.0)
    return jnp.sum(apart) / jnp.maximum(jnp.sum(has), 1)


def discriminator_loss(
    real: Sequence[Judgement], fake: Sequence[Judgement], kind: str = "hinge"
) -> Float[Array, ""]:
    """How far the judges are from telling real from decoded, mean over judges.

    hinge: max(0, 1 - D(real)) + max(0, 1 + D(fake)); 2 for a judge that always says 0.
    least_squares: (1 - D(real))^2 + D(fake)^2.
    """
    check_kind(kind)
    total = jnp.zeros(())
    for a, b in zip(real, fake, strict=True):
        a, b = a.scores.astype(jnp.float32), b.scores.astype(jnp.float32)
        if kind == "hinge":
            total += jnp.mean(jax.nn.relu(1 - a)) + jnp.mean(jax.nn.relu(1 + b))
        else:
            total += jnp.mean(jnp.square(1 - a)) + jnp.mean(jnp.square(b))
    return total / len(real)


def adversarial_loss(fake: Sequence[Judgement], kind: str = "hinge") -> Float[Array, ""]:
    """What the generator is told by the judges: -D(fake), or (1 - D(fake))^2; mean over judges."""
    check_kind(kind)
    total = jnp.zeros(())
    for judged in fake:
        scores = judged.scores.astype(jnp.float32)
        total += jnp.mean(-scores if kind == "hinge" else jnp.square(1 - scores))
    return total / len(fake)


def feature_loss(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Float[Array, ""]:
    """Mean absolute difference of every layer's features, relative to their size (EnCodec)."""
    terms = [
        jnp.mean(jnp.abs(jax.lax.stop_gradient(a) - b).astype(jnp.float32))
        / (jnp.mean(jnp.abs(jax.lax.stop_gradient(a)).astype(jnp.float32)) + 1e-6)
        for judged_real, judged_fake in zip(real, fake, strict=True)
        for a, b in zip(judged_real.features, judged_fake.features, strict=True)
    ]
    return sum(terms) / len(terms)


def distillation_loss(
    student: Float[Array, "B R E"],
    teacher: Float[Array, "B S E"],
    valid: Bool[Array, "B R"],
) -> Float[Array, ""]:
    """1 - cosine between each frame and the teacher's feature at its middle, mean of valid ones.

    The teacher's rate may differ: S features cover the same time as R frames, and the two nearest
    are mixed linearly. The teacher gets no gradient.
    """
    frames, steps = student.shape[1], teacher.shape[1]
    at = jnp.clip((jnp.arange(frames) + 0.5) * steps / frames - 0.5, 0, steps - 1)
    below = jnp.floor(at).astype(jnp.int32)
    share = (at - below)[:, None]
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    above = jnp.minimum(below + 1, steps - 1)
    teacher = teacher[:, below] * (1 - share) + teacher[:, above] * share
    student = student.astype(jnp.float32)
    product = jnp.sum(student * teacher, -1)
    lengths = jnp.sum(jnp.square(student), -1) * jnp.sum(jnp.square(teacher), -1)
    cosine = product * jax.lax.rsqrt(lengths + 1e-12)
    weights = valid.astype(jnp.float32)
    return jnp.sum((1 - cosine) * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def check_kind(kind: str) -> None:
    check(kind in ADVERSARIAL, f"adversarial is {kind!r}, it must be one of {ADVERSARIAL}")
