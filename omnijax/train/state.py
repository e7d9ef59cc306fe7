"""The training state and the compiled step: gradients, frozen parameters, EMA."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from omnijax.errors import UserError
from omnijax.sharding import flatten, param_shardings, replicated, shard, unflatten
from omnijax.train.optimizer import learning_rate, make_optimizer
from omnijax.train.stages import OptimizerConfig
from omnijax.typing import Array, Float, Int

Params = dict[str, Any]


class Losses(NamedTuple):
    """What an objective says of a batch; sums, so that microbatches and hosts add up."""

    total: Float[Array, ""]  # differentiated: sum over targets of weight * loss
    weight: Float[Array, ""]  # sum of weights
    metrics: dict[str, Float[Array, ""]]  # each summed like `total`
    carry: Any = ()  # what `Objective.after` needs of this batch


class Objective(NamedTuple):
    """What a stage optimises.

    `after` moves what gets no gradient once the parameters have stepped (a codec's codebooks):
    (parameters, `Losses.carry`, key) -> parameters. `optimizer` is for a stage that needs more
    than one optimizer over everything.
    """

    init: Callable[[Array], Params]  # key -> parameters
    loss: Callable[[Params, Any, Array | None], Losses]  # key None: evaluation
    after: Callable[[Params, Any, Array], Params] | None = None
    optimizer: Callable[[OptimizerConfig, int], optax.GradientTransformation] | None = None


class TrainState(NamedTuple):
    """All that a run needs to go on; only what trains has optimizer state."""

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    ema: Params | None  # of the trained parameters
    rng: Array  # raw key data: the step folds its number in


def split_params(params: Params, trains: Sequence[str]) -> tuple[Params, Params]:
    """(trained, frozen): every path in which a pattern is found trains."""
    flat = flatten(params)
    unused = [p for p in trains if not any(re.search(p, path) for path in flat)]
    if unused:
        roots = ", ".join(sorted({path.split("/")[0] for path in flat}))
        raise UserError(f"trains {unused[0]!r} matches no parameter (of {roots})")
    chosen = {path for path in flat if any(re.search(p, path) for p in trains)}
    trained = {path: leaf for path, leaf in flat.items() if path in chosen}
    frozen = {path: leaf for path, leaf in flat.items() if path not in chosen}
    return unflatten(trained), unflatten(frozen)


def merge_params(*parts: Params) -> Params:
    merged: dict[str, Any] = {}
    for part in parts:
        merged.update(flatten(part))
    return unflatten(merged)


def optimizer_of(
    objective: Objective, config: OptimizerConfig, steps: int
) -> optax.GradientTransformation:
    """The objective's own optimizer, or the one that the config names."""
    return (objective.optimizer or make_optimizer)(config, steps)


def init_state(
    params: Params,
    trains: Sequence[str],
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema: bool = False,
) -> TrainState:
    """A fresh state around parameters."""
    trained, _ = split_params(params, trains)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(trained),
        # In float32: in bfloat16 the average would stand still.
        ema=jax.tree.map(lambda x: jnp.array(x, jnp.float32), trained) if ema else None,
        rng=jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 1)),
    )


def init_params(objective: Objective, seed: int) -> Params:
    """An objective's parameters at random."""
    return objective.init(jax.random.fold_in(jax.random.key(seed), 0))


def state_shardings(shapes: TrainState, mesh: Mesh | AbstractMesh) -> TrainState:
    """Where each leaf lies; moments and averages lie with their parameters."""
    params = param_shardings(shapes.params, mesh)
    flat = flatten(params)

    def beside(tree: Params) -> Params:
        return unflatten({path: flat[path] for path in flatten(tree)})

    is_params = lambda node: isinstance(node, dict)  # noqa: E731
    return TrainState(
        step=replicated(mesh),
        params=params,
        opt_state=jax.tree.map(
            lambda node: beside(node) if isinstance(node, dict) else replicated(mesh),
            shapes.opt_state,
            is_leaf=is_params,
        ),
        ema=None if shapes.ema is None else beside(shapes.ema),
        rng=replicated(mesh),
    )


