"""Law 1: packed = alone = padded = prefilled in chunks = decoded token by token.

Outputs within 1e-4, gradients within 1e-3, for the decoder and the whole Thinker.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.models import presets
from omnijax.models.thinker import AudioInputs, Thinker, ThinkerInputs, VisionInputs
from omnijax.nn import HybridDecoder, init_cache

pytestmark = pytest.mark.usefixtures("quick_compile")

T, CHUNK, DOCUMENTS = 48, 16, 3
CONFIG = presets.tiny()
DECODER = CONFIG.decoder
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
EXAMPLES = settings(max_examples=8, deadline=None, derandomize=True)


@functools.cache
def decoder_params():
    x, ids = jnp.zeros((1, CHUNK, DECODER.width)), jnp.ones((1, CHUNK), jnp.int32)
    positions = jnp.zeros((3, 1, CHUNK), jnp.int32)
    model = HybridDecoder(DECODER)
    return jax.jit(model.init)(jax.random.key(1), x, positions, ids)["params"]


@jax.jit
def whole(params, x, positions, ids):
    return HybridDecoder(DECODER).apply({"params": params}, x, positions, ids)


@jax.jit
def onward(params, x, positions, ids, cache):
    return HybridDecoder(DECODER).apply({"params": params}, x, positions, ids, cache)


def draw_row(seed, lengths):
    """One row: random stream and rotary ids, documents of the given lengths, padding at the end."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, T, DECODER.width)).astype(np.float32)
    positions = rng.integers(0, 40, (3, 1, T)).astype(np.int32)
    ids = np.zeros((1, T), np.int32)
    ids[0, : sum(lengths)] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    return x, positions, ids


def spread(x, positions, ids, left):
    """Each document in a row of its own, after `left` tokens of padding."""
    rows = np.zeros((DOCUMENTS, T, x.shape[-1]), np.float32)
    places = np.zeros((3, DOCUMENTS, T), np.int32)
    own = np.zeros((DOCUMENTS, T), np.int32)
    for document in range(DOCUMENTS):
        at = np.flatnonzero(ids[0] == document + 1)
        to = left + np.arange(at.size)
        rows[document, to], places[:, document, to] = x[0, at], positions[:, 0, at]
        own[document, to] = 1
    return rows, places, own


def gathered(rows, own):
    return np.concatenate([np.asarray(row)[mask > 0] for row, mask in zip(rows, own, strict=True)])


LENGTHS = st.lists(st.integers(1, 14), min_size=1, max_size=DOCUMENTS)


@given(st.integers(0, 99), LENGTHS, st.integers(0, 9))
@EXAMPLES
def test_packed_documents_equal_each_alone_and_padded_on_either_side(seed, lengths, left):
    x, positions, ids = draw_row(seed, lengths)
    packed, _, aux = whole(decoder_params(), x, positions, ids)
    rows, places, own = spread(x, positions, ids, left)
    alone, _, alone_aux = whole(decoder_params(), rows, places, own)
    valid = ids[0] > 0
    np.testing.assert_allclose(packed[0][valid], gathered(alone, own), **TOLERANCE)
    np.testing.assert_allclose(aux.hidden[0][valid], gathered(alone_aux.hidden, own), **TOLERANCE)
    # The router's statistics are means over valid tokens, however those are laid out.
    np.testing.assert_allclose(aux.balance, alone_aux.balance, **TOLERANCE)
    np.testing.assert_allclose(aux.load, alone_aux.load, **TOLERANCE)


def test_a_row_without_padding_equals_the_same_row_padded():
    x, positions, ids = draw_row(3, [19])
    padded, _, _ = whole(decoder_params(), x, positions, ids)
    bare, _, _ = whole(decoder_params(), x[:, :19], positions[:, :, :19], ids[:, :19])
    np.testing.assert_allclose(padded[:, :19], bare, **TOLERANCE)


@given(st.integers(0, 99), LENGTHS, LENGTHS, st.lists(st.integers(0, CHUNK), min_size=2))
@EXAMPLES
def test_prefill_in_chunks_of_any_size_equals_the_whole(seed, lengths, other, cuts):
    first, second = draw_row(seed, lengths), draw_row(seed + 1, other)
    x, positions, ids = (
        np.concatenate(pair, axis)
        for pair, axis in zip(zip(first, second, strict=True), (0, 1, 0), strict=True)
    )
    expected, _, _ = whole(decoder_params(), x, positions, ids)
    cache = init_cache(DECODER, 2, T)
    done, count, out = np.zeros(2, int), (ids > 0).sum(1), np.zeros_like(x)
    sizes = iter([*cuts, *[CHUNK] * 6])
    while (done < count).any():
        # Rows advance by different numbers of tokens: the second one lags by a token a chunk.
        size = next(sizes)
        take = np.minimum(count - done, [size, max(size - 1, 0)])
        chunk = [np.zeros((2, CHUNK, x.shape[-1]), np.float32), np.zeros((3, 2, CHUNK), np.int32)]
        own = np.zeros((2, CHUNK), np.int32)
        chunk[0] += 7.0  # padding is not zero: it must not matter
        for row in range(2):
            piece = slice(done[row], done[row] + take[row])
            chunk[0][row, : take[row]] = x[row, piece]
            chunk[1][:, row, : take[row]] = positions[:, row, piece]
            own[row, : take[row]] = ids[row, piece]
        hidden, cache, _ = onward(decoder_params(), *chunk, own, cache)
        for row in range(2):
            out[row, done[row] : done[row] + take[row]] = hidden[row, : take[row]]
        done += take
        np.testing.assert_array_equal(cache.length, done)
    np.testing.assert_allclose(out[ids > 0], np.asarray(expected)[ids > 0], **TOLERANCE)


