"""Optimizers: schedules, and Muon for what is a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from omnijax.errors import UserError
from omnijax.models import presets
from omnijax.models.thinker import Thinker, text_inputs
from omnijax.sharding import flatten
from omnijax.sharding.mesh import MESH_AXES
from omnijax.train.optimizer import (
    MUON_RMS,
    check_rate_factors,
    learning_rate,
    make_optimizer,
    matrix_axes,
)
from omnijax.train.stages import OptimizerConfig
from omnijax.train.state import init_state, state_shardings

CONSTANT = {"learning_rate": 1.0, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0}


@pytest.mark.parametrize("name", ["cosine", "wsd", "constant"])
def test_schedules_warm_up_from_the_first_step_and_end_where_told(name):
    config = OptimizerConfig(
        learning_rate=1.0, schedule=name, warmup_steps=10, end_fraction=0.1, decay_fraction=0.25
    )
    rate = learning_rate(config, 100)
    assert float(rate(0)) == pytest.approx(0.1)
    assert float(rate(9)) == pytest.approx(1.0)
    assert float(rate(100)) == pytest.approx(1.0 if name == "constant" else 0.1, abs=1e-6)
    if name == "wsd":
        assert float(rate(74)) == pytest.approx(1.0) and float(rate(88)) < 0.6


def test_the_rate_has_fallen_at_the_end_behind_a_warm_up_that_leaves_little():
    config = OptimizerConfig(
        learning_rate=1.0, schedule="wsd", warmup_steps=90, end_fraction=0.1, decay_fraction=0.2
    )
    rate = learning_rate(config, 100)
    assert float(rate(90)) == pytest.approx(1.0) and float(rate(100)) == pytest.approx(0.1)


def test_a_rate_factor_of_nothing_that_trains_is_refused():
    config = OptimizerConfig(rate_factors=("^head/=0.1", "dcoder=0.5"))
    with pytest.raises(UserError, match="no parameter that is trained matches 'dcoder'"):
        check_rate_factors(config, ["head/w", "decoder/w"])
    check_rate_factors(config, ["head/w", "dcoder/w"])


def test_a_stage_shorter_than_its_warm_up_still_trains():
    rate = learning_rate(OptimizerConfig(learning_rate=1.0, warmup_steps=100), 4)
    assert all(0 < float(rate(step)) <= 1 for step in range(4))


def is_dict(node) -> bool:
    return isinstance(node, dict)


def muon(**changes) -> OptimizerConfig:
    return OptimizerConfig(name="muon", clip=0.0, **CONSTANT | changes)


def stepped(config: OptimizerConfig, gradients: dict) -> dict:
    """What one step takes away, by path."""
    optimizer = make_optimizer(config, 10)
    params = jax.tree.map(jnp.zeros_like, gradients)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return {path: -np.asarray(leaf) for path, leaf in flatten(updates).items()}


def test_muon_takes_the_projections_and_the_experts_and_adam_the_rest():
    model = Thinker(presets.tiny())
    params = jax.eval_shape(model.init, jax.random.key(0), text_inputs(jnp.zeros((1, 4), int)))
    flat = flatten(params["params"])
    matrices = {path for path in flat if matrix_axes(path) is not None}
    for part in ("q/w", "k/w", "v/w", "gate/w", "out/w", "up/w", "down/w", "experts_down"):
        of_part = {path for path in flat if path.endswith(part) and "shared_gate" not in path}
        assert of_part and of_part <= matrices, part
    others = ("table", "scale", "bias", "A_log", "conv_q", "conv_k", "conv_v", "router")
    assert not any(path.endswith(others) for path in matrices)
    for path in matrices:
        sides = matrix_axes(path)
        for side in (sides.reduction_axis, sides.output_axis):
            axes = (side,) if isinstance(side, int) else side
            assert all(-flat[path].ndim <= axis < 0 for axis in axes)


def test_a_muon_update_is_nearly_orthogonal_and_as_large_as_its_shape_says():
    gradient = jax.random.normal(jax.random.key(0), (64, 48)) @ jnp.diag(jnp.logspace(0, -2, 48))
    (update,) = stepped(muon(), {"up": {"w": gradient}}).values()
    values = np.linalg.svd(update, compute_uv=False) / (MUON_RMS * 8)  # sqrt(64)
    assert values.min() > 0.5 and values.max() < 1.3  # of the gradient's they are 100 : 1
    np.testing.assert_allclose(np.sqrt((update**2).mean()), MUON_RMS, rtol=0.15)


def test_heads_make_one_matrix_and_layers_and_experts_many():
    key = jax.random.key(1)
    heads = jax.random.normal(key, (24, 4, 8))
    parts = {"attention": {"q": {"w": heads}}, "up": {"w": heads.reshape(24, 32)}}
    updates = stepped(muon(), parts)
    np.testing.assert_allclose(
        updates["attention/q/w"].reshape(24, 32), updates["up/w"], rtol=1e-4, atol=1e-5
    )
    experts = jax.random.normal(key, (2, 3, 16, 24)) * jnp.array([1.0, 100.0])[:, None, None, None]
    together = stepped(muon(), {"moe": {"experts_up": experts}})["moe/experts_up"]
    for layer in range(2):
        for expert in range(3):
            alone = stepped(muon(), {"up": {"w": experts[layer, expert]}})["up/w"]
            np.testing.assert_allclose(together[layer, expert], alone, rtol=1e-3, atol=1e-4)


def test_what_is_no_matrix_takes_adams_step_under_muon():
    table = jax.random.normal(jax.random.key(2), (16, 8))
    tree = {"embed": {"table": table}, "norm": {"scale": jnp.ones(8)}, "up": {"w": table}}
    ours, adams = stepped(muon(), tree), stepped(OptimizerConfig(clip=0.0, **CONSTANT), tree)
    for path in ("embed/table", "norm/scale"):
        np.testing.assert_array_equal(ours[path], adams[path])
    assert np.abs(ours["up/w"] - adams["up/w"]).max() > 0.1


def test_muons_state_lies_beside_its_parameters():
    params = {"up": {"w": jnp.zeros((16, 8))}, "embed": {"table": jnp.ones((4, 16))}}
    optimizer = make_optimizer(muon(), 10)
    state = jax.eval_shape(lambda: init_state(params, (".*",), optimizer, seed=0))
    where = state_shardings(state, AbstractMesh((1, 2, 1, 2, 1), MESH_AXES))
    assert jax.tree.structure(where) == jax.tree.structure(state)
    moments = [part for part in jax.tree.leaves(where.opt_state, is_leaf=is_dict) if is_dict(part)]
    muons, *adams = [flatten(part) for part in moments]
    params = flatten(where.params)
    assert params["up/w"].spec == PartitionSpec(("fsdp",), ("tensor",))
    assert muons == {"up/w": params["up/w"]}
    assert adams == 2 * [{"embed/table": params["embed/table"]}]


def test_muon_without_a_matrix_is_an_error():
    with pytest.raises(UserError, match="finds no matrix in codec, norm: take adamw"):
        stepped(muon(), {"norm": {"scale": jnp.ones(3)}, "codec": {"kernel": jnp.ones((3, 4, 4))}})


def test_an_optimizer_that_does_not_exist_is_an_error():
    with pytest.raises(UserError, match="adamw or muon, got 'sgd'"):
        OptimizerConfig(name="sgd")
