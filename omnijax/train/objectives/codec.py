"""The codec's training: one pass in which generator and judges learn, each from its own loss.

The two never share a gradient: the generator is judged by judges held constant, the judges see
samples held constant. So one sum of losses, one backward pass and one optimizer step train both,
and the state is the shared `TrainState`. What the shared step lacks is one hook: codebooks follow
what they code and get no gradient, so the objective has an `after` that moves them once the
parameters have stepped. `make_codec_step` is the shared step with that hook.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

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
from omnijax.models.codec.discriminators import Discriminators
from omnijax.models.codec.losses import (
    MelLossConfig,
    adversarial_loss,
    check_kind,
    discriminator_loss,
    distillation_loss,
    feature_loss,
    mel_loss,
)
from omnijax.nn.linear import fan_in_init
from omnijax.train.stages import OptimizerConfig
from omnijax.train.state import (
    Losses,
    Params,
    TrainState,
    learning_rate,
    make_optimizer,
    merge_params,
    shard_batch,
    split_params,
)
from omnijax.typing import Array, Bool, Float, Int

# What trains by gradient. The codebooks and their averages do not: `after` moves them.
GENERATOR = (r"^codec/(?!quantiser/codebooks$)", r"^distil/")
JUDGES = (r"^judges/",)


class CodecBatch(NamedTuple):
    """Crops of clips at 24 kHz; `heard` is what the teacher takes (for AuT, mel chunks)."""

    samples: Float[Array, "B A"]  # A a multiple of samples_per_frame; silence past the length
    lengths: Int[Array, "B"]  # valid samples
    heard: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecLossConfig:
    """Weights of the generator's losses (those of DAC) and how the judges are trained."""

    mel: float | int = 15.0
    features: float | int = 2.0
    adversarial: float | int = 1.0
    commitment: float | int = 0.25
    distillation: float | int = 1.0
    kind: str = "hinge"  # or least_squares
    mel_scales: MelLossConfig = MelLossConfig()

    def __post_init__(self) -> None:
        for field in ("mel", "features", "adversarial", "commitment", "distillation"):
            value = getattr(self, field)
            if value < 0:
                raise UserError(f"CodecLossConfig.{field} is {value}, it must not be negative")
        check_kind(self.kind)


class CodecObjective(NamedTuple):
    """An `Objective` whose loss also says what `after` needs to move the codebooks."""

    init: Callable[[Array], Params]
    loss: Callable[[Params, CodecBatch, Array | None], Losses]
    loss_and_quantised: Callable[[Params, CodecBatch, Array | None], tuple[Losses, Quantised]]
    after: Callable[[Params, Quantised, Array], Params]
    start: Callable[[Params, CodecBatch, Array], Params]


def valid_frames(lengths: Int[Array, "B"], frames: int, size: int) -> Bool[Array, "B R"]:
    """Frames that hold at least one valid sample."""
    return jnp.arange(frames) * size < lengths[:, None]


def reconstruct(
    codec: Codec, samples: Float[Array, "B A"], valid: Bool[Array, "B R"], key: Array | None
) -> tuple[Float[Array, "B A"], Quantised]:
    """`codec` bound to its parameters: through the quantiser and back, not clipped."""
    quantised = quantise_for_training(codec.quantiser, codec.encoder(samples)[0], valid, key)
    return codec.code2wav(quantised.features, clip=False)[0], quantised


