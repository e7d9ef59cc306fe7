"""The chunked gated delta rule is the definition in float64, in values and all gradients."""

import doctest
import functools
import inspect
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.ops import gated_delta_rule, gated_delta_step, gated_delta_transition

NAMES = ("q", "k", "v", "log_decay", "beta", "initial_state")


def make(length, batch=2, key_heads=2, heads=4, dim=8, value_dim=12, seed=0, **change):
    """Normalised keys, decays from 0 to -20, beta in [0, 1] with both ends; float64."""
    r = np.random.default_rng(seed)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    x = {
        "q": unit(r.normal(size=(batch, length, key_heads, dim))) * dim**-0.5,
        "k": unit(r.normal(size=(batch, length, key_heads, dim))),
        "v": r.normal(size=(batch, length, heads, value_dim)),
        "log_decay": -np.exp(r.uniform(-7, 3, (batch, length, heads))),
        "beta": np.clip(r.uniform(-0.3, 1.3, (batch, length, heads)), 0, 1),
        "initial_state": r.normal(size=(batch, heads, dim, value_dim)),
    }
    assert set(change) <= set(x)
    for name, value in change.items():
        value = value(r, x[name]) if callable(value) else value
        x[name] = np.broadcast_to(value, x[name].shape)
    return tuple(x[name] for name in NAMES)


@functools.partial(jax.jit, static_argnames=("implementation", "chunk_size"))
def _run(inputs, segment_ids, weights, implementation, chunk_size):
    """Output, final state, and the gradients of a weighted sum of both by the six inputs."""

    def loss(inputs):
        *tokens, state = inputs
        result = gated_delta_rule(
            *tokens,
            segment_ids=segment_ids,
            initial_state=state,
            implementation=implementation,
            chunk_size=chunk_size,
        )
        return sum(jnp.sum(a * b) for a, b in zip(result, weights, strict=True)), result

    (_, result), grads = jax.value_and_grad(loss, has_aux=True)(inputs)
    return result, grads


def run(inputs, segment_ids=None, implementation="chunked", chunk_size=16, dtype=jnp.float32):
    r = np.random.default_rng(7)
    shapes = inputs[2].shape, inputs[5].shape
    with jax.enable_x64(dtype == jnp.float64):
        weights = tuple(jnp.asarray(r.normal(size=s), dtype) for s in shapes)
        ids = None if segment_ids is None else jnp.asarray(segment_ids, jnp.int32)
        inputs = tuple(jnp.asarray(x, dtype) for x in inputs)
        return jax.tree.map(np.asarray, _run(inputs, ids, weights, implementation, chunk_size))


def assert_equals_definition(inputs, segment_ids=None, tolerance=1e-5, chunk_size=16):
    """Everything finite and within `tolerance` of the largest entry of the float64 truth."""
    inputs = tuple(np.asarray(x, np.float32) for x in inputs)  # what float32 can hold
    (out, state), grads = run(inputs, segment_ids, chunk_size=chunk_size)
    (out_, state_), grads_ = run(inputs, segment_ids, "naive", dtype=jnp.float64)
    named = [("out", out, out_), ("final state", state, state_)]
    named += [(f"gradient of {n}", *p) for n, *p in zip(NAMES, grads, grads_, strict=True)]
    for name, ours, truth in named:
        error = np.max(np.abs(ours - truth)) / max(np.max(np.abs(truth)), 1e-30)
        assert np.isfinite(ours).all() and error <= tolerance, (name, error)


def random_segments(r, batch, length):
    """Documents of any length, one token ones too, with padding before, between and after."""
    ids = np.zeros((batch, length), np.int32)
    for row in ids:
        at, document = int(r.integers(0, 4)), 0
        while at < length:
            document += int(r.integers(1, 3))
            end = at + int(r.choice([1, 2, 5, 17, 40]))
            row[at:end] = document
            at = end + int(r.choice([0, 0, 0, 3, 20]))
    return ids


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 65])
def test_any_length_equals_the_definition_in_values_and_gradients(length):
    assert_equals_definition(make(length))


def test_groups_of_chunks_equal_the_definition_with_documents_across_them():
    """211 tokens are two groups of seven chunks, the last one not full."""
    ids = random_segments(np.random.default_rng(5), 2, 211)
    ids[0] = np.repeat([1, 2, 3, 0], [111, 2, 90, 8])
    assert_equals_definition(make(211), ids)


