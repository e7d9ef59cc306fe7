"""The causal convolution: documents apart, pieces as the whole, gradients as autodiff's."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.ops import causal_conv

TAPS, WIDTH = 4, 5


def make(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain(x, weight, ids, state):
    """The sum written out: every token takes the tokens of its own document before it."""
    out = np.zeros_like(x)
    for b, t in np.ndindex(x.shape[:2]):
        if ids[b, t] == 0:
            continue
        first = ids[b][ids[b] > 0][0]
        for back in range(TAPS):
            at = t - back
            if at >= 0 and ids[b, at] == ids[b, t]:
                out[b, t] += weight[TAPS - 1 - back] * x[b, at]
            elif at < 0 and ids[b, t] == first:
                out[b, t] += weight[TAPS - 1 - back] * state[b, at]
    return out


IDS = np.array(
    [
        [1] * 20,
        [1, 2, 3, 4, 5, 6, 6, 7, 7, 7, 8, 8, 8, 8, 9, 9, 9, 9, 9, 0],
        [1] * 9 + [2] * 6 + [0] * 5,
        [1] * 3 + [0] * 4 + [2] * 5 + [0] * 8,
        [0] * 20,
    ],
    np.int32,
)
CONV = jax.jit(causal_conv)


def test_every_edge_equals_the_sum_written_out():
    x, weight, state = make(5, 20, WIDTH), make(TAPS, WIDTH), make(5, TAPS - 1, WIDTH)
    truth = plain(np.where(IDS[..., None] > 0, x, np.nan), weight, IDS, state)
    x = np.where(IDS[..., None] > 0, x, np.nan)  # padding may hold anything
    out, _ = CONV(jnp.asarray(x), jnp.asarray(weight), segment_ids=IDS, state=jnp.asarray(state))
    np.testing.assert_allclose(out, truth, atol=1e-6)
    without, _ = CONV(jnp.asarray(x[:1]), jnp.asarray(weight), state=jnp.asarray(state[:1]))
    np.testing.assert_allclose(without, truth[:1], atol=1e-6)


@pytest.mark.parametrize("segmented", [False, True])
def test_gradients_equal_those_of_the_sum_by_autodiff(segmented):
    x, weight, state = make(5, 20, WIDTH), make(TAPS, WIDTH), make(5, TAPS - 1, WIDTH)
    ids = IDS if segmented else np.ones_like(IDS)
    cotangent = make(5, 20, WIDTH, seed=1)

    def selected(x, weight, state):
        padded = jnp.concatenate([state, x], 1)
        first = [row[row > 0][:1].tolist() or [1] for row in ids]
        before = np.concatenate([np.repeat(first, TAPS - 1, 1), ids], 1)
        out = 0
        for i in range(TAPS):
            mask = (before[:, i : i + 20] == ids) & (ids > 0)
            out += jnp.where(mask[..., None], padded[:, i : i + 20] * weight[i], 0)
        return jnp.sum(out * cotangent)

    def ours(x, weight, state):
        options = {"segment_ids": jnp.asarray(ids)} if segmented else {}
        return jnp.sum(causal_conv(x, weight, state=state, **options)[0] * cotangent)

    args = tuple(jnp.asarray(a) for a in (x, weight, state))
    if segmented:  # a state before padding inside the row is only met through the mask
        args = (jnp.where(ids[..., None] > 0, args[0], 0), *args[1:])
    for a, b in zip(
        jax.jit(jax.grad(ours, (0, 1, 2)))(*args), jax.grad(selected, (0, 1, 2))(*args), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_state_holds_the_last_tokens_of_the_last_document_only():
    x = make(5, 20, WIDTH)
    _, state = CONV(jnp.asarray(x), jnp.asarray(make(TAPS, WIDTH)), segment_ids=IDS)
    np.testing.assert_array_equal(state[0], x[0, 17:])
    np.testing.assert_array_equal(state[1], x[1, 16:19])
    np.testing.assert_array_equal(state[2], x[2, 12:15])
    np.testing.assert_array_equal(state[3], x[3, 9:12])
    np.testing.assert_array_equal(state[4], 0)
    short = np.array([[1] * 5 + [2, 0]])
    _, state = causal_conv(
        jnp.asarray(x[:1, :7]), jnp.asarray(make(TAPS, WIDTH)), segment_ids=jnp.asarray(short)
    )
    np.testing.assert_array_equal(state[0, :2], 0)
    np.testing.assert_array_equal(state[0, 2], x[0, 5])


def test_a_row_fed_in_right_padded_pieces_equals_the_row_fed_whole():
    """Rows advance by their own number of tokens in each piece, some by none."""
    x, weight = jnp.asarray(make(2, 20, WIDTH)), jnp.asarray(make(TAPS, WIDTH))
    ids = np.stack([IDS[0], np.repeat([1, 2], [11, 9])])
    whole, last = causal_conv(x, weight, segment_ids=jnp.asarray(ids))
    state, outs, at = jnp.zeros((2, TAPS - 1, WIDTH)), [[], []], [0, 0]
    previous = [1, 1]
    for sizes in [(1, 6), (2, 0), (6, 1), (0, 5), (6, 6), (5, 2)]:
        piece, piece_ids = np.full((2, 6, WIDTH), 7.0, np.float32), np.zeros((2, 6), np.int32)
        for b, size in enumerate(sizes):
            part = slice(at[b], at[b] + size)
            piece[b, :size], piece_ids[b, :size] = x[b, part], ids[b, part]
            if size and piece_ids[b, 0] != previous[b]:  # the caller starts a document: no state
                state = state.at[b].set(0)
            previous[b] = piece_ids[b, size - 1] if size else previous[b]
        out, state = CONV(
            jnp.asarray(piece), weight, segment_ids=jnp.asarray(piece_ids), state=state
        )
        for b, size in enumerate(sizes):
            outs[b].append(out[b, :size])
            at[b] += size
    np.testing.assert_allclose([np.concatenate(o) for o in outs], whole, atol=1e-6)
    np.testing.assert_array_equal(state, last)


def test_a_row_fed_token_by_token_equals_the_row_fed_whole():
    """Padding, which comes between tokens for rows that wait, changes no state."""
    ids = IDS[:3]
    x, weight = jnp.asarray(make(3, 20, WIDTH)), jnp.asarray(make(TAPS, WIDTH))
    whole, last = CONV(x, weight, segment_ids=jnp.asarray(ids))
    state, previous, outs = jnp.zeros((3, TAPS - 1, WIDTH)), ids[:, 0], []
    for t in range(20):
        begins = (ids[:, t] > 0) & (ids[:, t] != previous)
        state = jnp.where(begins[:, None, None], 0, state)
        out, state = CONV(
            x[:, t : t + 1], weight, segment_ids=jnp.asarray(ids[:, t : t + 1]), state=state
        )
        waited, kept = CONV(x[:, :1], weight, segment_ids=jnp.zeros((3, 1), jnp.int32), state=state)
        np.testing.assert_array_equal(waited, 0)
        np.testing.assert_array_equal(kept, state)
        previous = np.where(ids[:, t] > 0, ids[:, t], previous)
        outs.append(out)
    np.testing.assert_allclose(jnp.concatenate(outs, 1), whole, atol=1e-6)
    np.testing.assert_array_equal(state, last)


def test_bfloat16_is_summed_in_float32():
    x, weight = jnp.asarray(make(1, 30, WIDTH), jnp.bfloat16), jnp.asarray(make(TAPS, WIDTH))
    out, state = causal_conv(x, weight)
    wide, _ = causal_conv(x.astype(jnp.float32), weight)
    assert out.dtype == state.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), wide, rtol=2**-8, atol=1e-30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": jnp.zeros((4, 3))}, r"weight has shape \(4, 3\), it must be \(taps, 5\)"),
        ({"state": jnp.zeros((2, 4, 5))}, r"state has shape \(2, 4, 5\), it must be \(2, 3, 5\)"),
        ({"segment_ids": jnp.ones((2, 6), int)}, "segment_ids has shape"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    arguments = {"x": jnp.zeros((2, 7, 5)), "weight": jnp.zeros((4, 5)), **change}
    with pytest.raises(UserError, match=message):
        inspect.unwrap(causal_conv)(**arguments)
