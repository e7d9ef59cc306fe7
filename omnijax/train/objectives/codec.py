"""The codec's training: one pass in which generator and judges learn, each from its own loss.

The two never share a gradient: the generator is judged by judges held constant, the judges see
samples held constant. So one sum of losses and one backward pass train both, each side with an
optimizer of its own (`gan_optimizer`). Codebooks follow what they code and get no gradient: they
begin as k-means of the first batch, in `init`, and `after` moves them once the parameters have
stepped.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from omnijax.data.crops import CodecBatch
from omnijax.errors import UserError
from omnijax.models.codec import Codec
from omnijax.models.codec.codebooks import (
    CodebookState,
    Quantised,
    codebook_use,
    quantise_for_training,
    start_codebooks,
    update_codebooks,
)
from omnijax.models.codec.config import EnvelopeConfig, PeriodicityConfig
from omnijax.models.codec.discriminators import Discriminators
from omnijax.models.codec.losses import (
    MelLossConfig,
    adversarial_loss,
    check_kind,
    discriminator_loss,
    distillation_loss,
    envelope_loss,
    feature_loss,
    mel_loss,
    periodicity_loss,
    pitch_loss,
    pitch_of,
    timbre_loss,
)
from omnijax.models.codec.source import Voice
from omnijax.models.codec.spectrum import envelope, periodicity
from omnijax.nn.linear import fan_in_init
from omnijax.train.stages import OptimizerConfig
from omnijax.train.state import (
    Losses,
    Objective,
    Params,
    make_optimizer,
    merge_params,
    split_params,
)
from omnijax.typing import Array, Bool, Float, Int

# What trains by gradient. The codebooks and their usage do not: `after` moves them.
GENERATOR = (r"^codec/(?!quantiser/codebooks$)", r"^(distil|envelope)/")
ENCODER = (r"^codec/(encoder/|quantiser/(?!codebooks$))", r"^(distil|envelope)/")
PITCH = r"^pitch/"  # beside these, where `CodecLossConfig.pitch` is
DECODER = (r"^codec/code2wav/",)
JUDGES = (r"^judges/",)

LAGS = 29  # an octave, of the pitch that a source learns: less than half a semitone apart
WEIGHTS = (
    "mel",
    "features",
    "adversarial",
    "commitment",
    "distillation",
    "envelope",
    "pitch",
    "periodicity",
    "timbre",
    "contour",
    "voice",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecLossConfig:
    """Weights of the generator's losses (those of DAC) and how the judges learn."""

    mel: float | int = 15.0
    features: float | int = 2.0
    adversarial: float | int = 1.0
    commitment: float | int = 0.25
    distillation: float | int = 1.0
    envelope: float | int = 0.0  # of what the quantised features say of their frame's spectrum
    pitch: float | int = 0.0  # of what they say of their frame's periodicity
    periodicity: float | int = 0.0  # of the decoded samples'
    # Of the mean spectrum of what the quantised features say, where `envelope` is, and of what
    # is decoded.
    timbre: float | int = 0.0
    # Where Code2Wav has harmonics: of the pitch that it says, and of what they sound like beside
    # the target where that has a pitch, silence elsewhere. Without the second they fall silent:
    # beside convolutions that whisper already, any more sound costs more than a pitch brings.
    contour: float | int = 5.0
    voice: float | int = 10.0
    kind: str = "hinge"  # or least_squares
    judge_rate: float | int = 1.0  # the judges' learning rate as a multiple of the generator's
    mel_scales: MelLossConfig = MelLossConfig()
    envelopes: EnvelopeConfig = EnvelopeConfig()
    periods: PeriodicityConfig = PeriodicityConfig()

    def __post_init__(self) -> None:
        for field in (*WEIGHTS, "judge_rate"):
            value = getattr(self, field)
            if value < 0:
                raise UserError(f"CodecLossConfig.{field} is {value}, it must not be negative")
        check_kind(self.kind)


def check_losses(
    config: CodecLossConfig, *, encoded: bool, decoded: bool, judged: bool, taught: bool
) -> None:
    """Raises UserError where a stage that trains these parts cannot learn from these losses."""
    if not decoded and (judged or not config.envelope):
        raise UserError(
            "an encoder alone learns from the envelope: CodecLossConfig.envelope is "
            f"{config.envelope}, and there is nothing to judge"
        )
    if not decoded and config.periodicity:
        raise UserError(
            "an encoder alone gives no sound that has a period: CodecLossConfig.periodicity is "
            f"{config.periodicity}"
        )
    if not encoded and (taught or config.envelope or config.pitch or not decoded):
        raise UserError(
            "Code2Wav alone has nothing to learn from a teacher, the envelope or the pitch: "
            f"CodecLossConfig.envelope is {config.envelope}, its pitch {config.pitch}"
        )


def valid_frames(lengths: Int[Array, "B"], frames: int, size: int) -> Bool[Array, "B R"]:
    """Frames that hold at least one valid sample."""
    return jnp.arange(frames) * size < lengths[:, None]