@given(st.integers(0, 99), LENGTHS, st.integers(0, CHUNK))
@EXAMPLES
def test_decoding_a_token_at_a_time_equals_the_whole(seed, lengths, prefilled):
    x, positions, ids = draw_row(seed, lengths)
    expected, _, _ = whole(decoder_params(), x, positions, ids)
    count = sum(lengths)
    prefilled = min(prefilled, count)
    own = np.where(np.arange(CHUNK) < prefilled, ids[:, :CHUNK], 0)
    cache = init_cache(DECODER, 1, T)
    hidden, cache, _ = onward(decoder_params(), x[:, :CHUNK], positions[:, :, :CHUNK], own, cache)
    out = [hidden[:, :prefilled]]
    for t in range(prefilled, count):
        at = slice(t, t + 1)
        hidden, cache, _ = onward(
            decoder_params(), x[:, at], positions[:, :, at], ids[:, at], cache
        )
        out.append(hidden)
        # A step of padding (a row that has stopped) leaves the cache as it was.
        _, same, _ = onward(decoder_params(), x[:, at], positions[:, :, at], 0 * ids[:, at], cache)
        if t % 5 == 0:
            jax.tree.map(np.testing.assert_array_equal, same, cache)
    np.testing.assert_allclose(np.concatenate(out, 1)[0], expected[0][:count], **TOLERANCE)


@jax.jit
def whole_loss(params, x, positions, ids, weights):
    return jnp.sum(whole(params, x, positions, ids)[0] * weights)


@jax.jit
def chunked_loss(params, x, positions, ids, weights):
    cache, total = init_cache(DECODER, x.shape[0], T), 0.0
    for begin in range(0, T, CHUNK):
        piece = slice(begin, begin + CHUNK)
        hidden, cache, _ = HybridDecoder(DECODER).apply(
            {"params": params}, x[:, piece], positions[:, :, piece], ids[:, piece], cache
        )
        total += jnp.sum(hidden * weights[:, piece])
    return total


def close_gradients(one, two):
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        # A gradient that is zero, of one key's softmax for instance, is only rounding.
        scale = max(np.abs(a).max(), 1e-3 * largest)
        np.testing.assert_allclose(a / scale, b / scale, rtol=1e-3, atol=1e-3)


@given(st.integers(0, 99), LENGTHS)
@settings(max_examples=4, deadline=None, derandomize=True)
def test_gradients_agree_packed_alone_and_in_chunks(seed, lengths):
    x, positions, ids = draw_row(seed, lengths)
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=x.shape).astype(np.float32) * (ids > 0)[..., None]
    gradient = jax.grad(whole_loss, argnums=(0, 1))
    packed, dx = gradient(decoder_params(), x, positions, ids, weights)
    rows, places, own = spread(x, positions, ids, 0)
    alone, d_rows = gradient(
        decoder_params(), rows, places, own, spread(weights, positions, ids, 0)[0]
    )
    close_gradients(packed, alone)
    close_gradients(np.asarray(dx)[ids > 0], gathered(d_rows, own))
    chunked, dx_chunked = jax.grad(chunked_loss, argnums=(0, 1))(
        decoder_params(), x, positions, ids, weights
    )
    close_gradients(packed, chunked)
    close_gradients(dx, dx_chunked)


def test_unrolled_layers_read_the_same_parameters_as_scanned_ones():
    x, positions, ids = draw_row(5, [11, 20])
    model = HybridDecoder(dataclasses.replace(DECODER, scan_layers=False))
    for cache in (None, init_cache(DECODER, 1, T)):
        unrolled, _, aux = jax.jit(model.apply)(
            {"params": decoder_params()}, x, positions, ids, cache
        )
        scanned, _, expected = jax.jit(HybridDecoder(DECODER).apply)(
            {"params": decoder_params()}, x, positions, ids, cache
        )
        np.testing.assert_allclose(unrolled, scanned, **TOLERANCE)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), aux, expected)


# The whole Thinker, with media.


