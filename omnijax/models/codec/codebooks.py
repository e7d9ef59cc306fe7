"""How the quantiser's codes are learned: moving averages, k-means, revival, quantiser dropout.

Codes get no gradient. Each is the moving average of what it was the nearest to (van den Oord et
al. 2017, appendix A.1), begins as a k-means cluster of the first batch and, once hardly used, takes
half of what a much used one stands for. Everything is a function: `(state, batch) -> state`, and
`state.codebooks` is the quantiser's "codebooks" parameter.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from omnijax.models.codec.config import QuantiserConfig
from omnijax.models.codec.quantiser import HIGHEST, Residuals, SplitRVQ, nearest, quantise
from omnijax.typing import Array, Bool, Float, Int, Key

NEAR = 0.01  # how far apart two codes begin that share, as a part of how far apart codes lie


class CodebookState(NamedTuple):
    """Moving averages over batches: how often each code was chosen, and what it stood for."""

    usage: Float[Array, "Q V"]
    codebooks: Float[Array, "Q V W"]


class Quantised(NamedTuple):
    """What training needs of one pass through the quantiser."""

    features: Float[Array, "B R D"]  # straight through: forward the codes', backward the input's
    semantic: Float[Array, "B R D"]  # the same of the semantic codebooks alone
    commitment: Float[Array, ""]  # mean squared distance of each input from its code
    residuals: Residuals  # of all codebooks, for `update_codebooks`
    used: Bool[Array, "Q B R"]  # what counts: valid frames, codebooks that were not dropped


def kept_codebooks(key: Key[Array, ""], rows: int, config: QuantiserConfig) -> Bool[Array, "Q B"]:
    """Which codebooks each row keeps: a prefix, at least the semantic ones.

    A share `config.dropout` of the rows draws its length evenly; the others keep all.
    """
    drop_key, count_key = jax.random.split(key)
    drop = jax.random.bernoulli(drop_key, config.dropout, (rows,))
    drawn = jax.random.randint(count_key, (rows,), config.semantic, config.codebooks + 1)
    counts = jnp.where(drop, drawn, config.codebooks)
    return jnp.arange(config.codebooks)[:, None] < counts


def quantise_for_training(
    rvq: SplitRVQ,
    features: Float[Array, "B R D"],
    valid: Bool[Array, "B R"],
    key: Key[Array, ""] | None,
) -> Quantised:
    """`rvq` bound to its parameters; key None: no codebook is dropped (evaluation)."""
    config, rows = rvq.config, features.shape[0]
    kept = jnp.ones((config.codebooks, rows), bool)
    plain = jnp.zeros((rows,), bool)
    if key is not None:
        kept = kept_codebooks(key, rows, config)
        plain = jax.random.bernoulli(jax.random.fold_in(key, 1), config.plain, (rows,))
    used = kept[:, :, None] & valid
    shares = (used[: config.semantic], used[config.semantic :])

    chosen, chains = [], []
    for x, codebooks, share in zip(rvq.project(features), rvq.chains(), shares, strict=True):
        x = x.astype(jnp.float32)
        # The codes are constants, so the gradient of an input is that of its own distance.
        chain = quantise(x, codebooks)
        kept_values = jnp.where(share[..., None], chain.values, 0).sum(0)
        kept_values = jnp.where(plain[:, None, None], x, kept_values)
        chosen.append(x + jax.lax.stop_gradient(kept_values - x))
        chains.append(chain)
    residuals = jax.tree.map(lambda *parts: jnp.concatenate(parts), *chains)
    distance = jnp.mean(jnp.square(residuals.inputs - residuals.values), axis=-1)
    weight = used.astype(jnp.float32)
    semantic, acoustic = chosen
    return Quantised(
        features=rvq.restore(semantic, acoustic),
        semantic=rvq.restore(semantic, jnp.zeros_like(acoustic)),
        commitment=jnp.sum(distance * weight) / jnp.maximum(jnp.sum(weight), 1.0),
        residuals=jax.lax.stop_gradient(residuals),
        used=used,
    )


def update_codebooks(
    state: CodebookState,
    residuals: Residuals,
    used: Bool[Array, "Q B R"],
    key: Key[Array, ""],
    config: QuantiserConfig,
) -> CodebookState:
    """One step of the moving averages; codes that are hardly used any more are put elsewhere.

    A code whose usage falls under `dead_below` of its codebook's mean takes half of what the most
    used one stands for, the second such code half of the second's, and so on, as in Linde, Buzo
    and Gray (1980): it lies beside it, with half its usage, and averages of later batches draw the
    two apart. (At a random input, as in SoundStream, it is the nearest to hardly anything else:
    what late codebooks code lies about 0 in all directions.)
    """
    count = residuals.codes.shape[0]
    inputs = residuals.inputs.reshape(count, -1, residuals.inputs.shape[-1]).astype(jnp.float32)
    weight = used.reshape(count, -1).astype(jnp.float32)
    codes = residuals.codes.reshape(count, -1)

    def one(usage: Array, codebook: Array, x: Array, codes: Array, weight: Array, key: Array):
        chosen = jax.nn.one_hot(codes, config.size) * weight[:, None]
        moved = jnp.matmul(chosen.T, x, precision=HIGHEST)
        sums = config.decay * usage[:, None] * codebook + (1 - config.decay) * moved
        usage = config.decay * usage + (1 - config.decay) * jnp.sum(chosen, 0)
        known = (usage > 1e-5)[:, None]
        codebook = jnp.where(known, sums / jnp.maximum(usage, 1e-5)[:, None], codebook)
        # A batch in which the codebook was dropped everywhere says nothing of its codes.
        least = jnp.where(jnp.sum(weight) > 0, config.dead_below * jnp.mean(usage), 0)
        return split(key, usage, codebook, least)

    keys = jax.random.split(key, count)
    with jax.named_scope("codebooks"):
        moved = jax.vmap(one)(state.usage, state.codebooks, inputs, codes, weight, keys)
        return CodebookState(*moved)


def split(
    key: Key[Array, ""],
    usage: Float[Array, "V"],
    codebook: Float[Array, "V W"],
    least: Float[Array, ""],
) -> tuple[Float[Array, "V"], Float[Array, "V W"]]:
    """(usage, codebook) once each code used less than `least` has half of another, the most used
    first.

    None gives twice, and none more than leaves it `least`: where there are too few, the rest wait.
    """
    dead, rich = usage < least, usage >= 2 * least
    number = jnp.cumsum(dead) - 1  # of each dead code
    order = jnp.argsort(usage, descending=True)
    pairs = jnp.minimum(jnp.sum(dead), jnp.sum(rich))
    takes = dead & (number < pairs)
    gives = jnp.zeros_like(dead).at[order].set(jnp.arange(len(usage)) < pairs)
    giver = jnp.where(takes, order[number], jnp.arange(len(usage)))
    usage = jnp.where(gives, usage / 2, usage)[giver]
    beside = NEAR * jnp.std(codebook, axis=0) * jax.random.normal(key, codebook.shape)
    return usage, codebook[giver] + jnp.where(takes[:, None], beside, 0)


def draw(
    key: Key[Array, ""], x: Float[Array, "N W"], weight: Float[Array, "N"], count: int
) -> Float[Array, "n W"]:
    """`count` rows of positive weight, at random; none twice while there are enough."""
    scores = jax.random.gumbel(key, weight.shape) + jnp.where(weight > 0, 0.0, -jnp.inf)
    order = jnp.argsort(-scores)
    there = jnp.maximum(jnp.sum(weight > 0).astype(jnp.int32), 1)
    return x[order[jnp.arange(count) % there]]


def kmeans(
    key: Key[Array, ""],
    x: Float[Array, "N W"],
    weight: Float[Array, "N"],
    size: int,
    steps: int,
) -> tuple[Float[Array, "V W"], Float[Array, "V"]]:
    """Lloyd's algorithm from random rows: (centres, rows in each). Empty clusters stay put."""

    def step(centres: Array, _: None) -> tuple[Array, Array]:
        chosen = jax.nn.one_hot(nearest(x, centres), size) * weight[:, None]
        counts = jnp.sum(chosen, 0)
        means = jnp.matmul(chosen.T, x, precision=HIGHEST) / jnp.maximum(counts, 1e-5)[:, None]
        return jnp.where(counts[:, None] > 0, means, centres), counts

    centres, counts = jax.lax.scan(step, draw(key, x, weight, size), None, length=steps)
    return centres, counts[-1]


