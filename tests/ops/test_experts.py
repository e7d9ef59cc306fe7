"""Every form of the experts and of the grouped matmul equals its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.ops import expert_ffn, grouped_matmul
from omnijax.ops.experts import sort_by_expert

_ffn = jax.jit(expert_ffn, static_argnames="implementation")


def _experts(tokens, experts=5, per_token=2, width=24, hidden=12, seed=0, absent=False):
    r = np.random.default_rng(seed)
    f = lambda *shape: jnp.asarray(r.normal(size=shape) / shape[-2] ** 0.5, jnp.float32)  # noqa: E731
    chosen = np.argsort(r.normal(size=(tokens, experts)), 1)[:, :per_token]
    if absent:
        chosen = np.where(
            r.random(chosen.shape) < 0.3, r.choice([-1, experts], chosen.shape), chosen
        )
    weights = jnp.asarray(r.random((tokens, per_token)), jnp.float32)
    return (
        f(tokens, width),
        f(experts, width, hidden),
        f(experts, width, hidden),
        f(experts, hidden, width),
        jnp.asarray(chosen, jnp.int32),
        weights,
    )


def _plain(x, gate, up, down, chosen, weights):
    out = np.zeros_like(x)
    for t in range(x.shape[0]):
        for e, weight in zip(chosen[t], weights[t], strict=True):
            if 0 <= e < gate.shape[0]:
                h = x[t] @ gate[e]
                out[t] += weight * ((h / (1 + np.exp(-h)) * (x[t] @ up[e])) @ down[e])
    return out


@pytest.mark.parametrize("tokens", [1, 37])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("implementation", [None, "dense", "slices", "blocks", "ragged"])
def test_every_form_equals_a_loop_over_tokens_in_numpy(tokens, absent, implementation):
    args = _experts(tokens, absent=absent)
    out = _ffn(*args, implementation=implementation)
    np.testing.assert_allclose(out, _plain(*(np.asarray(a) for a in args)), atol=2e-6)


@pytest.mark.parametrize("tokens", [1, 130])
@pytest.mark.parametrize("implementation", ["slices", "blocks", "ragged"])
def test_every_form_has_the_gradients_of_the_definition(tokens, implementation):
    args = _experts(tokens, absent=True, seed=tokens)
    chosen = args[4]

    def loss(implementation):
        grad = jax.grad(
            lambda x, g, u, d, w: jnp.sum(
                jnp.sin(expert_ffn(x, g, u, d, chosen, w, implementation))
            ),
            (0, 1, 2, 3, 4),
        )
        return jax.jit(grad)(*args[:4], args[5])

    for ours, truth in zip(loss(implementation), loss("dense"), strict=True):
        np.testing.assert_allclose(ours, truth, atol=1e-5)


@pytest.mark.parametrize("sizes", [[0, 0, 0], [7, 0, 12], [40, 0, 0], [0, 0, 40], [1, 38, 1]])
@pytest.mark.parametrize("implementation", ["dense", "blocks", "ragged"])
def test_grouped_matmul_multiplies_each_row_by_its_group_and_zeroes_the_rest(sizes, implementation):
    r = np.random.default_rng(1)
    x, w = r.normal(size=(40, 9)).astype(np.float32), r.normal(size=(3, 9, 5)).astype(np.float32)
    truth, start = np.zeros((40, 5), np.float32), 0
    for e, size in enumerate(sizes):
        truth[start : start + size] = x[start : start + size] @ w[e]
        start += size
    x[start:] = np.nan  # what lies past the last group is never looked at
    cotangent = jnp.asarray(r.normal(size=truth.shape), jnp.float32)

    @jax.jit
    def run(x, w):
        out, pull = jax.vjp(lambda *a: grouped_matmul(*a, jnp.asarray(sizes), implementation), x, w)
        return out, *pull(cotangent)

    out, dx, dw = run(x, w)
    np.testing.assert_allclose(out, truth, atol=2e-5)
    start = 0
    for e, size in enumerate(sizes):
        part = slice(start, start + size)
        np.testing.assert_allclose(dx[part], cotangent[part] @ w[e].T, atol=2e-5)
        np.testing.assert_allclose(dw[e], x[part].T @ cotangent[part], atol=2e-5)
        start += size
    np.testing.assert_array_equal(dx[start:], 0)


def test_bfloat16_rows_are_summed_in_float32():
    """Of 64 experts, all with something to add: in bfloat16 the sum is off by more than it may."""
    *floats, chosen, _ = _experts(40, experts=64, per_token=64)
    floats = [jnp.abs(a).astype(jnp.bfloat16) for a in floats]
    weights = jnp.full(chosen.shape, 1 / 64, jnp.bfloat16)
    wide = [np.asarray(a, np.float32) for a in (*floats, chosen, weights)]
    truth, near = _plain(*wide[:4], np.asarray(chosen), wide[5]), {"rtol": 5e-3, "atol": 0}
    for implementation in ("blocks", "dense", "slices", "ragged"):
        out = _ffn(*floats, chosen, weights, implementation=implementation)
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(jnp.float32), truth, **near)
    total = jnp.zeros(truth.shape, jnp.bfloat16)
    for expert in range(64):
        one = _plain(*wide[:4], np.full((40, 1), expert), wide[5][:, :1])
        total += jnp.asarray(one, jnp.bfloat16)
    assert not np.allclose(total.astype(jnp.float32), truth, **near)


@pytest.mark.parametrize("experts", [4, 40])
def test_sorting_by_expert_is_stable_and_puts_absent_ones_last(experts):
    chosen = np.random.default_rng(2).integers(0, experts + 1, (50, 2))
    order, rank, sizes = sort_by_expert(jnp.asarray(chosen), experts)
    np.testing.assert_array_equal(order, np.argsort(chosen.reshape(-1), kind="stable"))
    np.testing.assert_array_equal(rank[order], np.arange(100))
    np.testing.assert_array_equal(
        sizes, np.bincount(chosen.reshape(-1), minlength=experts + 1)[:-1]
    )


def test_an_unknown_form_is_refused_by_name():
    with pytest.raises(UserError, match="'fast'"):
        expert_ffn(*_experts(3), implementation="fast")
    with pytest.raises(UserError, match="'fast'"):
        grouped_matmul(jnp.ones((3, 2)), jnp.ones((1, 2, 2)), jnp.array([3]), "fast")
