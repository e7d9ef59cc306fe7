"""Law 3 for Talker and MTP: what is trained is what speaks, and every parameter takes part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.generate.sampling import SamplingConfig
from omnijax.generate.speech import SpeechConfig, SpeechGenerator
from omnijax.models.talker import Talker, aria, predict_residuals, presets
from omnijax.models.talker.context import Context
from omnijax.models.talker.prompt import (
    Marks,
    Voice,
    answer_row,
    collate_talker,
    prompt_row,
    spoken_text,
)
from omnijax.train.objectives.talker import talker_objective

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = presets.tiny()
MODEL = Talker(CONFIG)
MARKS = Marks((1, 2, 3), (1, 4, 3), (5, 3))
T, PROMPT = 64, 21  # positions of a row; where the first document's answer begins
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def draw_answer(rng, text, frames):
    codes = rng.integers(0, CONFIG.codebook_size, (frames, CONFIG.codebooks))
    return spoken_text(CONFIG, rng.integers(6, 60, text)), codes


def draw_voice(rng):
    return Voice(rng.integers(6, 60, 2), rng.integers(0, CONFIG.codebook_size, (2, 4)))


def draw_context(rng, media=2):
    mask = np.zeros(media + 2, bool)
    mask[1:-1] = True
    hidden = rng.normal(size=(media, CONFIG.thinker_width)).astype(np.float32)
    return Context(rng.integers(6, 60, media + 2), mask, hidden)


def draw_batch(seed=0):
    """Row 0: a document with a voice and a context | another one; row 1: one, then padding."""
    rng = np.random.default_rng(seed)
    parts = {"voice": draw_voice(rng), "context": draw_context(rng), "language": "de"}
    first = answer_row(
        CONFIG, MARKS, *draw_answer(rng, 4, 7), aria.random(rng, 5, 7), asks=True, **parts
    )
    second = answer_row(CONFIG, MARKS, *draw_answer(rng, 3, 8), aria.random(rng, 4, 8))
    batch = collate_talker(CONFIG, [[first, second], [second]], max_tokens=T, max_hidden=2)
    return jax.tree.map(jnp.asarray, batch)


@functools.cache
def params():
    """Sharper logits than at initialisation, so that no two are near a tie."""
    inputs = draw_batch().inputs
    drawn = jax.jit(MODEL.init)(jax.random.key(0), inputs)["params"]
    drawn["codec_head"] = jax.tree.map(lambda w: 20 * w, drawn["codec_head"])
    drawn["mtp"]["head"] = 20 * drawn["mtp"]["head"]
    return drawn


@functools.partial(jax.jit, static_argnums=0)
def run(method, params, *args):
    return MODEL.apply({"params": params}, *args, method=method)


@jax.jit
def forced(params, inputs, targets):
    """(hidden, logits [B, T, V], residual logits [B, T, R, V] of the frame that comes next)"""
    embedded = MODEL.apply({"params": params}, inputs, method=Talker.embed_inputs)
    return _from_embedded(params, embedded, inputs, targets)


def _from_embedded(params, embedded, inputs, targets):
    def apply(method, *args):
        return MODEL.apply({"params": params}, *args, method=method)

    hidden, _, _ = apply(Talker.decode_embedded, embedded, inputs.positions, inputs.segment_ids)
    flat = hidden.reshape(-1, hidden.shape[-1])
    residual = apply(Talker.residual_logits, flat, targets.reshape(-1, CONFIG.codebooks))
    residual = residual.reshape(*hidden.shape[:2], *residual.shape[1:])
    return hidden, apply(Talker.logits, hidden), residual


@jax.jit
def sensitivity(params, batch, cotangents):
    """The gradient of <cotangents, both kinds of logits> in what each position reads."""
    embedded = MODEL.apply({"params": params}, batch.inputs, method=Talker.embed_inputs)

    def logits(embedded, hidden):
        inputs = batch.inputs._replace(hidden=hidden)
        placed = MODEL.apply({"params": params}, inputs, method=Talker.embed_inputs)
        moved = embedded + placed - jax.lax.stop_gradient(placed)
        return _from_embedded(params, moved, batch.inputs, batch.targets)[1:]

    return jax.vjp(logits, embedded, batch.inputs.hidden)[1](cotangents)


def cotangents_at(row, t, kind):
    rng = np.random.default_rng(t)
    codec = np.zeros((2, T, CONFIG.codec_vocab_size), np.float32)
    residual = np.zeros((2, T, CONFIG.residuals, CONFIG.codebook_size), np.float32)
    chosen = codec if kind == "codec" else residual
    chosen[row, t] = rng.normal(size=chosen.shape[2:])
    return codec, residual


@pytest.mark.parametrize("kind", ["codec", "residual"])
@pytest.mark.parametrize("t", [0, 12, PROMPT + 3, PROMPT + 11, 34, 41, 52])
def test_a_logit_depends_on_its_own_document_up_to_its_position_and_on_nothing_else(t, kind):
    batch = draw_batch(2)
    d_embedded, d_hidden = sensitivity(params(), batch, cotangents_at(0, t, kind))
    ids = np.asarray(batch.inputs.segment_ids[0])
    seen = (np.arange(T) <= t) & (ids == ids[t])
    felt = np.abs(d_embedded[0]).max(-1)
    assert (felt[~seen] == 0).all(), np.flatnonzero(felt * ~seen)
    if ids[t]:
        assert (felt[seen] > 0).all(), np.flatnonzero((felt == 0) & seen)
    media = np.flatnonzero(batch.inputs.media[0])
    reached = np.abs(d_hidden[0]).max(-1) > 0
    assert reached.tolist() == seen[media].tolist()
    assert (d_embedded[1] == 0).all() and (d_hidden[1] == 0).all()


def test_a_residual_code_is_predicted_from_the_codes_before_it_in_its_frame_and_from_no_other():
    rng = np.random.default_rng(3)
    codes = jnp.asarray(rng.integers(0, CONFIG.codebook_size, (1, CONFIG.codebooks)))
    hidden = jnp.asarray(rng.normal(size=(1, CONFIG.decoder.width)), jnp.float32)
    changed = (codes + jnp.eye(CONFIG.codebooks, dtype=int)) % CONFIG.codebook_size
    rows = jnp.concatenate([codes, changed])
    hidden = jnp.broadcast_to(hidden, (len(rows), CONFIG.decoder.width))
    logits = run(Talker.residual_logits, params(), hidden, rows)
    for book in range(CONFIG.codebooks):  # row 1 + book has another code there
        same = (logits[1 + book] == logits[0]).all(-1)
        # Logits of residual r are of codebook r + 1: it feels codebooks 0 to r.
        assert same.tolist() == [r + 1 <= book for r in range(CONFIG.residuals)]


def test_every_parameter_gets_a_gradient_from_the_stage_s_loss():
    batch = draw_batch(4)
    objective = talker_objective(MODEL, batch, asks=True)
    drawn = jax.jit(objective.init)(jax.random.key(5))
    value = lambda params: objective.loss(params, batch, None).total  # noqa: E731
    gradient = jax.jit(jax.grad(value))(drawn)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    assert len(leaves) == len(jax.tree.leaves(drawn)) > 40
    silent = []
    for path, leaf in leaves:
        name = "/".join(key.key for key in path)
        assert np.isfinite(leaf).all(), name
        stacked = "/periods/" in name or name in ("mtp/embed", "mtp/head")
        for i, part in enumerate(leaf if stacked else [leaf]):  # each layer and codebook by itself
            if not np.abs(part).max() > 0:
                silent.append(f"{name}[{i}]")
    assert not silent, silent


@functools.cache
def spoken():
    """Two answers said greedily, frame by frame: (stream, prompts' parts, texts, codes, hidden)."""
    rng = np.random.default_rng(6)
    parts = [
        {"voice": draw_voice(rng), "context": draw_context(rng), "language": "en"},
        {"context": draw_context(rng, media=3)},
    ]
    texts = [rng.integers(6, 60, 10).tolist(), rng.integers(6, 60, 5).tolist()]
    greedy = SpeechConfig(sampling=SamplingConfig(), residual_sampling=SamplingConfig())
    generator = SpeechGenerator(MODEL, params(), greedy, max_len=96, prefill_chunk=16)
    prompts = [prompt_row(CONFIG, MARKS, **part) for part in parts]
    stream = generator.start(prompts, max_frames=23)
    for row, text in enumerate(texts):
        stream.push(text, row=row, last=True)
    codes, hidden = [[], []], [[], []]
    while not all(stream.done):
        for row, frames in enumerate(stream.step(1)):
            codes[row].extend(frames)
            if len(frames):
                hidden[row].append(np.asarray(stream.state.hidden[row]))
    return parts, texts, [np.array(row) for row in codes], [np.array(row) for row in hidden]


def forced_rows():
    parts, texts, codes, _ = spoken()
    rows = []
    for part, text, frames in zip(parts, texts, codes, strict=True):
        text = spoken_text(CONFIG, text)
        schedule = aria.fixed_rate(len(text), len(frames), 4, 4)
        rows.append([answer_row(CONFIG, MARKS, text, frames, schedule, **part)])
    return jax.tree.map(jnp.asarray, collate_talker(CONFIG, rows, max_tokens=T, max_hidden=3))


def test_states_and_logits_met_when_speaking_are_the_teacher_forced_ones():
    batch, (_, _, codes, met) = forced_rows(), spoken()
    hidden, logits, _ = forced(params(), batch.inputs, batch.targets)
    for row in range(2):
        assert len(codes[row]) == 23
        reads = np.flatnonzero(batch.inputs.codes[row, :, -1] >= 0)[-23:]  # the answer's frames
        np.testing.assert_allclose(met[row], hidden[row, reads], **TOLERANCE)
        np.testing.assert_allclose(
            run(Talker.logits, params(), jnp.asarray(met[row])), logits[row, reads], **TOLERANCE
        )


def test_codes_spoken_greedily_are_the_argmax_under_teacher_forcing():
    batch, (_, _, codes, _) = forced_rows(), spoken()
    hidden, logits, residual = forced(params(), batch.inputs, batch.targets)
    for row in range(2):
        frames = np.flatnonzero(batch.kinds[row] == aria.FRAME)
        assert len(frames) == 23
        first = np.argmax(logits[row, frames, : CONFIG.codebook_size], -1)
        np.testing.assert_array_equal(first, codes[row][:, 0])
        np.testing.assert_array_equal(np.argmax(residual[row, frames], -1), codes[row][:, 1:])


def test_residual_logits_met_a_step_at_a_time_are_the_teacher_forced_ones():
    batch = forced_rows()
    hidden, _, residual = forced(params(), batch.inputs, batch.targets)
    frames = np.flatnonzero(batch.kinds[0] == aria.FRAME)
    first = np.full((len(frames), CONFIG.codebooks), -1)
    first[:, 0] = batch.targets[0, frames, 0]
    embedded = run(Talker.embed_codes, params(), jnp.asarray(first))
    step = jax.jit(predict_residuals, static_argnums=(0, 5))
    greedy = lambda logits, key: jnp.argmax(logits, -1)  # noqa: E731
    codes, logits = step(
        CONFIG, params()["mtp"], hidden[0, frames], embedded, jax.random.key(0), greedy
    )
    np.testing.assert_array_equal(codes, batch.targets[0, frames, 1:])
    np.testing.assert_allclose(logits, residual[0, frames], **TOLERANCE)