def test_nothing_in_the_whole_box_is_wrong_or_not_finite():
    """Decays, betas, keys and documents from the ends of their ranges, in any mixture."""
    ends = lambda *values: lambda r, x: r.choice(values, x.shape)  # noqa: E731
    constant = lambda *values: lambda r, x: r.choice(values)  # noqa: E731
    for seed in range(24):
        r = np.random.default_rng(100 + seed)
        kinds = {
            "log_decay": (None, 0.0, -20.0, ends(0.0, -20.0), ends(-1e-6, -1.0, -20.0)),
            "beta": (None, constant(0.0, 1.0), ends(0.0, 1.0)),
            "k": (
                None,
                lambda r, x: x[:, :1],
                lambda r, x: x * r.choice([0, 1], (*x.shape[:3], 1)),
            ),
            "initial_state": (None, 0.0),
        }
        change = {name: kind[r.integers(len(kind))] for name, kind in kinds.items()}
        change = {name: kind for name, kind in change.items() if kind is not None}
        ids = random_segments(r, 2, 40) if seed % 3 else np.ones((2, 40), np.int32)
        assert_equals_definition(make(40, seed=seed, **change), ids)


@pytest.mark.parametrize("chunk_size", [64, pytest.param(128, marks=pytest.mark.slow)])
def test_any_chunk_size_equals_the_definition(chunk_size):
    r = np.random.default_rng(chunk_size)
    assert_equals_definition(make(149), random_segments(r, 2, 149), chunk_size=chunk_size)


def test_a_document_may_start_at_every_position_of_a_chunk():
    for edge in range(1, 40):
        row = np.arange(40)
        ids = np.stack([np.where(row < edge, 1, 2), np.where(row < edge, 1, 2 + row % 2 * 0)])
        ids[1, edge + 3 :] = 5  # and another one three tokens on
        assert_equals_definition(make(40, seed=edge), ids)


def test_many_documents_in_a_chunk_and_padding_anywhere_equal_the_definition():
    for seed in range(12):
        ids = random_segments(np.random.default_rng(seed), 2, 40)
        assert_equals_definition(make(40, seed=seed), ids)
    assert_equals_definition(make(40), np.arange(1, 41)[None].repeat(2, 0))
    assert_equals_definition(make(40), np.zeros((2, 40)))


@pytest.mark.parametrize("decay", [0.0, -1e-3, -1.0, -20.0])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_constant_decays_and_betas_equal_the_definition(decay, beta):
    assert_equals_definition(make(65, log_decay=decay, beta=beta))


def test_a_strong_decay_does_not_cost_the_tokens_after_it_their_digits():
    """Plain cumulative sums would be wrong by 1e-4 in the exponent here."""

    def late(r, x):
        return np.where(np.arange(x.shape[1])[None, :, None] % 64 < 48, -20.0, -0.01)

    inputs = make(149, log_decay=late)
    assert_equals_definition(inputs, np.ones((2, 149)), chunk_size=64, tolerance=2e-6)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_repeated_keys_keep_six_digits(noise):
    """Silence, padding, a held note: where Neumann and Newton inverses lose every digit."""

    def repeated(r, x):
        x = x[:, :1] + noise * r.normal(size=x.shape) * x.shape[-1] ** -0.5
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    for decay in (0.0, -1e-3):
        assert_equals_definition(
            make(512, k=repeated, q=repeated, log_decay=decay, beta=1.0), chunk_size=64
        )


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_repeated_keys_keep_five_digits_over_4096_tokens(noise):
    def repeated(r, x):
        x = x[:, :1] + noise * r.normal(size=x.shape) * x.shape[-1] ** -0.5
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    inputs = make(
        4096, batch=1, dim=128, value_dim=128, k=repeated, q=repeated, log_decay=-1e-3, beta=0.9
    )
    assert_equals_definition(inputs, chunk_size=64)


def test_padding_gives_zero_and_leaves_the_state_exact_whatever_it_holds():
    length, tail = 40, 23
    inputs = [np.array(x, np.float32) for x in make(length)]
    ids = np.ones((2, length + tail))
    ids[:, length:] = 0
    padded = []
    for x in inputs[:5]:
        x = np.concatenate([x, np.full_like(x[:, :tail], np.nan)], 1)
        padded.append(x)
    (out, state), grads = run((*padded, inputs[5]), ids)
    (alone, state_alone), _ = run(inputs, np.ones((2, length)))
    np.testing.assert_array_equal(out[:, length:], 0)
    np.testing.assert_array_equal(state, state_alone)
    np.testing.assert_array_equal(out[:, :length], alone)
    for grad in grads[:5]:
        assert np.isfinite(grad).all()
        np.testing.assert_array_equal(grad[:, length:], 0)


