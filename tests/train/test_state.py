"""The step: accumulation, clipping, decay masks, frozen parameters, averages."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.sharding import flatten
from omnijax.train.optimizer import make_optimizer
from omnijax.train.stages import OptimizerConfig
from omnijax.train.state import (
    Objective,
    init_params,
    init_state,
    loss_and_gradients,
    make_train_step,
    merge_params,
    microbatches,
    split_params,
)

sys.path.insert(0, str(Path(__file__).parent))
import toy_run  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compile")


def trained(stage, steps=3, objective=toy_run.OBJECTIVE):
    config = stage.optimizer
    optimizer = make_optimizer(config, stage.steps)
    params = init_params(objective, 0)
    state = init_state(params, stage.trains, optimizer, seed=0, ema=config.ema > 0)
    first = jax.tree.map(np.asarray, state)
    step = make_train_step(
        objective, stage.trains, optimizer, config, steps=stage.steps, accumulate=stage.accumulate
    )
    data = toy_run.Data()
    for _ in range(steps):
        state, metrics = step(state, next(data))
    return first, state, metrics


def test_gradients_of_microbatches_add_up_to_those_of_the_batch():
    objective = Objective(toy_run.init, toy_run.quiet_loss)
    params = toy_run.init(jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, next(toy_run.Data()))
    whole = loss_and_gradients(objective, params, {}, batch, None)
    parts = loss_and_gradients(objective, params, {}, batch, None, accumulate=4)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_microbatches_split_positions_along_their_second_axis():
    from omnijax.models.thinker import text_inputs

    inputs = microbatches(text_inputs(jnp.arange(24).reshape(6, 4)), 2)
    assert inputs.tokens.shape == (2, 3, 4) and inputs.positions.shape == (2, 3, 3, 4)
    assert sorted(inputs.tokens[..., 0].ravel().tolist()) == [0, 4, 8, 12, 16, 20]


def test_frozen_parameters_stay_bit_for_bit_and_have_no_optimizer_state():
    first, state, _ = trained(toy_run.stage(trains=("^head",)))
    assert np.array_equal(first.params["body"]["w"], state.params["body"]["w"])
    assert not np.array_equal(first.params["head"]["w"], state.params["head"]["w"])
    paths = jax.tree_util.tree_flatten_with_path((state.opt_state, state.ema))[0]
    assert paths and not any("body" in jax.tree_util.keystr(path) for path, _ in paths)


def test_a_pattern_that_trains_nothing_is_a_user_error():
    with pytest.raises(UserError, match=r"trains 'haed' matches no parameter \(of body, head\)"):
        split_params(toy_run.init(jax.random.key(0)), ("body", "haed"))


def test_split_and_merge_are_inverse():
    params = toy_run.init(jax.random.key(0))
    again = merge_params(*split_params(params, ("bias",)))
    assert {k: id(v) for k, v in flatten(params).items()} == {
        k: id(v) for k, v in flatten(again).items()
    }


def test_weight_decay_spares_the_paths_it_is_told_to():
    still = Objective(toy_run.init, lambda p, b, k: toy_run.loss(jax.lax.stop_gradient(p), b, k))
    optimizer = OptimizerConfig(weight_decay=0.5, no_decay=("body", "bias"), learning_rate=0.1)
    first, state, _ = trained(toy_run.stage(optimizer=optimizer), objective=still)
    assert np.array_equal(first.params["body"]["w"], state.params["body"]["w"])
    assert np.all(np.abs(state.params["head"]["w"]) < np.abs(first.params["head"]["w"]))


def test_norms_decays_and_embeddings_of_nano_are_not_decayed_and_its_matrices_are():
    import re

    from omnijax.models import presets
    from omnijax.models.thinker import Thinker, text_inputs

    model = Thinker(presets.nano())
    inputs = text_inputs(jnp.zeros((1, 8), jnp.int32))
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0), inputs)["params"])
    spared = {p for p in shapes if any(re.search(x, p) for x in OptimizerConfig().no_decay)}
    assert all(path.endswith(("/w", "/kernel")) or "/experts_" in path or "/conv_" in path
               or path.endswith("router") for path in set(shapes) - spared)  # fmt: skip
    assert not any(path.endswith(("/w", "/kernel", "router")) for path in spared)
    assert {"embed/table", "vision/positions"} <= spared


def test_rate_factors_scale_the_steps_of_their_paths():
    sizes = {}
    for factors in ((), ("head=0.5", "body=0")):
        optimizer = OptimizerConfig(rate_factors=factors, weight_decay=0.0)
        first, state, _ = trained(toy_run.stage(optimizer=optimizer), steps=1)
        sizes[factors] = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max()), first.params, state.params
        )
    plain, scaled = sizes.values()
    assert scaled["head"]["w"] == pytest.approx(plain["head"]["w"] / 2, rel=1e-3)
    assert scaled["body"]["w"] == 0


def test_the_average_follows_the_parameters_and_is_kept_for_what_trains():
    _, state, _ = trained(toy_run.stage(), steps=8)
    far = jnp.abs(state.ema["body"]["w"] - state.params["body"]["w"]).max()
    assert 0 < far < 0.2


def test_the_gradient_norm_is_reported_before_clipping_and_clipped_after():
    loud = Objective(
        toy_run.init,
        lambda p, b, k: jax.tree.map(lambda x: 1e6 * x, toy_run.loss(p, b, k))._replace(
            weight=jnp.float32(1)
        ),
    )
    optimizer = OptimizerConfig(clip=1.0)
    _, state, metrics = trained(toy_run.stage(optimizer=optimizer), steps=1, objective=loud)
    assert metrics["grad_norm"] > 1e3
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in moments[: len(moments) // 2]))
    assert norm <= 0.11  # (1 - b1) * clip
