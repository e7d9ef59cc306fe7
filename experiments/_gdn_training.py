"""Matched models of each pattern, trained on the tasks of omnijax/data/synthetic.py.

A pattern says which layers are Gated DeltaNet and which attention; everything else is alike. The
width of the feed-forward is the dial by which models are matched (see ``MATCHES``).
"""

import functools
import importlib.resources
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from omnijax.data.omniworld import corpus_texts
from omnijax.data.synthetic import QUARTERS, TASKS, Rows, Task, sample
from omnijax.errors import UserError
from omnijax.nn.cache import init_cache
from omnijax.nn.config import DecoderConfig
from omnijax.nn.decoder import HybridDecoder
from omnijax.nn.embed import Embed
from omnijax.text.tokenizer import Tokenizer
from omnijax.train.objectives.lm import cross_entropy, weighted_sums
from omnijax.train.stages import OptimizerConfig
from omnijax.train.state import (
    Losses,
    Objective,
    init_state,
    make_optimizer,
    make_train_step,
)

PATTERNS = {
    "gdn": ("gdn",),
    "3:1": ("gdn", "gdn", "gdn", "full"),
    "1:1": ("gdn", "full"),
    "attention": ("full",),
    "bare": ("gdn",),
}
# A GDN layer's convolution shows it a token's neighbours, which attention has not got: that of
# "bare" sees a token alone, so that what remains is the recurrence.
CONV_WIDTHS = {"bare": 1}
MATCHES = {
    "parameters": "all weights but the token embedding",
    "flops": "floating-point operations a token, forward, over a row of the training length",
    "memory": "bytes at decode of one row of the training length: weights, and cache or state",
}
EVERYTHING = (".*",)
HEAD_DIM = 16


class Reader(nn.Module):
    """Tokens to logits: an embedding, the hybrid decoder, the embedding again."""

    config: DecoderConfig
    vocab: int

    def setup(self):
        self.embed = Embed(self.vocab, self.config.width)
        self.decoder = HybridDecoder(self.config)

    def __call__(self, tokens, cache=None):
        """Logits [B, T, V] and the cache; with one, rows go on where they stood."""
        start = 0 if cache is None else cache.length[:, None]
        places = jnp.broadcast_to(start + jnp.arange(tokens.shape[1]), tokens.shape)
        positions = jnp.broadcast_to(places, (3, *tokens.shape))
        hidden, cache, _ = self.decoder(self.embed(tokens), positions, jnp.ones_like(tokens), cache)
        return self.embed.attend(hidden), cache


