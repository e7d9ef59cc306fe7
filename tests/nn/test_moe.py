"""The mixture drops nothing, ignores padding, and its losses mean what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.models import presets
from omnijax.nn.moe import MoE, route, router_stats

CONFIG = dataclasses.replace(presets.tiny().decoder, shared_expert_ffn=0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 24, CONFIG.width)), jnp.float32)
VALID = jnp.ones((2, 24), bool)


@pytest.fixture(scope="module")
def params():
    return jax.jit(MoE(CONFIG).init)(jax.random.key(0), X, VALID)["params"]


def apply(params, x=X, valid=VALID, **changes):
    return jax.jit(MoE(dataclasses.replace(CONFIG, **changes)).apply)({"params": params}, x, valid)


@pytest.mark.parametrize("implementation", [None, "dense", "blocks", "ragged"])
def test_when_all_tokens_choose_the_same_experts_none_is_dropped(params, implementation):
    skewed = params | {"router": jnp.zeros_like(params["router"]).at[:, :2].set(1.0)}
    x = jnp.abs(X)  # so that experts 0 and 1 win at every token, with equal weights
    out, stats = apply(skewed, x, moe_implementation=implementation)
    expected = 0
    for e in range(2):
        h = jax.nn.silu(x @ params["experts_gate"][e]) * (x @ params["experts_up"][e])
        expected += 0.5 * h @ params["experts_down"][e]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats.load, [0.5, 0.5, 0, 0])


def test_balance_is_one_when_even_and_experts_over_k_when_one_set_takes_all():
    valid = jnp.ones((1, 8), bool)
    even = jnp.asarray(np.stack([np.roll([3.0, 3.0, 0, 0], 2 * (t % 2)) for t in range(8)])[None])
    taken = jnp.asarray(np.broadcast_to([99.0, 99.0, 0, 0], (1, 8, 4)))
    for logits, expected in ((even, 1.0), (taken, 2.0)):
        _, chosen, probabilities = route(logits, 2)
        stats = router_stats(logits, probabilities, chosen, valid)
        np.testing.assert_allclose(stats.balance, expected, rtol=1e-5)
        np.testing.assert_allclose(stats.load.sum(), 1, rtol=1e-6)


def test_padding_is_outside_of_the_router_s_losses_and_gets_nothing(params):
    valid = VALID.at[:, 15:].set(False)
    out, stats = apply(params, valid=valid)
    junk = jnp.where(valid[..., None], X, 1e3)
    out_junk, stats_junk = apply(params, junk, valid)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats, stats_junk)
    np.testing.assert_array_equal(out[:, :15], out_junk[:, :15])
    assert (out[:, 15:] == 0).all()
    _, stats_short = apply(params, X[:, :15], VALID[:, :15])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, stats_short)


def test_the_chosen_weights_sum_to_one():
    weights, chosen, _ = route(X[..., :4], 3)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert (np.sort(chosen, -1)[..., 1:] != np.sort(chosen, -1)[..., :-1]).all()


def test_the_router_learns_through_the_weights_and_through_both_losses(params):
    def gradient(pick):
        value = lambda params: pick(MoE(CONFIG).apply({"params": params}, X, VALID))  # noqa: E731
        return np.abs(jax.jit(jax.grad(value))(params)["router"]).max()

    assert gradient(lambda out: jnp.sum(out[0] ** 2)) > 0
    assert gradient(lambda out: out[1].balance) > 0
    assert gradient(lambda out: out[1].z) > 0
