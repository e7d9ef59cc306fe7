"""Law 3 for the Thinker: what is trained is what generates, and every parameter takes part."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.data.batch import TrainBatch
from omnijax.models import presets
from omnijax.models.thinker import AudioInputs, Thinker, ThinkerInputs, VisionInputs
from omnijax.nn import init_cache
from omnijax.train.objectives.lm import lm_objective

pytestmark = pytest.mark.usefixtures("quick_compile")

T, CLIP, PICTURE = 48, 8, 20  # tokens of a row; where its clip and its picture stand
CONFIG = presets.tiny()
MODEL = Thinker(CONFIG)


def draw_inputs(seed=0, rows=2) -> ThinkerInputs:
    """Rows of two documents: text, a clip of four tokens, text, a picture of two, text | text."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 60, (rows, T))
    tokens[:, CLIP : CLIP + 4], tokens[:, PICTURE : PICTURE + 2] = 61, 62
    ids = np.where(np.arange(T) < 32, 1, 2) * np.ones((rows, 1), int)
    ids[1:, 44:] = 0
    grid = np.stack([np.arange(8) // 4, np.arange(8) % 4], -1)
    as_int = functools.partial(jnp.asarray, dtype=jnp.int32)
    return ThinkerInputs(
        as_int(tokens),
        as_int(np.broadcast_to(np.arange(T), (3, rows, T))),
        as_int(ids),
        AudioInputs(
            jnp.asarray(rng.normal(size=(rows, 2, 32, 16)), jnp.float32),
            as_int(np.full((rows, 2), 32)),
            as_int(np.ones((rows, 2))),
        ),
        VisionInputs(
            jnp.asarray(rng.normal(size=(rows, 8, 24)), jnp.float32),
            as_int(np.broadcast_to(grid, (rows, 8, 2))),
            as_int(np.broadcast_to([2, 4], (rows, 8, 2))),
            as_int(np.ones((rows, 8))),
        ),
    )


@functools.cache
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), draw_inputs())["params"]


@jax.jit
def logits_of(params, inputs):
    hidden = MODEL.apply({"params": params}, inputs).hidden
    return MODEL.apply({"params": params}, hidden, method=Thinker.logits)


@jax.jit
def read(params, inputs, cache):
    """(logits after each token, cache)"""
    output = MODEL.apply({"params": params}, inputs, cache)
    return MODEL.apply({"params": params}, output.hidden, method=Thinker.logits), output.cache


def test_logits_met_when_generating_are_the_teacher_forced_ones():
    inputs, rng = draw_inputs(1, rows=1), np.random.default_rng(1)
    inputs = inputs._replace(segment_ids=jnp.ones((1, T), jnp.int32))
    prompt = 27
    head = inputs._replace(
        segment_ids=jnp.where(jnp.arange(T) < prompt, inputs.segment_ids, 0),
    )
    logits, cache = read(params(), head, init_cache(CONFIG.decoder, 1, T))
    met, tokens = [logits[:, prompt - 1]], []
    for t in range(prompt, T):
        # Half greedy, half at random: neither may change what the next logits are.
        chosen = int(met[-1][0].argmax()) if t % 2 else int(rng.integers(0, 60))
        tokens.append(min(chosen, 60))
        step = ThinkerInputs(
            jnp.array([[tokens[-1]]]), inputs.positions[:, :, t : t + 1], jnp.array([[1]])
        )
        logits, cache = read(params(), step, cache)
        met.append(logits[:, 0])
    forced = inputs._replace(tokens=inputs.tokens.at[0, prompt:].set(jnp.array(tokens)))
    expected = logits_of(params(), forced)[0, prompt - 1 :]
    np.testing.assert_allclose(np.concatenate(met), expected, rtol=1e-4, atol=1e-4)


@jax.jit
def sensitivity(params, inputs, cotangent):
    """The gradient of <cotangent, logits> in the embedded tokens, the sound and the pixels."""
    embedded = MODEL.apply({"params": params}, inputs, method=Thinker.embed_inputs)

    def from_embedded(embedded):
        hidden, _, _ = MODEL.apply(
            {"params": params},
            embedded,
            inputs.positions,
            inputs.segment_ids,
            method=Thinker.decode_embedded,
        )
        return MODEL.apply({"params": params}, hidden, method=Thinker.logits)

    def from_media(mel, patches):
        media = inputs._replace(
            audio=inputs.audio._replace(mel=mel), vision=inputs.vision._replace(patches=patches)
        )
        embedded = MODEL.apply({"params": params}, media, method=Thinker.embed_inputs)
        return from_embedded(embedded)

    (d_embedded,) = jax.vjp(from_embedded, embedded)[1](cotangent)
    d_mel, d_patches = jax.vjp(from_media, inputs.audio.mel, inputs.vision.patches)[1](cotangent)
    return d_embedded, d_mel, d_patches


@pytest.mark.parametrize("t", [0, 7, 13, 19, 31, 32, 33, 47])
def test_a_logit_depends_on_its_own_document_up_to_its_token_and_on_nothing_else(t):
    inputs = draw_inputs(2)
    cotangent = np.zeros((2, T, CONFIG.vocab_size), np.float32)
    cotangent[0, t] = np.random.default_rng(t).normal(size=CONFIG.vocab_size)
    d_embedded, d_mel, d_patches = sensitivity(params(), inputs, cotangent)
    ids = np.asarray(inputs.segment_ids[0])
    seen = (np.arange(T) <= t) & (ids == ids[t])
    felt = np.abs(d_embedded[0]).max(-1)
    assert (felt[~seen] == 0).all(), np.flatnonzero(felt * ~seen)
    assert (felt[seen] > 0).all(), np.flatnonzero((felt == 0) & seen)
    assert (d_embedded[1] == 0).all() and (d_mel[1] == 0).all() and (d_patches[1] == 0).all()
    assert np.any(d_mel[0]) == (CLIP <= t < 32)
    assert np.any(d_patches[0]) == (PICTURE <= t < 32)


def gradients(config, seed=3):
    inputs = draw_inputs(seed)
    targets = jnp.roll(inputs.tokens, -1, axis=1)
    weights = (inputs.segment_ids > 0).astype(jnp.float32)
    batch = TrainBatch(inputs, targets, weights)
    objective = lm_objective(Thinker(config), batch)
    drawn = jax.jit(objective.init)(jax.random.key(4))
    value = lambda params: objective.loss(params, batch, None)[0]  # noqa: E731
    return drawn, jax.jit(jax.grad(value))(drawn)


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_parameter_gets_a_gradient_from_the_stage_s_loss(tied):
    drawn, gradient = gradients(dataclasses.replace(CONFIG, tie_embeddings=tied))
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    assert len(leaves) == len(jax.tree.leaves(drawn)) > 60
    assert {path[0].key for path, _ in leaves} >= {"embed", "decoder", "audio", "vision"}
    assert ("lm_head" in gradient) != tied
    for path, leaf in leaves:
        name = "/".join(key.key for key in path)
        assert np.isfinite(leaf).all(), name
        stacked = "/periods/" in name or "/layers/" in name
        for layer in leaf if stacked else [leaf]:  # each layer of a stack by itself
            assert np.abs(layer).max() > 0, name