def codec_objective(
    codec: Codec,
    example: CodecBatch,
    config: CodecLossConfig = CodecLossConfig(),
    *,
    judges: Discriminators | None = None,
    teacher: Callable[[Any], Float[Array, "B S E"]] | None = None,
) -> CodecObjective:
    """The codec's objective over `CodecBatch`; `example` gives the shapes.

    judges: None leaves the adversarial losses out, for a first stage on the mel loss alone.
    teacher: a frozen speech encoder, `batch.heard` -> features; codebook 0 learns to carry them.

    Parameters lie under "codec", "codebook_averages", and where they exist "judges" and "distil".
    """
    if codec.config.encoder is None or codec.config.code2wav.lookup != "rvq":
        raise UserError(
            "a codec trains with an encoder and Code2WavConfig.lookup 'rvq': its encoder is "
            f"{codec.config.encoder}, its lookup {codec.config.code2wav.lookup!r}"
        )
    quantiser, size = codec.config.quantiser, codec.config.samples_per_frame

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 3)
        samples = jnp.zeros(example.samples.shape, jnp.float32)
        params = {"codec": codec.init(keys[0], samples[:1])["params"]}
        usage = jnp.ones((quantiser.codebooks, quantiser.size))
        state = CodebookState(usage, params["codec"]["quantiser"]["codebooks"])
        params["codebook_averages"] = state._asdict()
        if judges is not None:
            params["judges"] = judges.init(keys[1], samples[:1])["params"]
        if teacher is not None:
            width = jax.eval_shape(teacher, example.heard).shape[-1]
            shape = (quantiser.features, width)
            params["distil"] = {"kernel": fan_in_init(shape[0])(keys[2], shape)}
        return params

    def loss_and_quantised(
        params: Params, batch: CodecBatch, key: Array | None
    ) -> tuple[Losses, Quantised]:
        rows, length = batch.samples.shape
        valid = valid_frames(batch.lengths, length // size, size)
        with jax.named_scope("codec"):
            samples, quantised = codec.apply(
                {"params": params["codec"]}, batch.samples, valid, key, method=reconstruct
            )
        losses = {
            "mel": mel_loss(samples, batch.samples, config.mel_scales),
            "commitment": quantised.commitment,
        }
        if teacher is not None:
            with jax.named_scope("distillation"):
                student = quantised.semantic @ params["distil"]["kernel"]
                losses["distillation"] = distillation_loss(student, teacher(batch.heard), valid)
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
        return Losses(total, weight, metrics), quantised

    def loss(params: Params, batch: CodecBatch, key: Array | None) -> Losses:
        return loss_and_quantised(params, batch, key)[0]

    def after(params: Params, quantised: Quantised, key: Array) -> Params:
        state = CodebookState(**params["codebook_averages"])
        state = update_codebooks(state, quantised.residuals, quantised.used, key, quantiser)
        return _with_codebooks(params, state)

    def start(params: Params, batch: CodecBatch, key: Array) -> Params:
        """Codebooks at the k-means centres of a batch: do it once, before the first step."""

        def begin(bound: Codec) -> CodebookState:
            features = bound.encoder(batch.samples)[0]
            valid = valid_frames(batch.lengths, features.shape[1], size)
            return start_codebooks(bound.quantiser, features, valid, key)

        return _with_codebooks(params, codec.apply({"params": params["codec"]}, method=begin))

    return CodecObjective(init, loss, loss_and_quantised, after, start)


def _with_codebooks(params: Params, state: CodebookState) -> Params:
    quantiser = params["codec"]["quantiser"] | {"codebooks": state.codebooks()}
    codec = params["codec"] | {"quantiser": quantiser}
    return params | {"codec": codec, "codebook_averages": state._asdict()}


class GanState(NamedTuple):
    """One optimizer's state for each side."""

    generator: Any
    judges: Any


def make_gan_optimizer(
    generator: OptimizerConfig, judges: OptimizerConfig, steps: int
) -> optax.GradientTransformation:
    """An optimizer each for the generator and the judges: rates and clipping apart."""
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


def make_codec_step(
    objective: CodecObjective,
    trains: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    config: OptimizerConfig,
    *,
    steps: int,
    shardings: TrainState | None = None,
) -> Callable[[TrainState, CodecBatch], tuple[TrainState, dict[str, Float[Array, ""]]]]:
    """`make_train_step` with `objective.after`: the same state and metrics, no microbatches."""
    rate = learning_rate(config, steps)

    def step(state: TrainState, batch: CodecBatch) -> tuple[TrainState, dict[str, Array]]:
        trained, frozen = split_params(state.params, trains)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        loss_key, after_key = jax.random.split(key)

        def total(trained: Params) -> tuple[Array, tuple[Losses, Quantised]]:
            params = merge_params(trained, frozen)
            losses, quantised = objective.loss_and_quantised(params, shard_batch(batch), loss_key)
            return losses.total / losses.weight, (losses, quantised)

        grads, (losses, quantised) = jax.grad(total, has_aux=True)(trained)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, trained)
            trained = optax.apply_updates(trained, updates)
        params = objective.after(merge_params(trained, frozen), quantised, after_key)
        ema = state.ema
        if ema is not None:
            now = state.step.astype(jnp.float32)
            decay = jnp.minimum(config.ema, (1 + now) / (10 + now))
            ema = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), ema, trained)
        metrics = {name: value / losses.weight for name, value in losses.metrics.items()}
        metrics |= {
            "loss": losses.total / losses.weight,
            "grad_norm": optax.global_norm(grads),
            "learning_rate": rate(state.step),
        }
        return TrainState(state.step + 1, params, opt_state, ema, state.rng), metrics

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