def decoder_config(pattern: str, *, width: int, layers: int, ffn: int) -> DecoderConfig:
    """A decoder of nano's proportions: heads of 16, half of them keys', half of a head turning."""
    if width % HEAD_DIM:
        raise UserError(f"width is {width}, it must be a multiple of {HEAD_DIM}")
    heads = width // HEAD_DIM
    return DecoderConfig(
        width=width, layers=layers, pattern=PATTERNS[pattern], ffn=ffn,
        heads=heads, kv_heads=max(1, heads // 2), head_dim=HEAD_DIM,
        rope_theta=10_000.0, partial_rotary=0.5, mrope_sections=(2, 1, 1),
        gdn_key_heads=heads, gdn_value_heads=heads,
        gdn_key_dim=HEAD_DIM, gdn_value_dim=HEAD_DIM, gdn_chunk=32,
        conv_width=CONV_WIDTHS.get(pattern, 4),
    )  # fmt: skip


@functools.cache
def parameters(config: DecoderConfig) -> int:
    """Weights of the decoder."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: Reader(config, 2).init(jax.random.key(0), tokens)["params"])
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["decoder"]))


def flops(config: DecoderConfig, length: int) -> float:
    """Operations a token, forward, without the embedding: PERFORMANCE.md's formulas for mixing."""
    gdn = sum(config.mixer(layer) == "gdn" for layer in range(config.layers))
    dim, chunk = config.gdn_key_dim, config.gdn_chunk
    rule = (8 * chunk * dim + 6 * dim**2) * config.gdn_value_heads
    attention = 2 * config.head_dim * config.heads * length
    return 2 * parameters(config) + gdn * rule + (config.layers - gdn) * attention


def cache_bytes(config: DecoderConfig, length: int) -> int:
    """What one row of ``length`` tokens keeps in the layers, float32."""
    shapes = jax.eval_shape(lambda: init_cache(config, 1, length).layers)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def measured(config: DecoderConfig, match: str, length: int) -> float:
    """The number by which models are matched."""
    if match == "parameters":
        return float(parameters(config))
    if match == "flops":
        return float(flops(config, length))
    if match == "memory":
        return float(4 * parameters(config) + cache_bytes(config, length))
    raise UserError(f"match is {match!r}, it must be one of {', '.join(MATCHES)}")


def matched(
    patterns: Sequence[str], match: str, *, width: int, layers: int, ffn: int, length: int
) -> dict[str, DecoderConfig]:
    """A decoder of each pattern, as large as pure attention with a feed-forward of ``ffn``.

    Raises:
      UserError: mixers alone are larger than that.
    """
    sizes = {"width": width, "layers": layers}
    aim = measured(decoder_config("attention", **sizes, ffn=ffn), match, length)
    configs = {}
    for pattern in patterns:
        one, two = (
            measured(decoder_config(pattern, **sizes, ffn=n), match, length) for n in (1, 2)
        )
        fits = 1 + round((aim - one) / (two - one))  # every measure is linear in it
        if fits < 1:
            raise UserError(
                f"ffn is {ffn}: {pattern} without any is already larger in {match} than attention "
                f"with it ({one:,.0f} against {aim:,.0f}); give a larger ffn"
            )
        configs[pattern] = decoder_config(pattern, **sizes, ffn=fits)
    return configs


@functools.cache
def text_task(plans: int = 2000, seed: int = 0) -> Task:
    """OmniWorld's texts of so many plans, one after the other: the next token, everywhere."""
    tokenizer = Tokenizer.from_file(importlib.resources.files("omnijax") / "assets" / "nano")
    end = tokenizer.special("endoftext")
    texts = corpus_texts(plans, seed)
    stream = np.asarray([i for text in texts for i in (*tokenizer.encode(text), end)], np.int32)

    def draw(rng, length):
        start = int(rng.integers(len(stream) - length))
        tokens, targets = stream[start : start + length], stream[start + 1 : start + length + 1]
        return tokens, targets, 4 * np.arange(length) // length

    _, counts = np.unique(stream, return_counts=True)
    about = "OmniWorld's texts: the next token; level: place in the row"
    chance = float(counts.max() / counts.sum())
    return Task(about, QUARTERS, chance, draw, tokenizer.vocab_size)


def open_task(name: str, *, held_out: bool = False) -> Task:
    """A task by name; "text" is OmniWorld's, ``held_out`` others of it; the rest never repeat."""
    if name == "text":
        return text_task(200, 1) if held_out else text_task()
    if name not in TASKS:
        raise UserError(f"no task is called {name!r}; there are {', '.join((*TASKS, 'text'))}")
    return TASKS[name]


def objective(config: DecoderConfig, vocab: int) -> Objective:
    """Cross entropy on the places that a task scores."""
    model = Reader(config, vocab)

    def loss(params, rows: Rows, key) -> Losses:
        logits, _ = model.apply({"params": params}, rows.tokens)
        total, weight, right = weighted_sums(logits, rows.targets, (rows.levels >= 0) * 1.0)
        return Losses(total, weight, {"accuracy": right})

    return Objective(lambda key: model.init(key, jnp.zeros((1, 1), jnp.int32))["params"], loss)


class Plan(NamedTuple):
    """How long, on what and how fast each model trains."""

    steps: int
    rows: int  # of a batch
    length: int
    eval_lengths: tuple[int, ...]
    eval_rows: int


@functools.lru_cache(maxsize=8)
def _compiled(config: DecoderConfig, vocab: int, plan: Plan, rate: float):
    """The step and the test of a model: compiled once for all tasks and seeds of one vocabulary."""
    goal = objective(config, vocab)
    options = OptimizerConfig(learning_rate=rate, warmup_steps=plan.steps // 10)
    optimizer = make_optimizer(options, plan.steps)
    model = Reader(config, vocab)

    @jax.jit
    def start(seed):
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return init_state(goal.init(key), EVERYTHING, optimizer, seed=0)

    @jax.jit
    def test(params, rows: Rows):
        logits, _ = model.apply({"params": params}, rows.tokens)
        return cross_entropy(logits, rows.targets)

    return start, make_train_step(goal, EVERYTHING, optimizer, options, steps=plan.steps), test


def train_one(
    config: DecoderConfig,
    task: Task,
    plan: Plan,
    *,
    seed: int,
    rate: float,
    held_out: Task | None = None,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, Any]:
    """Trains a model from scratch, then tests it on rows that it has not seen.

    Models of every pattern meet the same rows for the same seed. ``held_out`` is the task of the
    tests where it is another. ``progress`` is told the step and the loss, about twenty times.

    Returns:
      scores: {length: {"all": share right, level: share right ...}}; validation: the share right
      on rows kept apart, by which a learning rate may be chosen; loss: of the last step.
    """
    start, step, test = _compiled(config, task.vocab, plan, rate)
    state = start(jnp.uint32(seed))
    every = max(plan.steps // 20, 1)
    for number in range(plan.steps):
        rows = sample(task, np.random.default_rng([0, seed, number]), plan.rows, plan.length)
        state, metrics = step(state, rows)
        if number % every == every - 1:
            progress(number + 1, float(metrics["loss"]))

    def scores(stream: int, length: int) -> dict[str, float]:
        # Half the rows at a time at twice the length, and so on: the same memory.
        rows_each = max(1, plan.rows * plan.length // length)
        hits = np.zeros((len(task.levels), 2))
        for number in range(-(-plan.eval_rows // rows_each)):
            rng = np.random.default_rng([stream, number])
            rows = sample(held_out or task, rng, rows_each, length)
            _, right = test(state.params, rows)
            for level in range(len(task.levels)):
                there = rows.levels == level
                hits[level] += np.asarray(right)[there].sum(), there.sum()
        named = {
            name: float(right / count)
            for name, (right, count) in zip(task.levels, hits, strict=True)
            if count
        }
        right, count = hits.sum(0)
        return {"all": float(right / count), **named}

    return {
        "loss": float(metrics["loss"]),
        "validation": scores(1, plan.length)["all"],
        "scores": {str(length): scores(2, length) for length in plan.eval_lengths},
    }