def test_a_row_of_padding_returns_the_state_it_was_given():
    inputs = make(20)
    (out, state), _ = run(inputs, np.zeros((2, 20)))
    np.testing.assert_array_equal(state, np.asarray(inputs[5], np.float32))
    np.testing.assert_array_equal(out, 0)


def test_a_row_fed_in_pieces_or_token_by_token_equals_the_row_fed_whole():
    inputs = tuple(jnp.asarray(x, jnp.float32) for x in make(50))
    *tokens, state = inputs
    whole, last = gated_delta_rule(*tokens, initial_state=state, chunk_size=16)
    rule = jax.jit(gated_delta_rule, static_argnames="chunk_size")
    for sizes in ([20, 20, 10], [10] * 5):
        outs, carried, at = [], state, 0
        for size in sizes:
            piece = tuple(x[:, at : at + size] for x in tokens)
            out, carried = rule(*piece, initial_state=carried, chunk_size=16)
            outs.append(out)
            at += size
        np.testing.assert_allclose(np.concatenate(outs, 1), whole, atol=2e-6)
        np.testing.assert_allclose(carried, last, atol=2e-6)
    outs, carried, step = [], state, jax.jit(gated_delta_step)
    for t in range(50):
        out, carried = step(*(x[:, t] for x in tokens), carried)
        outs.append(out)
    np.testing.assert_allclose(np.stack(outs, 1), whole, atol=2e-6)
    np.testing.assert_allclose(carried, last, atol=2e-6)


def test_packed_documents_equal_each_alone():
    *tokens, _ = (jnp.asarray(x, jnp.float32) for x in make(50, batch=1))
    ids = np.repeat([[1, 2, 3]], [20, 10, 20], 1)
    packed, last = gated_delta_rule(*tokens, segment_ids=jnp.asarray(ids), chunk_size=16)
    for document in (1, 2, 3):
        part = np.flatnonzero(ids[0] == document)
        alone, state = gated_delta_rule(*(x[:, part] for x in tokens), chunk_size=16)
        np.testing.assert_allclose(packed[:, part], alone, atol=2e-6)
    np.testing.assert_allclose(last, state, atol=2e-6)


def test_bfloat16_inputs_are_worked_on_in_float32():
    inputs = make(70)
    low = tuple(jnp.asarray(x, jnp.bfloat16) for x in inputs[:5])
    out, state = gated_delta_rule(*low)
    wide, state_wide = gated_delta_rule(*(x.astype(jnp.float32) for x in low))
    assert out.dtype == jnp.bfloat16 and state.dtype == jnp.float32
    np.testing.assert_allclose(state, state_wide, atol=1e-6)
    np.testing.assert_allclose(out.astype(jnp.float32), wide, atol=0, rtol=2**-8)


def test_bfloat16_inputs_lose_only_the_last_rounding_of_each_gradient():
    """Against float64 on the same rounded inputs: 2^-8 of an entry, 1e-5 of the largest in all."""
    *low, state = (jnp.asarray(x, jnp.bfloat16) for x in make(70))
    inputs = (*low, state.astype(jnp.float32))
    exact = tuple(np.asarray(x, np.float64) for x in inputs)
    # The gradient that comes in has the output's dtype.
    weights = (make(70, seed=1)[2], np.random.default_rng(7).normal(size=state.shape))
    weights = tuple(np.asarray(jnp.asarray(w, jnp.bfloat16), np.float64) for w in weights)
    ours = _run(inputs, None, tuple(jnp.asarray(w, jnp.float32) for w in weights), "chunked", 64)
    with jax.enable_x64(True):
        truth = _run(*jax.tree.map(jnp.asarray, (exact, None, weights)), "naive", 64)
    (*_, state), (*grads, by_state) = ours
    assert state.dtype == by_state.dtype == jnp.float32
    assert all(grad.dtype == jnp.bfloat16 for grad in grads)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(truth), strict=True):
        lost = 2**-8 if a.dtype == jnp.bfloat16 else 0
        atol = 1e-5 * np.max(np.abs(b))
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=lost, atol=atol)