def microbatches(batch: Any, count: int) -> Any:
    """[B, ...] -> [count, B / count, ...], rows dealt in turn; `positions` has B second."""

    def deal(path: tuple, x: Array) -> Array:
        axis = 1 if getattr(path[-1], "name", "") == "positions" else 0
        shape = (*x.shape[:axis], x.shape[axis] // count, count, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis + 1, 0)

    return jax.tree_util.tree_map_with_path(deal, batch)


def shard_batch(batch: Any) -> Any:
    """Constrains a batch's rows to the devices that share the work."""

    def constrain(path: tuple, x: Any) -> Any:
        if getattr(path[-1], "name", "") == "positions":
            return shard(x, None, "batch", "time")
        if x.ndim == 2 and getattr(path[-1], "name", "") in ("tokens", "segment_ids"):
            return shard(x, "batch", "time")
        return shard(x, "batch", *(None,) * (x.ndim - 1))

    return jax.tree_util.tree_map_with_path(constrain, batch)


def _constrain(tree: Params, shardings: Mapping[str, Any] | None) -> Params:
    if shardings is None:
        return tree
    return unflatten(
        {
            path: jax.lax.with_sharding_constraint(leaf, shardings[path])
            for path, leaf in flatten(tree).items()
        }
    )


def loss_and_gradients(
    objective: Objective,
    trained: Params,
    frozen: Params,
    batch: Any,
    key: Array | None,
    *,
    accumulate: int = 1,
    shardings: Mapping[str, Any] | None = None,
) -> tuple[Losses, Params]:
    """(sums over the batch, gradients of `trained`'s mean loss); frozen parameters get none."""

    def total(trained: Params, batch: Any, key: Array | None) -> tuple[Array, Losses]:
        losses = objective.loss(merge_params(trained, frozen), shard_batch(batch), key)
        return losses.total, losses

    # Autodiff drops the parameters' mesh axes: pin the gradients to them again.
    def gradients(batch: Any, key: Array | None) -> tuple[Params, Losses]:
        grads, losses = jax.grad(total, has_aux=True)(trained, batch, key)
        return _constrain(grads, shardings), losses

    if accumulate == 1:
        grads, losses = gradients(batch, key)
    else:
        parts = microbatches(batch, accumulate)
        keys = jax.random.split(key, accumulate) if key is not None else None
        first = jax.tree.map(lambda x: x[0], (parts, keys))
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(lambda part: gradients(*part), first),
        )

        def add(carry: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, carry, gradients(*part)), None

        (grads, losses), _ = jax.lax.scan(add, zeros, (parts, keys))
        grads = _constrain(grads, shardings)
    weight = jnp.maximum(losses.weight, 1.0)
    grads = jax.tree.map(lambda g: g / weight.astype(g.dtype), grads)
    return losses, grads


def make_train_step(
    objective: Objective,
    trains: Sequence[str],
    optimizer: optax.GradientTransformation,
    config: OptimizerConfig,
    *,
    steps: int,
    accumulate: int = 1,
    shardings: TrainState | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Float[Array, ""]]]]:
    """The jitted step; the old state's buffers are given to the new one."""
    if objective.after is not None and accumulate > 1:
        raise UserError(f"accumulate is {accumulate}: this objective moves codebooks, it must be 1")
    rate = learning_rate(config, steps)
    where = flatten(shardings.params) if shardings is not None else None

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        trained, frozen = split_params(state.params, trains)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        losses, grads = loss_and_gradients(
            objective, trained, frozen, batch, key, accumulate=accumulate, shardings=where
        )
        with jax.named_scope("optimizer"):
            norm = optax.global_norm(grads)
            updates, opt_state = optimizer.update(grads, state.opt_state, trained)
            trained = _constrain(optax.apply_updates(trained, updates), where)
        ema = state.ema
        if ema is not None:
            # Early on the average follows closely, so the random start is soon forgotten.
            now = state.step.astype(jnp.float32)
            decay = jnp.minimum(config.ema, (1 + now) / (10 + now))
            ema = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), ema, trained)
        params = merge_params(trained, frozen)
        if objective.after is not None:
            moved = objective.after(params, losses.carry, jax.random.fold_in(key, 1))
            params = _constrain(moved, where)
        weight = jnp.maximum(losses.weight, 1.0)
        means = {"loss": losses.total, **losses.metrics}
        metrics = {name: value / weight for name, value in means.items()}
        metrics |= {"grad_norm": norm, "learning_rate": rate(state.step)}
        return TrainState(state.step + 1, params, opt_state, ema, state.rng), metrics

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def make_eval_step(objective: Objective) -> Callable[[Params, Any], Losses]:
    """Jitted loss without augmentation; sums, to be added over batches."""

    def step(params: Params, batch: Any) -> Losses:
        return objective.loss(params, shard_batch(batch), None)._replace(carry=())

    return jax.jit(step)


def eval_params(state: TrainState) -> Params:
    """The parameters to use: the averages where there are any."""
    if state.ema is None:
        return state.params
    own = flatten(state.params)
    averages = {path: leaf.astype(own[path].dtype) for path, leaf in flatten(state.ema).items()}
    return merge_params(state.params, unflatten(averages))
