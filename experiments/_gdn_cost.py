"""What each pattern costs against length: training step, prefill, a token of decode; time, memory.

Timed as _timing.py says: the patterns alternate within a length, medians, samples beside a slow
control rejected. Memory is what the compiled program asks for beside its arguments.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._gdn_training import Reader, cache_bytes
from experiments._timing import Case, Machine, Program, measure, temporary_bytes
from omnijax.nn.cache import init_cache
from omnijax.nn.config import DecoderConfig
from omnijax.train.objectives.lm import weighted_sums

KINDS = ("train", "prefill", "decode")
VOCAB = 128


@functools.lru_cache(maxsize=8)
def _params(model: Reader):
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.jit(lambda: model.init(jax.random.key(0), tokens)["params"])()


def _train(config: DecoderConfig, length: int) -> Program:
    """Loss and gradients of one row."""
    model = Reader(config, VOCAB)

    def loss(params, tokens):
        logits, _ = model.apply({"params": params}, tokens)
        return weighted_sums(logits, tokens, jnp.ones(tokens.shape))[0]

    return Program.of(jax.grad(loss), _params(model), _tokens(1, length))


def _prefill(config: DecoderConfig, length: int) -> Program:
    """One row into an empty cache, and the logits of its last token."""
    model = Reader(config, VOCAB)

    def read(params, tokens):
        logits, cache = model.apply({"params": params}, tokens, init_cache(config, 1, length))
        return logits[:, -1], cache

    return Program.of(read, _params(model), _tokens(1, length))


def decode(config: DecoderConfig, length: int, batch: int = 1) -> Program:
    """One more token behind rows of ``length``: the stack in one call, the cache donated."""
    model = Reader(config, VOCAB)

    def step(params, tokens, cache):
        start = cache.length
        logits, cache = model.apply({"params": params}, tokens, cache)
        # The next call writes the same slot again: every call stands at the same length.
        return jnp.argmax(logits[:, -1:], -1).astype(jnp.int32), cache._replace(length=start)

    cache = init_cache(config, batch, length)
    cache = cache._replace(
        length=jnp.full((batch,), length - 1, jnp.int32),
        document=jnp.ones((batch,), jnp.int32),
        segment_ids=jnp.ones((batch, length), jnp.int32),
    )
    params, kept = _params(model), [_tokens(batch, 1), cache]
    compiled = jax.jit(step, donate_argnums=2).lower(params, *kept).compile()

    def call():
        kept[:] = compiled(params, *kept)
        return kept[0]

    return Program(call, temporary_bytes(compiled))


def _tokens(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(VOCAB, size=shape), jnp.int32)


MAKE = {"train": _train, "prefill": _prefill, "decode": decode}


def cost(
    configs: dict[str, DecoderConfig],
    kind: str,
    length: int,
    machine: Machine,
    *,
    rounds: int,
    sample_seconds: float,
) -> list[dict[str, Any]]:
    """One row a pattern: milliseconds of a call and its bytes, at one length, batch 1."""
    per = 1 if kind == "decode" else length
    cases = [Case(p, lambda c=c: MAKE[kind](c, length), per, "token") for p, c in configs.items()]
    timed = measure(cases, machine, rounds=rounds, sample_seconds=sample_seconds)
    return [
        {
            "pattern": row.name,
            "milliseconds": row.milliseconds._asdict(),
            "kept": row.kept,
            "rejected": row.rejected,
            "temporary_bytes": row.temporary_bytes or 0,
            "cache_bytes": cache_bytes(configs[row.name], length),
        }
        for row in timed
    ]


def slope(lengths: Sequence[int], values: Sequence[float], last: int | None = None) -> float | None:
    """Exponent of growth: of a line on log-log axes through the ``last`` lengths.

    By default the longer half of them; None where fewer than two are left.
    """
    points = sorted((n, v) for n, v in zip(lengths, values, strict=True) if v > 0)
    points = points[-(last or max(2, (len(points) + 1) // 2)) :]
    if len(points) < 2:
        return None
    return float(np.polyfit(*np.log(np.asarray(points, float)).T, 1)[0])


@dataclasses.dataclass(frozen=True)
class Crossover:
    """From which length on a pattern is cheaper than another; None: not within what was measured.

    ``least`` and ``most``: the same with the quartiles that favour it, and that favour the other.
    """

    length: float | None
    least: float | None
    most: float | None
    first: int  # lengths that were measured
    last: int

    def __str__(self) -> str:
        def one(length: float | None) -> str:
            if length is None:
                return f"beyond {self.last:,}"
            return f"at most {self.first:,}" if length <= self.first else f"{length:,.0f}"

        ends = [one(self.least), one(self.most)]
        return one(self.length) + (f" ({ends[0]} to {ends[1]})" if len({*ends}) > 1 else "")


def crossover(
    lengths: Sequence[int], ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]
) -> Crossover:
    """Where ours becomes and stays cheaper; ours, theirs: milliseconds with quartiles."""

    def at(own: str, other: str) -> float | None:
        ratio = np.log([a[own] / b[other] for a, b in zip(ours, theirs, strict=True)])
        if ratio[-1] >= 0:
            return None
        dearer = np.flatnonzero(ratio >= 0)
        if not len(dearer):
            return float(lengths[0])
        i = dearer[-1]
        share = ratio[i] / (ratio[i] - ratio[i + 1])
        low, high = np.log(lengths[i]), np.log(lengths[i + 1])
        return float(np.exp(low + share * (high - low)))

    return Crossover(
        at("median", "median"),
        at("quarter", "three_quarters"),
        at("three_quarters", "quarter"),
        lengths[0],
        lengths[-1],
    )