def faded(steps: Bool[Array, "B S"], length: int) -> Float[Array, "B A"]:
    """1 in steps that are True, 0 in others, with a step on the way, as a source comes and goes."""
    now = steps.astype(jnp.float32)
    before = jnp.pad(now, ((0, 0), (1, 0)))[:, :-1]
    hop = length // steps.shape[1]
    share = jnp.arange(1, hop + 1) / hop
    mask = before[..., None] + (now - before)[..., None] * share
    return mask.reshape(steps.shape[0], length)


def reconstruct(
    codec: Codec,
    samples: Float[Array, "B A"],
    valid: Bool[Array, "B R"],
    key: Array | None,
    decoded: bool,
    pitch: Float[Array, "B S"] | None = None,
) -> tuple[Float[Array, "B A"] | None, Voice | None, Quantised]:
    """`codec` bound to its parameters: through the quantiser and, if asked, back, by
    `Code2Wav.synthesise`.

    key None: every clip through all codebooks.
    """
    quantised = quantise_for_training(codec.quantiser, codec.encoder(samples)[0], valid, key)
    if not decoded:
        return None, None, quantised
    decoded_samples, voice, _ = codec.code2wav.synthesise(quantised.features, pitch=pitch)
    return decoded_samples, voice, quantised


def codec_objective(
    codec: Codec,
    example: CodecBatch,
    config: CodecLossConfig = CodecLossConfig(),
    *,
    judges: Discriminators | None = None,
    teacher: nn.Module | None = None,
    decoded: bool = True,
    encoded: bool = True,
) -> Objective:
    """The codec's objective over `CodecBatch`; `example` gives shapes and the first codebooks.

    judges: None leaves the adversarial losses out, for a first stage on the mel loss alone.
    teacher: a speech encoder (AuT) over `batch.heard`, whose features codebook 0 learns to carry;
    it lies under "audio" and stands still.
    decoded: False trains the encoder and the codebooks alone, on the envelope and the teacher.
    encoded: False trains Code2Wav alone, on the codes as they are: all of them, of every clip.

    A Code2Wav with harmonics sounds at the true pitch here, in evaluation as in training: how far
    what it says itself would be off is "contour", in octaves.

    Parameters lie under "codec", "codebook_usage", and where they exist "judges", "audio",
    "distil", "envelope" and "pitch".
    """
    if codec.config.encoder is None or codec.config.code2wav.lookup != "rvq":
        raise UserError(
            "a codec trains with an encoder and Code2WavConfig.lookup 'rvq': its encoder is "
            f"{codec.config.encoder}, its lookup {codec.config.code2wav.lookup!r}"
        )
    parts = {"encoded": encoded, "decoded": decoded}
    check_losses(config, **parts, judged=judges is not None, taught=teacher is not None)
    if teacher is not None and example.heard is None:
        raise UserError("the codec has a teacher, but its batches hold nothing for it to hear")
    quantiser, size = codec.config.quantiser, codec.config.samples_per_frame
    harmonics = codec.config.code2wav.harmonics
    if harmonics is not None and decoded:
        steps_of_pitch = dataclasses.replace(
            config.periods,
            steps=math.prod(codec.config.code2wav.upsample),
            lags=math.ceil(harmonics.octaves * LAGS),
            lowest=harmonics.lowest,
            highest=harmonics.highest,
        )

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 5)
        samples = jnp.asarray(example.samples)
        params = {"codec": codec.init(keys[0], jnp.zeros_like(samples[:1]))["params"]}
        if judges is not None:
            params["judges"] = judges.init(keys[1], jnp.zeros_like(samples[:1]))["params"]
        if teacher is not None:
            heard = jax.tree.map(jnp.zeros_like, example.heard)
            (features, _), audio = teacher.init_with_output(keys[2], *heard)
            shape = (quantiser.features, features.shape[-1])
            params["audio"] = audio["params"]
            params["distil"] = {"kernel": fan_in_init(shape[0])(keys[3], shape)}
        heads = {
            "envelope": (config.envelopes.steps * config.envelopes.bins, config.envelopes.middle),
            "pitch": (config.periods.steps * config.periods.lags, 0.0),
        }
        for number, (name, (width, middle)) in enumerate(heads.items(), 1):
            if getattr(config, name):
                key = jax.random.fold_in(keys[3], number)
                kernel = fan_in_init(quantiser.features)(key, (quantiser.features, width))
                params[name] = {"kernel": kernel, "bias": jnp.full((width,), middle)}

        def begin(bound: Codec) -> CodebookState:
            features = bound.encoder(samples)[0]
            lengths = jnp.asarray(example.lengths)
            valid = valid_frames(lengths, features.shape[1], size)
            return start_codebooks(bound.quantiser, features, valid, keys[4])

        return _with_codebooks(params, codec.apply({"params": params["codec"]}, method=begin))

    def loss(params: Params, batch: CodecBatch, key: Array | None) -> Losses:
        rows, length = batch.samples.shape
        valid = valid_frames(batch.lengths, length // size, size)
        true_pitch = None
        if harmonics is not None and decoded:
            with jax.named_scope("pitch"):
                true_pitch = pitch_of(batch.samples, size, steps_of_pitch)
                true_pitch -= math.log2(harmonics.lowest)
        with jax.named_scope("codec"):
            samples, voice, quantised = codec.apply(
                {"params": params["codec"]},
                batch.samples,
                valid,
                key if encoded else None,
                decoded,
                true_pitch,
                method=reconstruct,
            )
        losses = {"commitment": quantised.commitment}
        if samples is not None:
            losses["mel"] = mel_loss(samples, batch.samples, config.mel_scales)
        if samples is not None and config.periodicity:
            heard = periodicity(samples, size, config.periods)
            losses["periodicity"] = periodicity_loss(heard, batch.samples, config.periods)
        if true_pitch is not None:
            losses["contour"] = pitch_loss(voice.pitch, true_pitch)
            target = batch.samples * faded(jnp.isfinite(true_pitch), length)
            losses["voice"] = mel_loss(voice.samples, target, config.mel_scales)
        told = {}
        for name, head_loss, of in (
            ("envelope", envelope_loss, config.envelopes),
            ("pitch", periodicity_loss, config.periods),
        ):
            if getattr(config, name):
                told[name] = quantised.features @ params[name]["kernel"] + params[name]["bias"]
                losses[name] = head_loss(told[name], batch.samples, of)
        if config.timbre:
            said = [told["envelope"]] if "envelope" in told else []
            said += [] if samples is None else [envelope(samples, size, config.envelopes)]
            true = envelope(batch.samples, size, config.envelopes)
            losses["timbre"] = sum(timbre_loss(one, true, config.envelopes) for one in said)
        if teacher is not None:
            with jax.named_scope("distillation"):
                student = quantised.semantic @ params["distil"]["kernel"]
                audio = jax.lax.stop_gradient(params["audio"])
                heard, _ = teacher.apply({"params": audio}, *batch.heard)
                losses["distillation"] = distillation_loss(student, heard, valid)
        extra = {}
        if judges is not None:
            frozen = jax.lax.stop_gradient(params["judges"])
            real = judges.apply({"params": params["judges"]}, batch.samples)
            fake = judges.apply({"params": frozen}, samples)
            losses["adversarial"] = adversarial_loss(fake, config.kind)
            losses["features"] = feature_loss(real, fake)
            held = jax.lax.stop_gradient(samples)
            seen = judges.apply({"params": params["judges"]}, held)
            extra["discriminator"] = discriminator_loss(real, seen, config.kind)
        generator = sum(getattr(config, name) * value for name, value in losses.items())
        share, perplexity = codebook_use(quantised.residuals.codes, quantised.used, quantiser.size)
        use = {"codebook_use": jnp.mean(share), "codebook_perplexity": jnp.mean(perplexity)}
        metrics = {"generator": generator, **losses, **extra, **use}
        weight = jnp.asarray(rows, jnp.float32)
        metrics = {name: value * weight for name, value in metrics.items()}
        total = metrics["generator"] + sum(metrics[name] for name in extra)
        return Losses(total, weight, metrics, quantised)

    def after(params: Params, quantised: Quantised, key: Array) -> Params:
        codebooks = params["codec"]["quantiser"]["codebooks"]
        state = CodebookState(params["codebook_usage"], codebooks)
        state = update_codebooks(state, quantised.residuals, quantised.used, key, quantiser)
        return _with_codebooks(params, state)

    moved = after if encoded else None
    if judges is None:
        return Objective(init, loss, moved)
    return Objective(init, loss, moved, functools.partial(gan_optimizer, factor=config.judge_rate))


def _with_codebooks(params: Params, state: CodebookState) -> Params:
    quantiser = params["codec"]["quantiser"] | {"codebooks": state.codebooks}
    codec = params["codec"] | {"quantiser": quantiser}
    return params | {"codec": codec, "codebook_usage": state.usage}


class GanState(NamedTuple):
    """One optimizer's state for each side."""

    generator: Any
    judges: Any


def gan_optimizer(
    generator: OptimizerConfig, steps: int, *, factor: float
) -> optax.GradientTransformation:
    """An optimizer each for the generator and the judges, so that each side is clipped apart.

    factor: the judges' learning rate as a multiple of the generator's.
    """
    judges = dataclasses.replace(generator, learning_rate=generator.learning_rate * factor)
    first, second = make_optimizer(generator, steps), make_optimizer(judges, steps)

    def sides(params: Params) -> tuple[Params, Params]:
        return split_params(params, JUDGES)[::-1]

    def init(params: Params) -> GanState:
        ours, theirs = sides(params)
        return GanState(first.init(ours), second.init(theirs))

    def update(updates: Params, state: GanState, params: Params) -> tuple[Params, GanState]:
        (ours, theirs), (our_params, their_params) = sides(updates), sides(params)
        ours, first_state = first.update(ours, state.generator, our_params)
        theirs, second_state = second.update(theirs, state.judges, their_params)
        return merge_params(ours, theirs), GanState(first_state, second_state)

    return optax.GradientTransformation(init, update)
