"""The optimizer of a stage: AdamW, or Muon for the matrices and AdamW for the rest."""

import math
import re
from collections.abc import Collection
from typing import Any, NamedTuple

import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from omnijax.errors import UserError
from omnijax.sharding import flatten, param_axes, unflatten
from omnijax.train.stages import OptimizerConfig
from omnijax.typing import Array

Params = dict[str, Any]
MUON_RMS = 0.2  # of an update: that of AdamW in practice, so that both take the same rate


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The rate at each optimizer step: linear warm-up, then cosine, WSD or constant."""
    peak, end = config.learning_rate, config.learning_rate * config.end_fraction
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, max(steps - warmup, 1), config.end_fraction)
    elif config.schedule == "wsd":
        length = max(min(int(steps * config.decay_fraction), steps - warmup), 1)
        stable = max(steps - warmup - length, 0)
        decay = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, end, length)], [stable]
        )
    else:
        decay = optax.constant_schedule(peak)
    # The first step already moves: (step + 1) / warmup.
    ramp = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, decay], [warmup]) if warmup else decay


class MatricesAndOthers(NamedTuple):
    """Muon's momentum of the matrices, Adam's moments of everything else."""

    muon: Any
    adam: Any


def matrix_axes(path: str) -> MuonDimensionNumbers | None:
    """Which of a parameter's last axes a matrix reads and which it writes; None: no matrix.

    By the logical axes of `omnijax.sharding`: a matrix leads from the model's width (`embed`) to
    heads or to the feed-forward, or back. Axes before them, of experts, and those without a name
    (fused projections) count its copies. Tables, convolutions and routers are no matrices.
    """
    axes = param_axes(path) or ()
    inner = tuple(
        i - len(axes) for i, a in enumerate(axes) if a in ("heads", "kv_heads", "head_dim", "ffn")
    )
    if axes.count("embed") != 1 or not inner:
        return None
    width = axes.index("embed") - len(axes)
    if width < inner[0]:
        return MuonDimensionNumbers(reduction_axis=width, output_axis=inner)
    return MuonDimensionNumbers(reduction_axis=inner, output_axis=width)


def scale_by_muon_or_adam(config: OptimizerConfig) -> optax.GradientTransformation:
    """Muon (Jordan 2024) for matrices, scaled as by Liu et al. (arXiv 2502.16982); else Adam."""
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    muon = scale_by_muon(
        beta=config.muon_beta,
        # Scaled by row sums at first (arXiv 2512.04632), four iterations take the place of five.
        preconditioning="aol",
        ns_steps=4,
        weight_dimension_numbers=lambda tree: unflatten({p: matrix_axes(p) for p in flatten(tree)}),
    )

    def split(tree: Params) -> tuple[Params, Params]:
        flat = flatten(tree)
        parts = (
            {path: leaf for path, leaf in flat.items() if (matrix_axes(path) is None) == other}
            for other in (False, True)
        )
        matrices, others = map(unflatten, parts)
        return matrices, others

    def rescale(path: str, update: Array) -> Array:
        numbers = matrix_axes(path)
        sides = (numbers.reduction_axis, numbers.output_axis)
        sides = [(side,) if isinstance(side, int) else side for side in sides]
        longest = max(math.prod(update.shape[axis] for axis in side) for side in sides)
        return update * (MUON_RMS * math.sqrt(longest))

    def init(params: Params) -> MatricesAndOthers:
        matrices, others = split(params)
        if not matrices:
            roots = ", ".join(sorted(params))
            raise UserError(f"optimizer muon finds no matrix in {roots}: take adamw")
        return MatricesAndOthers(muon.init(matrices), adam.init(others))

    def update(updates: Params, state: MatricesAndOthers, params: Params | None = None):
        matrices, others = split(updates)
        matrices, muon_state = muon.update(matrices, state.muon)
        others, adam_state = adam.update(others, state.adam)
        matrices = {path: rescale(path, leaf) for path, leaf in flatten(matrices).items()}
        return unflatten(matrices | flatten(others)), MatricesAndOthers(muon_state, adam_state)

    return optax.GradientTransformation(init, update)


def check_rate_factors(config: OptimizerConfig, paths: Collection[str]) -> None:
    """Raises UserError for a factor that is of none of the trained parameters."""
    for entry in config.rate_factors:
        pattern = entry.rpartition("=")[0]
        if not any(re.search(pattern, path) for path in paths):
            raise UserError(f"rate_factors: no parameter that is trained matches {pattern!r}")


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW or Muon over the trained parameters, clipped by their global norm."""

    def decays(params: Params) -> Params:
        flat = flatten(params)
        return unflatten(
            {path: not any(re.search(p, path) for p in config.no_decay) for path in flat}
        )

    def scale_rates(updates: Params, _: Any = None) -> Params:
        flat = flatten(updates)
        for entry in config.rate_factors:
            pattern, _, factor = entry.rpartition("=")
            flat = {
                path: leaf * float(factor) if re.search(pattern, path) else leaf
                for path, leaf in flat.items()
            }
        return unflatten(flat)

    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    parts += [
        scale_by_muon_or_adam(config)
        if config.name == "muon"
        else optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, decays),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    ]
    if config.rate_factors:
        parts.append(optax.stateless(scale_rates))
    return optax.chain(*parts)
