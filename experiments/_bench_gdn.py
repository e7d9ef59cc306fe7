"""bench.py's tables of Gated DeltaNet: growth with length, decode, compilation."""

import dataclasses

import jax
import jax.numpy as jnp

from experiments._timing import Case, Timed, forms, normal
from omnijax import ops
from omnijax.models import presets
from omnijax.nn.config import DecoderConfig

CHUNK = 64


def inputs(length: int, heads: int, dim: int) -> tuple:
    """q, k, v, log_decay, beta of one row, as the op wants them."""
    q, k, v = (normal(1, length, heads, dim) for _ in range(3))
    k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
    q = q / jnp.linalg.norm(q, axis=-1, keepdims=True) / dim**0.5
    decay = -jax.nn.softplus(normal(1, length, heads))
    return q, k, v, decay, jax.nn.sigmoid(normal(1, length, heads))


def rule(*xs):
    return ops.gated_delta_rule(*xs, chunk_size=CHUNK)[0]


def attend(*xs):
    return ops.attention(*xs, causal=True)


def rule_gflop(length: int, heads: int, dim: int) -> float:
    """Least operations of the forward pass (PERFORMANCE.md)."""
    return (8 * CHUNK * dim + 6 * dim**2) * heads * length / 1e9


def gdn(sizes) -> list[list]:
    """Gated DeltaNet and causal attention, side by side at each length."""
    heads, dim = sizes.heads, sizes.head_dim
    groups = []
    for length in sizes.lengths:
        xs, tokens = inputs(length, heads, dim), {"per": length, "unit": "token"}
        gflop = 2 * dim * heads * length**2 / 1e9
        groups.append(
            forms(f"gdn, T {length}", rule, *xs, gflop=rule_gflop(length, heads, dim), **tokens)
            + forms(f"attention, T {length}", attend, *xs[:3], gflop=gflop, **tokens)
        )
    return groups


def growth(sizes) -> list[list]:
    """Gated DeltaNet over long rows: time and memory; the slopes stand below the table."""
    heads, dim = sizes.heads, sizes.head_dim
    return [
        forms(
            f"gdn, T {length}", rule, *inputs(length, heads, dim),
            gflop=rule_gflop(length, heads, dim), per=length, unit="token",
        )
        for length in sizes.growth_lengths
    ]  # fmt: skip


def slopes(rows: list[Timed]) -> dict[str, float | None]:
    """Exponents of growth with length, over all lengths, of each form's time and memory."""
    from experiments._gdn_cost import slope

    found = {}
    for form in ("forward", "with backward"):
        own = [row for row in rows if row.name.endswith(form)]
        lengths = [row.per for row in own]
        for what, values in (
            ("time", [row.milliseconds.median for row in own]),
            ("memory", [row.temporary_bytes or 0 for row in own]),
        ):
            found[f"{form}, {what}"] = slope(lengths, values, last=len(lengths))
    return found


def stack_config(sizes) -> DecoderConfig:
    """The preset's decoder with more layers, three of GDN to one of attention."""
    decoder = getattr(presets, sizes.model)().decoder
    pattern = ("gdn", "gdn", "gdn", "full")
    return dataclasses.replace(
        decoder, layers=sizes.stack_layers, pattern=pattern, accept_hidden_layer=None
    )


def decode_gbyte(config: DecoderConfig, length: int, batch: int) -> float:
    """What a step must move at least: the weights it uses, keys and values, the state twice."""
    from experiments._gdn_cost import VOCAB
    from experiments._gdn_training import Reader
    from omnijax.nn.cache import GDNCache, init_cache
    from omnijax.sharding import flatten

    model = Reader(config, VOCAB)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    )
    used = min(1.0, batch * config.experts_per_token / max(config.experts, 1))
    weights = sum(
        leaf.size * leaf.dtype.itemsize * (used if "/moe/experts" in path else 1)
        for path, leaf in flatten(shapes).items()
    )
    layers = jax.eval_shape(lambda: init_cache(config, batch, length).layers)
    kept = sum(
        leaf.size * leaf.dtype.itemsize * (2 if isinstance(layer, GDNCache) else 1)
        for layer in layers
        for leaf in layer
    )
    return (weights + kept) / 1e9


def stack(sizes) -> list[list]:
    """Decode, a token: 24 layers of nano's width in one jitted call, the cache donated."""
    from experiments._gdn_cost import decode

    config, length = stack_config(sizes), sizes.stack_context
    return [
        [
            Case(
                f"batch {batch}, T {length}",
                lambda batch=batch: decode(config, length, batch),
                batch,
                "token",
                gbyte=decode_gbyte(config, length, batch),
            )
        ]
        for batch in sizes.stack_batches
    ]


def compilation(sizes) -> list[list]:
    """Tracing and compiling the gradient of a scanned stack of nano's width."""
    from experiments._gdn_cost import VOCAB
    from experiments._gdn_training import Reader

    def case(layers: int) -> Case:
        config = dataclasses.replace(stack_config(sizes), layers=layers)
        model, tokens = Reader(config, VOCAB), jnp.zeros((1, 2 * CHUNK), jnp.int32)
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens)["params"])

        def call():
            # A new function each time: one that is known would not be compiled again.
            def loss(params):
                return jnp.sum(model.apply({"params": params}, tokens)[0])

            jax.jit(jax.grad(loss)).lower(params).compile()

        return Case(f"{layers} layers", lambda: call, unit="program")

    # Two periods at least: XLA writes a loop of one round out, and that is another program.
    return [[case(2 * len(stack_config(sizes).pattern)), case(sizes.stack_layers)]]


MOST_ROUNDS = {"compilation": 3}  # a call takes seconds
TABLES = (gdn, growth, stack, compilation)