def draw_example(rng, kind):
    """Tokens and media of one document; media features stand where their placeholders are."""
    clip = rng.integers(1, 3) if kind in ("audio", "both") else 0
    lengths = np.full(clip, 32)
    if clip:
        lengths[-1] = rng.integers(1, 33)
    audio_tokens = int(np.sum(-(-lengths // 16)))
    pictures = int(rng.integers(1, 3)) if kind in ("picture", "both") else 0
    tokens = list(rng.integers(0, 60, 3)) + [61] * audio_tokens + list(rng.integers(0, 60, 2))
    for _ in range(pictures):
        tokens += [62, 62] + list(rng.integers(0, 60, 1))
    grid = np.stack([np.arange(8) // 4, np.arange(8) % 4], -1)
    return {
        "tokens": np.array(tokens),
        "positions": rng.integers(0, 30, (3, len(tokens))),
        "mel": rng.normal(size=(clip, 32, 16)),
        "lengths": lengths,
        "windows": np.arange(clip) // 2 + 1,
        "patches": rng.normal(size=(8 * pictures, 24)),
        "coords": np.tile(grid, (pictures, 1)),
        "grids": np.tile([[2, 4]], (8 * pictures, 1)),
        "frames": np.repeat(np.arange(pictures) + 1, 8),
    }


def collate(rows, length=40, chunks=5, patches=40):
    """Rows of documents, padded to fixed sizes."""
    out = {
        "tokens": np.zeros((len(rows), length), np.int32),
        "positions": np.zeros((3, len(rows), length), np.int32),
        "ids": np.zeros((len(rows), length), np.int32),
        "mel": np.zeros((len(rows), chunks, 32, 16), np.float32),
        "lengths": np.zeros((len(rows), chunks), np.int32),
        "windows": np.zeros((len(rows), chunks), np.int32),
        "patches": np.zeros((len(rows), patches, 24), np.float32),
        "coords": np.zeros((len(rows), patches, 2), np.int32),
        "grids": np.zeros((len(rows), patches, 2), np.int32),
        "frames": np.zeros((len(rows), patches), np.int32),
    }
    for b, documents in enumerate(rows):
        t = g = p = 0
        for index, one in enumerate(documents):
            n, c, k = len(one["tokens"]), len(one["lengths"]), len(one["frames"])
            out["tokens"][b, t : t + n] = one["tokens"]
            out["positions"][:, b, t : t + n] = one["positions"]
            out["ids"][b, t : t + n] = index + 1
            for name in ("mel", "lengths"):
                out[name][b, g : g + c] = one[name]
            out["windows"][b, g : g + c] = one["windows"] + 10 * index
            for name in ("patches", "coords", "grids"):
                out[name][b, p : p + k] = one[name]
            out["frames"][b, p : p + k] = one["frames"] + 10 * index
            t, g, p = t + n, g + c, p + k
    audio = AudioInputs(out["mel"], out["lengths"], out["windows"])
    vision = VisionInputs(out["patches"], out["coords"], out["grids"], out["frames"])
    return ThinkerInputs(out["tokens"], out["positions"], out["ids"], audio, vision)


@functools.cache
def thinker_params():
    inputs = collate([[draw_example(np.random.default_rng(0), "both")]])
    return jax.jit(Thinker(CONFIG).init)(jax.random.key(2), inputs)["params"]


@jax.jit
def thinker(params, inputs):
    return Thinker(CONFIG).apply({"params": params}, inputs)


@jax.jit
def thinker_onward(params, inputs, cache):
    return Thinker(CONFIG).apply({"params": params}, inputs, cache)


KINDS = st.lists(st.sampled_from(["text", "audio", "picture", "both"]), min_size=1, max_size=2)


@given(st.integers(0, 99), KINDS)
@EXAMPLES
def test_a_thinker_reads_packed_media_as_each_example_alone(seed, kinds):
    rng = np.random.default_rng(seed)
    documents = [draw_example(rng, kind) for kind in kinds]
    packed = thinker(thinker_params(), collate([documents, []]))
    rows = [[one] for one in documents] + [[]] * (2 - len(documents))
    alone = thinker(thinker_params(), collate(rows))
    expected = [np.asarray(alone.hidden[i, : len(d["tokens"])]) for i, d in enumerate(documents)]
    count = sum(len(one["tokens"]) for one in documents)
    np.testing.assert_allclose(packed.hidden[0, :count], np.concatenate(expected), **TOLERANCE)


@pytest.mark.parametrize("seed", range(2))
def test_turns_with_their_media_read_one_after_another_equal_the_whole_text(seed):
    rng = np.random.default_rng(seed)
    turns = [draw_example(rng, kind) for kind in ("both", "picture", "audio")]
    joined = {
        name: np.concatenate([turn[name] for turn in turns], axis=int(name == "positions"))
        for name in turns[0]
    }
    for name, step in (("windows", 10), ("frames", 10)):
        joined[name] = np.concatenate([turn[name] + i * step for i, turn in enumerate(turns)])
    expected = thinker(thinker_params(), collate([[joined]]))
    cache, out = init_cache(DECODER, 1, T), []
    for turn in turns:
        output = thinker_onward(thinker_params(), collate([[turn]]), cache)
        cache = output.cache
        out.append(np.asarray(output.hidden[0, : len(turn["tokens"])]))
    out = np.concatenate(out)
    np.testing.assert_allclose(out, expected.hidden[0, : len(out)], **TOLERANCE)