def test_the_backward_pass_keeps_an_eighth_of_the_states():
    """What another 1,024 tokens cost, in bytes a token of one head of 128 with chunks of 16.

    The states before all chunks are 4,096 of them, those before groups of 8 are 512; the rest
    (the output and its gradient, both [T, 128], and small things) is counted out by a rule
    without a state to speak of.
    """

    def temporary(length, value_dim):
        shape = lambda *s: jax.ShapeDtypeStruct((1, length, 1, *s), jnp.float32)  # noqa: E731
        args = (shape(128), shape(128), shape(value_dim), shape(), shape())
        loss = lambda *xs: jnp.sum(gated_delta_rule(*xs, chunk_size=16)[0] ** 2)  # noqa: E731
        program = jax.jit(jax.grad(loss, range(5))).lower(*args).compile()
        return program.memory_analysis().temp_size_in_bytes

    wide, narrow = ((temporary(2048, n) - temporary(1024, n)) / 1024 for n in (128, 8))
    values = 4 * 4 * (128 - 8)  # the output, v and their gradients at most
    assert wide - narrow <= values + 512, (wide, narrow)


@pytest.mark.slow
@pytest.mark.parametrize("segmented", [False, True])
def test_the_memory_of_a_training_step_at_4096_tokens_is_within_its_figure(segmented):
    """8 heads of 128, float32: the aim is 140 MiB, documents included."""
    shape = lambda *s: jax.ShapeDtypeStruct((1, 4096, *s), jnp.float32)  # noqa: E731
    ids = jax.ShapeDtypeStruct((1, 4096), jnp.int32) if segmented else None
    args = (*(shape(8, 128),) * 3, shape(8), shape(8), ids)

    def loss(*xs):
        return jnp.sum(gated_delta_rule(*xs[:5], segment_ids=xs[5])[0] ** 2)

    program = jax.jit(jax.grad(loss, range(5))).lower(*args).compile()
    assert program.memory_analysis().temp_size_in_bytes <= 140 * 2**20


def test_the_transitions_of_two_halves_compose_to_that_of_the_whole():
    *tokens, state = (jnp.asarray(x, jnp.float32) for x in make(50))
    ids = np.ones((2, 50), np.int32)
    ids[1, :] = np.repeat([1, 2, 0], [31, 12, 7])
    transition = jax.jit(functools.partial(gated_delta_transition, chunk_size=16))
    whole = transition(*tokens[1:], segment_ids=jnp.asarray(ids))
    first, second = (
        transition(*(x[:, part] for x in tokens[1:]), segment_ids=jnp.asarray(ids[:, part]))
        for part in (slice(0, 25), slice(25, 50))
    )
    out, after = gated_delta_rule(
        *tokens, segment_ids=jnp.asarray(ids), initial_state=state, chunk_size=16
    )
    np.testing.assert_array_equal(whole.matrix[1], 0)  # an edge lets nothing through
    for composed in (whole, first.then(second)):
        np.testing.assert_allclose(composed(state), after, atol=2e-6)
        np.testing.assert_allclose(composed.matrix, whole.matrix, atol=2e-6)
        np.testing.assert_allclose(composed.bias, whole.bias, atol=2e-6)
    later, _ = gated_delta_rule(
        *(x[:, 25:] for x in tokens), segment_ids=jnp.asarray(ids[:, 25:]),
        initial_state=first(state), chunk_size=16,
    )  # fmt: skip
    np.testing.assert_allclose(later, out[:, 25:], atol=2e-6)


def test_a_part_that_begins_a_document_takes_no_state():
    *tokens, state = (jnp.asarray(x, jnp.float32) for x in make(20))
    continues = jnp.array([True, False])
    transition = gated_delta_transition(*tokens[1:], continues=continues, chunk_size=16)
    start = jnp.where(continues[:, None, None, None], state, 0)
    _, after = gated_delta_rule(*tokens, initial_state=start, chunk_size=16)
    np.testing.assert_allclose(transition(state), after, atol=2e-6)


def test_the_example_in_the_docstring_runs():
    module = sys.modules["omnijax.ops.gated_delta_rule"]
    name = "gated_delta_rule"
    (example,) = doctest.DocTestFinder(recurse=False).find(
        inspect.unwrap(gated_delta_rule), name, module, {name: gated_delta_rule}
    )
    assert len(example.examples) >= 5
    assert doctest.DocTestRunner().run(example).failed == 0


