"""Attention: every mask and form equals the definition; blind rows are zero; memory is linear."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.ops import attention, windowed_attention

B, T, N, K, H, HV = 2, 300, 4, 2, 8, 6


def make(length=T, keys=None, seed=0):
    r = np.random.default_rng(seed)
    f = lambda *shape: jnp.asarray(r.normal(size=shape), jnp.float32)  # noqa: E731
    keys = keys or length
    return f(B, length, N, H), f(B, keys, K, H), f(B, keys, K, HV)


def packed(length, seed=0):
    """Documents in growing order with padding behind, and a row with a gap in the middle."""
    r = np.random.default_rng(seed)
    ids = np.sort(r.integers(1, 5, (B, length)), 1)
    ids[0, length - length // 6 :] = 0
    ids[1, length // 3 : length // 2] = 0
    return jnp.asarray(ids, jnp.int32)


def truth(q, k, v, seen, scale=H**-0.5):
    """softmax over the keys seen, in float64; zero where there are none. seen [B, T, S]."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, N // K, 2) for x in (k, v))
    scores = scale * np.einsum("btnh,bsnh->bnts", q, k)
    weights = np.where(np.asarray(seen)[:, None], np.exp(scores - scores.max()), 0)
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bnts,bsnh->btnh", weights / np.where(total == 0, 1, total), v)


@functools.partial(jax.jit, static_argnames=("causal", "window", "implementation"))
def run(q, k, v, causal, window, implementation, arrays):
    """The output and its gradients."""
    weight = jnp.cos(jnp.arange(q.shape[0] * q.shape[1] * N * HV)).reshape(*q.shape[:3], HV)

    def loss(q, k, v):
        out = attention(
            q, k, v, causal=causal, window=window, implementation=implementation, **arrays
        )
        return jnp.sum(out * weight), out

    (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
    return out, grads


CASES = {
    "causal": (True, None, False),
    "both ways": (False, None, False),
    "causal, packed": (True, None, True),
    "both ways, packed, windowed": (False, 20, True),
    "causal, windowed": (True, 7, False),
}


@pytest.mark.parametrize("case", CASES)
def test_both_forms_equal_the_definition_and_each_other_in_gradients(case):
    causal, window, segmented = CASES[case]
    q, k, v = make()
    ids = packed(T)
    arrays = {"q_segments": ids, "kv_segments": ids} if segmented else {}
    distance = np.arange(T)[:, None] - np.arange(T)[None]
    seen = np.ones((B, T, T), bool)
    if causal:
        seen &= distance >= 0
    if window:
        seen &= np.abs(distance) < window
    if segmented:
        ids = np.asarray(ids)
        seen &= (ids[:, :, None] == ids[:, None]) & (ids > 0)[:, :, None]
    dense, dense_grads = run(q, k, v, causal, window, "dense", arrays)
    blocks, block_grads = run(q, k, v, causal, window, "blocks", arrays)
    np.testing.assert_allclose(dense, truth(q, k, v, seen), atol=2e-6)
    np.testing.assert_allclose(blocks, truth(q, k, v, seen), atol=2e-6)
    for a, b in zip(dense_grads, block_grads, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=3e-6)


def test_one_query_sees_what_the_last_of_many_sees_and_its_gradient_is_theirs():
    q, k, v = make()
    ids = jnp.ones((B, T), jnp.int32).at[:, : T // 3].set(0)
    many, one = (
        {
            "q_segments": ids[:, -n:],
            "kv_segments": ids,
            "q_positions": jnp.broadcast_to(jnp.arange(T), (B, T))[:, -n:],
        }
        for n in (2, 1)
    )
    last = run(q[:, -2:].at[:, 0].set(0), k, v, True, None, "dense", many)[0][:, 1:]
    out, grads = run(q[:, -1:], k, v, True, None, "dense", one)
    np.testing.assert_allclose(out, last, atol=1e-6)
    blocks, theirs = run(q[:, -1:], k, v, True, None, "blocks", one)
    np.testing.assert_allclose(out, blocks, atol=2e-6)
    for a, b in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6)


@pytest.mark.parametrize("implementation", ["dense", "blocks"])
def test_a_query_that_sees_nothing_gives_zero_and_zero_gradient(implementation):
    q, k, v = make(T)
    arrays = {"kv_length": jnp.array([0, T])}
    out, grads = run(q, k, v, True, None, implementation, arrays)
    np.testing.assert_array_equal(out[0], 0)
    for grad in grads:
        np.testing.assert_array_equal(grad[0], 0)
        assert np.isfinite(grad).all() and np.any(np.asarray(grad[1]) != 0)


def test_scores_of_thousands_neither_overflow_nor_lose_the_softmax():
    q, k, v = make(T)
    for implementation in ("dense", "blocks"):
        out, _ = run(300 * q, 300 * k, v, True, None, implementation, {})
        seen = np.tril(np.ones((B, T, T), bool))
        best = np.where(seen[:, None], np.einsum("btnh,bsnh->bnts", q, np.repeat(k, 2, 2)), -np.inf)
        picked = np.take_along_axis(
            np.repeat(v, 2, 2), best.argmax(-1).swapaxes(1, 2)[..., None], 1
        )
        assert np.mean(np.isclose(out, picked, atol=1e-3)) > 0.99


@pytest.mark.parametrize("implementation", ["dense", "blocks"])
def test_a_cache_filled_in_pieces_gives_what_the_whole_row_gives(implementation):
    """Rows of different length, right-padded pieces, positions given by hand."""
    q, k, v = make(150)
    size = 160
    cache_k, cache_v = np.full((B, size, K, H), 1e30), np.full((B, size, K, HV), 1e30)
    length = np.zeros(B, np.int32)
    outs = [[], []]
    step = jax.jit(functools.partial(attention, causal=True, implementation=implementation))
    whole = truth(q, k, v, np.tril(np.ones((B, 150, 150), bool)))
    for sizes in [(70, 1), (0, 69), (70, 80), (10, 0)]:
        piece_q = np.zeros((B, 80, N, H), np.float32)
        segments = np.zeros((B, 80), np.int32)
        for b, n in enumerate(sizes):
            part = slice(length[b], length[b] + n)
            piece_q[b, :n], segments[b, :n] = q[b, part], 1
            cache_k[b, part], cache_v[b, part] = k[b, part], v[b, part]
        positions = jnp.asarray(length[:, None] + np.arange(80))
        length = length + np.array(sizes)
        out = step(
            jnp.asarray(piece_q),
            jnp.asarray(cache_k, jnp.float32),
            jnp.asarray(cache_v, jnp.float32),
            q_segments=jnp.asarray(segments),
            kv_segments=jnp.ones((B, size), jnp.int32),
            q_positions=positions,
            kv_length=jnp.asarray(length),
        )
        for b, n in enumerate(sizes):
            np.testing.assert_array_equal(out[b, n:], 0)
            outs[b].append(out[b, :n])
    np.testing.assert_allclose([np.concatenate(o) for o in outs], whole, atol=3e-6)


@pytest.mark.parametrize("length", [12, 26, 31])
def test_windows_see_themselves_only(length):
    windowed = jax.jit(windowed_attention, static_argnames="window")
    q, k, v = make(length)
    ids = packed(length)
    window = np.arange(length) // 13
    same = np.broadcast_to(window[:, None] == window[None], (B, length, length))
    out = windowed(q, k, v, window=13)
    np.testing.assert_allclose(out, truth(q, k, v, same), atol=2e-6)
    out = windowed(q, k, v, window=13, segments=ids)
    ids = np.asarray(ids)
    same = same & (ids[:, :, None] == ids[:, None]) & (ids > 0)[:, :, None]
    np.testing.assert_allclose(out, truth(q, k, v, same), atol=2e-6)


def test_memory_of_blocks_grows_with_length_not_with_its_square():
    def memory(length):
        shapes = [jax.ShapeDtypeStruct((1, length, h, H), jnp.float32) for h in (N, K, K)]
        grad = jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, causal=True)), (0, 1, 2))
        return jax.jit(grad).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert memory(16_384) < 4.5 * memory(4096)
    assert memory(16_384) < 64 * 2**20  # one [T, T] of float32 alone would be 4 GiB


