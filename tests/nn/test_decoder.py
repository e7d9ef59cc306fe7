"""The stack's options change what they say and nothing else."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.models import presets
from omnijax.nn import HybridDecoder, init_cache

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = dataclasses.replace(presets.tiny().decoder, accept_hidden_layer=None)
T = 20
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, T, CONFIG.width)), jnp.float32)
POSITIONS = jnp.broadcast_to(jnp.arange(T), (3, 2, T))
IDS = jnp.ones((2, T), jnp.int32).at[1, 12:].set(2)


@functools.cache
def params(config=CONFIG):
    return jax.jit(HybridDecoder(config).init)(jax.random.key(0), X, POSITIONS, IDS)["params"]


def run(config, params, x=X, **more):
    apply = jax.jit(HybridDecoder(config).apply)
    return apply({"params": params}, x, POSITIONS, IDS, **more)


@functools.cache
def gradient(config):
    value = lambda p: jnp.sum(HybridDecoder(config).apply({"params": p}, X, POSITIONS, IDS)[0])  # noqa: E731
    return jax.jit(jax.grad(value))(params())


@pytest.mark.parametrize(
    ("remat", "scan_layers"),
    [
        ("full", True),
        pytest.param("dots", True, marks=pytest.mark.slow),
        pytest.param("full", False, marks=pytest.mark.slow),
    ],
)
def test_remat_changes_no_gradient(remat, scan_layers):
    other = gradient(dataclasses.replace(CONFIG, remat=remat, scan_layers=scan_layers))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, gradient(CONFIG), other)


def test_the_accepted_stream_is_the_one_after_so_many_layers():
    zero = run(dataclasses.replace(CONFIG, accept_hidden_layer=0), params())[2].hidden
    np.testing.assert_array_equal(zero, X)
    # After two of four layers: what a decoder of the first period alone gives before its norm.
    half = dataclasses.replace(CONFIG, layers=2, accept_hidden_layer=2)
    first = params() | {"periods": jax.tree.map(lambda p: p[:1], params()["periods"])}
    expected = run(half, first)[2].hidden
    got = run(dataclasses.replace(CONFIG, accept_hidden_layer=2), params())[2].hidden
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    last = dataclasses.replace(CONFIG, accept_hidden_layer=4)
    hidden, _, aux = run(last, params())
    normed = aux.hidden * jax.lax.rsqrt(jnp.mean(aux.hidden**2, -1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(hidden, normed, rtol=1e-4, atol=1e-5)


def test_deepstack_features_are_added_after_each_of_the_first_layers():
    features = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, T, CONFIG.width)))
    config = dataclasses.replace(CONFIG, layers=2, accept_hidden_layer=2)
    first = params() | {"periods": jax.tree.map(lambda p: p[:1], params()["periods"])}
    last_only = jnp.concatenate([jnp.zeros_like(features[:1]), features[1:2]])
    plain = run(config, first)[2].hidden
    added = run(config, first, deepstack=last_only.astype(jnp.float32))[2].hidden
    np.testing.assert_allclose(added, plain + features[1], rtol=1e-4, atol=1e-4)
    # The third level reaches the third layer, in the second period.
    deep = run(CONFIG, params(), deepstack=features.astype(jnp.float32))[0]
    two = run(CONFIG, params(), deepstack=features[:2].astype(jnp.float32))[0]
    assert np.abs(deep - two).max() > 1e-2


@pytest.mark.parametrize(
    "pattern", [*(pytest.param(p, marks=pytest.mark.slow) for p in ("full", "gdn")), "full,gdn"]
)
def test_any_pattern_runs_and_remembers(pattern):
    config = dataclasses.replace(CONFIG, pattern=pattern)
    hidden, _, _ = run(config, params(config))
    cached, cache, _ = run(config, params(config), cache=init_cache(config, 2, T))
    np.testing.assert_allclose(cached, hidden, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(cache.length, [T, T])


def test_with_a_window_a_token_sees_the_last_ones_alone_and_a_cache_sees_the_same():
    config = dataclasses.replace(
        CONFIG, pattern=("full",), layers=2, attention_window=4, experts=0, experts_per_token=0,
        ffn=16,
    )  # fmt: skip
    own, whole = params(config), functools.partial(run, config)
    expected = whole(own)[0]
    # Two layers of four tokens reach six back, and no further.
    moved = np.abs(np.asarray(whole(own, X.at[0, 5].add(3.0))[0] - expected))[0].max(-1)
    assert (moved[5:12] > 1e-4).all()
    np.testing.assert_array_equal(moved[:5], 0)
    np.testing.assert_array_equal(moved[12:], 0)
    cache, onward = init_cache(config, 2, T), jax.jit(HybridDecoder(config).apply)
    for piece in (slice(0, 7), *(slice(t, t + 1) for t in range(7, T))):
        out, cache, _ = onward(
            {"params": own}, X[:, piece], POSITIONS[:, :, piece], IDS[:, piece], cache
        )
        np.testing.assert_allclose(out, expected[:, piece], rtol=1e-4, atol=1e-4)


def test_a_dense_feed_forward_has_no_router_statistics():
    config = dataclasses.replace(CONFIG, experts=0, experts_per_token=0, ffn=24)
    _, _, aux = run(config, params(config))
    assert aux == (None, None, None, None)


def test_bfloat16_keeps_decays_and_states_in_float32_and_stays_near():
    config = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype="bfloat16")
    drawn = params(config)
    flat = {
        "/".join(key.key for key in path): leaf.dtype
        for path, leaf in jax.tree_util.tree_leaves_with_path(drawn)
    }
    for name, dtype in flat.items():
        kept = name.endswith(("A_log", "dt_bias"))
        assert dtype == (jnp.float32 if kept else jnp.bfloat16), name
    cache = init_cache(config, 2, T)
    assert [c.state.dtype for c in cache.layers if hasattr(c, "state")] == [jnp.float32]
    hidden, cache, aux = run(config, drawn, cache=cache)
    assert hidden.dtype == jnp.bfloat16 and aux.balance.dtype == jnp.float32
    assert cache.layers[0].state.dtype == jnp.float32
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), drawn)
    expected, _, _ = run(CONFIG, exact)
    error = np.abs(np.asarray(hidden, np.float32) - expected)
    assert np.median(error) < 0.03


def test_a_decode_asks_for_the_kernel_that_its_config_names(caplog):
    def decode(config):
        cache, where = init_cache(config, 2, T), (POSITIONS[..., :1], IDS[:, :1])
        apply = HybridDecoder(config).apply
        with caplog.at_level(logging.WARNING):
            jax.eval_shape(lambda p: apply({"params": p}, X[:, :1], *where, cache), params())
        return caplog.text

    assert "gated_delta_step" not in decode(CONFIG)
    text = decode(dataclasses.replace(CONFIG, gdn_implementation="pallas"))
    assert "gated_delta_step: einsum runs instead of the kernel: the backend is cpu" in text


def test_a_long_row_of_one_token_stays_finite_in_values_and_gradients():
    # Repeated keys (silence, padding, a held note) break inversions by series.
    x = jnp.broadcast_to(X[:1, :1], (1, 512, CONFIG.width))
    positions, ids = jnp.broadcast_to(jnp.arange(512), (3, 1, 512)), jnp.ones((1, 512), jnp.int32)
    config = dataclasses.replace(CONFIG, gdn_chunk=64)
    slow = params()["periods"]["layer_0"]["gdn"]
    # Almost no decay: the worst case.
    gdn = slow | {"dt_bias": jnp.full_like(slow["dt_bias"], -9.0)}
    drawn = params() | {
        "periods": params()["periods"] | {"layer_0": params()["periods"]["layer_0"] | {"gdn": gdn}}
    }

    def value(p):
        hidden, _, _ = HybridDecoder(config).apply({"params": p}, x, positions, ids)
        return jnp.sum(hidden**2) / 512

    total, gradient = jax.jit(jax.value_and_grad(value))(drawn)
    np.testing.assert_allclose(total, CONFIG.width, rtol=1e-3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