def test_heads_may_be_split_by_shard_map_without_a_state_given():
    """The state that the rule starts from by itself varies over the mesh as the inputs do."""
    *tokens, _ = (jnp.asarray(x, jnp.float32) for x in make(40))
    heads = jax.P(None, None, "heads")
    mesh = jax.make_mesh((1,), ("heads",), (jax.sharding.AxisType.Auto,))

    def rule(*tokens):
        return gated_delta_rule(*tokens, chunk_size=16)[0]

    split = jax.shard_map(rule, mesh=mesh, in_specs=(heads,) * 5, out_specs=heads)
    for f in (lambda f: f, lambda f: jax.grad(lambda *x: jnp.sum(f(*x) ** 2), range(5))):
        jax.tree.map(np.testing.assert_array_equal, f(split)(*tokens), f(rule)(*tokens))


def test_the_same_bits_come_twice():
    inputs = make(100)
    ids = random_segments(np.random.default_rng(0), 2, 100)
    jax.tree.map(np.testing.assert_array_equal, run(inputs, ids), run(inputs, ids))


def test_the_future_has_no_gradient():
    *tokens, state = (jnp.asarray(x, jnp.float32) for x in make(40))

    def at_20(tokens):
        return jnp.sum(gated_delta_rule(*tokens, initial_state=state, chunk_size=16)[0][:, 20])

    for grad in jax.grad(at_20)(tokens):
        np.testing.assert_array_equal(grad[:, 21:], 0)
        assert np.any(np.asarray(grad[:, :21]) != 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"chunk_size": 48}, "chunk_size is 48"),
        ({"implementation": "quick"}, "'quick'"),
        ({"segment_ids": np.array([[1, 2, 1]])}, "segment_ids decrease"),
        ({"segment_ids": np.array([[1.0, 1.0, 2.0]])}, "segment_ids is float32"),
        ({"q": np.zeros((1, 3, 2, 8), np.int32)}, "q is int32"),
        ({"beta": np.zeros((1, 3, 2), jnp.float8_e4m3fn)}, "beta is float8_e4m3fn"),
        ({"initial_state": np.zeros((1, 2, 8, 12), np.int32)}, "initial_state is int32"),
        ({"segment_ids": np.array([[2, 0, 1]])}, "segment_ids decrease"),
        ({"segment_ids": np.array([[1, -1, 1]])}, "segment_ids"),
        ({"log_decay": np.full((1, 3, 2), 0.5)}, "log_decay reaches 0.5"),
        ({"initial_state": np.zeros((1, 2, 8, 12), jnp.bfloat16)}, "initial_state is bfloat16"),
        ({"initial_state": np.zeros((1, 2, 8, 8))}, "initial_state has shape"),
        ({"v": np.zeros((1, 3, 3, 12)), "log_decay": None, "beta": None}, "v has 3 heads"),
        ({"k": np.zeros((1, 3, 1, 8))}, "q and k must be alike"),
        ({"beta": np.zeros((1, 3, 1))}, "beta has shape"),
    ],
)
def test_bad_arguments_are_named(change, message):
    inputs = dict(zip(NAMES[:5], make(3, batch=1, heads=2)[:5], strict=True))
    inputs = {**inputs, **change}
    for name in ("log_decay", "beta"):
        if inputs[name] is None:
            inputs[name] = np.zeros(inputs["v"].shape[:3])
    inputs = {
        n: jnp.asarray(x, None if x.dtype not in (np.float32, np.float64) else jnp.float32)
        if isinstance(x, np.ndarray)
        else x
        for n, x in inputs.items()
    }
    with pytest.raises(UserError, match=message):
        inspect.unwrap(gated_delta_rule)(**inputs)


def test_float64_inputs_are_worked_on_in_float64():
    inputs = make(65)
    ids = random_segments(np.random.default_rng(3), 2, 65)
    ours = run(inputs, ids, dtype=jnp.float64)
    truth = run(inputs, ids, "naive", dtype=jnp.float64)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, truth)


def test_a_step_names_heads_and_a_state_that_do_not_fit():
    x = jnp.zeros((1, 2, 8))
    step = inspect.unwrap(gated_delta_step)
    with pytest.raises(UserError, match="state is bfloat16"):
        step(x, x, x, x[..., 0], x[..., 0], jnp.zeros((1, 2, 8, 8), jnp.bfloat16))
    three = jnp.zeros((1, 3, 8))
    with pytest.raises(UserError, match="v has 3 heads"):
        step(x, x, three, three[..., 0], three[..., 0], jnp.zeros((1, 3, 8, 8)))