def test_bfloat16_sums_in_float32():
    """The mean of 4,096 values is off by its last rounding alone; in bfloat16, by far more."""
    q, k, v = (jnp.abs(x).astype(jnp.bfloat16) for x in make(4096))
    truth = np.asarray(v, np.float64).mean(1).repeat(N // K, 1)[:, None]
    near = {"rtol": 1.01 * 2**-8, "atol": 0}
    for implementation in ("dense", "blocks"):
        out = attention(0 * q[:, :256], k, v, causal=False, implementation=implementation)
        assert out.dtype == jnp.bfloat16
        wide = np.asarray(out, np.float64)
        np.testing.assert_allclose(wide, np.broadcast_to(truth, wide.shape), **near)
    total = v.reshape(B, 64, 64, K, HV).cumsum(2)[:, :, -1].cumsum(1)[:, -1] / 4096
    assert not np.allclose(np.asarray(total, np.float64).repeat(N // K, 1), truth[:, 0], **near)


def test_bfloat16_keeps_its_scores_in_float32():
    """Two that differ by less than bfloat16 can tell."""
    keys = jnp.stack([jnp.full((B, 2, K), 1.0), jnp.zeros((B, 2, K))], -1).at[:, 0, :, 1].set(2**-4)
    q = jnp.broadcast_to(jnp.asarray([64.0, 1.0], jnp.bfloat16), (B, 1, N, 2))
    v = jnp.broadcast_to(jnp.asarray([1.0, 0.0])[None, :, None, None], (B, 2, K, 1))
    out = attention(q, keys.astype(jnp.bfloat16), v.astype(jnp.bfloat16), causal=False, scale=1.0)
    expected = 1 / (1 + np.exp(-(2**-4)))  # in bfloat16 64 and 64 + 2^-4 are one number
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, rtol=2**-8)
    assert abs(0.5 / expected - 1) > 2**-7


def test_bad_arguments_are_named():
    q, k, v = make(8)
    for window in (0, -3):
        for call in (functools.partial(attention, causal=True), windowed_attention):
            with pytest.raises(UserError, match=f"window is {window}"):
                call(q, k, v, window=window)
    with pytest.raises(UserError, match="'flash'"):
        attention(q, k, v, causal=True, implementation="flash")
    with pytest.raises(UserError, match="kv_segments go together"):
        attention(q, k, v, causal=True, q_segments=jnp.ones((B, 8), jnp.int32))
    with pytest.raises(UserError, match="4 heads"):
        attention(q, jnp.repeat(k, 3, 2)[:, :, :3], jnp.repeat(v, 3, 2)[:, :, :3], causal=True)
