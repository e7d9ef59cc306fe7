"""What the trace shows is what the decoder does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.models import presets
from omnijax.nn import HybridDecoder, init_cache
from omnijax.nn.trace import trace_decoder

CONFIG = presets.tiny().decoder
LENGTHS = (9, 6)  # two documents in a row of 18, and padding


@pytest.fixture(scope="module")
def traced():
    length = sum(LENGTHS) + 3
    segments = np.zeros((1, length), np.int32)
    segments[0, : LENGTHS[0]], segments[0, LENGTHS[0] : sum(LENGTHS)] = 1, 2
    positions = jnp.broadcast_to(jnp.arange(length), (3, 1, length))
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (1, length, CONFIG.width))
    deepstack = jax.random.normal(keys[1], (1, 1, length, CONFIG.width))
    model, segments = HybridDecoder(CONFIG), jnp.asarray(segments)
    params = jax.jit(model.init)(keys[2], x, positions, segments)["params"]
    whole = jax.jit(
        lambda x: model.apply({"params": params}, x, positions, segments, deepstack=deepstack)
    )(x)
    hidden, layers = trace_decoder(CONFIG, params, x, positions, segments, deepstack=deepstack)
    return model, params, x, positions, deepstack, segments, whole, hidden, layers


def test_the_stream_is_the_decoders_own(traced):
    *_, segments, whole, hidden, layers = traced
    valid = np.asarray(segments)[0] > 0
    assert [layer.mixer for layer in layers] == ["gdn", "full"] * 2
    np.testing.assert_allclose(hidden[0, valid], whole[0][0, valid], atol=1e-5)
    accepted = layers[CONFIG.accept_hidden_layer - 1].stream
    np.testing.assert_allclose(accepted[0, valid], whole[2].hidden[0, valid], atol=1e-5)


def test_the_router_chooses_what_the_load_counts(traced):
    *_, segments, whole, _, layers = traced
    valid = np.asarray(segments)[0] > 0
    for layer, load in zip(layers, np.asarray(whole[2].load), strict=True):
        chosen = np.asarray(layer.chosen)[0, valid]
        counts = np.bincount(chosen.ravel(), minlength=CONFIG.experts)
        np.testing.assert_allclose(counts / chosen.size, load, atol=1e-6)
        np.testing.assert_allclose(layer.router.sum(-1), 1, atol=1e-5)
        assert (np.asarray(layer.router).argmax(-1) == np.asarray(layer.chosen)[..., 0]).all()


def test_attention_maps_share_out_one_within_the_document_and_the_past(traced):
    *_, segments, _, _, layers = traced
    ids = np.asarray(segments)[0]
    seen = (ids[:, None] == ids) & (ids > 0) & np.tri(len(ids), dtype=bool)
    for layer in layers[1::2]:
        maps = np.asarray(layer.attention)[0]
        assert maps.shape == (CONFIG.heads, len(ids), len(ids))
        assert (maps[:, ~seen] == 0).all() and (maps[:, seen] > 0).all()
        np.testing.assert_allclose(maps[:, ids > 0].sum(-1), 1, atol=1e-5)
        assert layer.beta is None and layer.state_norm is None


def test_attention_maps_end_where_the_window_does(traced):
    _, params, x, positions, _, segments, *_ = traced
    config = dataclasses.replace(
        CONFIG, pattern=("full",), layers=1, accept_hidden_layer=None, attention_window=4
    )
    only = {"norm": params["norm"], "periods": {"layer_0": params["periods"]["layer_1"]}}
    _, (layer,) = trace_decoder(config, only, x, positions, segments)
    maps, places = np.asarray(layer.attention)[0], np.arange(x.shape[1])
    assert (maps[:, places[:, None] - places >= 4] == 0).all() and (maps[:, 3, :4] > 0).all()
    np.testing.assert_allclose(maps[:, np.asarray(segments)[0] > 0].sum(-1), 1, atol=1e-5)


def test_state_norms_are_those_of_the_state_that_generation_carries(traced):
    model, params, x, positions, deepstack, segments, _, _, layers = traced
    first = LENGTHS[0]

    def read(x, cache):
        here = (positions[..., :first], segments[:, :first], cache)
        levels = deepstack[:, :, :first]
        return model.apply({"params": params}, x, *here, deepstack=levels)

    _, cache, _ = jax.jit(read)(x[:, :first], init_cache(CONFIG, 1, first))
    states = np.asarray(cache.layers[0].state)  # [periods, B, N, H, Hv]
    for layer, state in zip(layers[::2], states, strict=True):
        norm = np.sqrt(np.square(state[0]).sum((-1, -2)))
        np.testing.assert_allclose(layer.state_norm[0, first - 1], norm, rtol=1e-4)
        assert layer.attention is None


def test_a_state_forgets_at_a_documents_edge_and_stands_still_in_padding(traced):
    _, params, x, positions, deepstack, segments, _, _, layers = traced
    edge, end = LENGTHS[0], sum(LENGTHS)
    other = x.at[:, :edge].multiply(-2)
    _, again = trace_decoder(CONFIG, params, other, positions, segments, deepstack=deepstack)
    for layer, changed in zip(layers[::2], again[::2], strict=True):
        norm, beta = np.asarray(layer.state_norm)[0], np.asarray(layer.beta)[0]
        assert (np.asarray(layer.log_decay) < 0).all() and ((beta > 0) & (beta < 1)).all()
        assert not np.allclose(changed.state_norm[0, :edge], norm[:edge], rtol=1e-3)
        np.testing.assert_allclose(changed.state_norm[0, edge:], norm[edge:], rtol=1e-5)
        np.testing.assert_array_equal(norm[end:], norm[end - 1 : end].repeat(3, axis=0))