def start_codebooks(
    rvq: SplitRVQ, features: Float[Array, "B R D"], valid: Bool[Array, "B R"], key: Key[Array, ""]
) -> CodebookState:
    """Codes at the k-means centres of a batch, each codebook's of what the ones before leave."""
    config = rvq.config
    weight = valid.reshape(-1).astype(jnp.float32)

    def step(x: Array, key: Array) -> tuple[Array, CodebookState]:
        centres, counts = kmeans(key, x, weight, config.size, config.kmeans_steps)
        # Every code begins with some usage: it is dead only once it has had its chance.
        usage = jnp.maximum(counts, jnp.mean(counts))
        return x - centres[nearest(x, centres)], CodebookState(usage, centres)

    states = []
    counts = (config.semantic, config.codebooks - config.semantic)
    keys = jax.random.split(key)
    for x, count, part in zip(rvq.project(features), counts, keys, strict=True):
        x = x.astype(jnp.float32).reshape(-1, config.width)
        states.append(jax.lax.scan(step, x, jax.random.split(part, count))[1])
    return CodebookState(*(jnp.concatenate(parts) for parts in zip(*states, strict=True)))


def codebook_use(
    codes: Int[Array, "Q B R"], used: Bool[Array, "Q B R"], size: int
) -> tuple[Float[Array, "Q"], Float[Array, "Q"]]:
    """(share of each codebook's codes that occur, perplexity of their frequencies)."""
    counts = jnp.sum(jax.nn.one_hot(codes, size) * used[..., None], axis=(1, 2))
    shares = counts / jnp.maximum(jnp.sum(counts, -1, keepdims=True), 1)
    entropy = -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.maximum(shares, 1e-20)), 0), -1)
    return jnp.mean(counts > 0, axis=-1), jnp.exp(entropy)
