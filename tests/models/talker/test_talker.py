"""The Talker's sizes, its sums of embeddings, its packing, and what a config refuses."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.models.talker import Talker, TalkerConfig, TalkerInputs, presets, speech_inputs
from omnijax.models.talker.mtp import MTP

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = presets.tiny()
MODEL = Talker(CONFIG)
T = 20


def shapes(config):
    example = speech_inputs(jnp.zeros((1, 4, config.codebooks), jnp.int32))
    return jax.eval_shape(Talker(config).init, jax.random.key(0), example)["params"]


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@functools.cache
def params():
    example = speech_inputs(jnp.zeros((1, 4, CONFIG.codebooks), jnp.int32))
    return jax.jit(MODEL.init)(jax.random.key(0), example)["params"]


@functools.partial(jax.jit, static_argnums=0)
def run(method, params, *args):
    return MODEL.apply({"params": params}, *args, method=method)


def draw_inputs(seed=0):
    """One row of T positions: text, marks, frames, and three media positions."""
    rng = np.random.default_rng(seed)
    what = rng.integers(0, 3, (1, T))
    what[0, [1, 4, 11]] = 3
    codes = np.where((what == 1)[..., None], rng.integers(0, 16, (1, T, 4)), -1)
    codes[..., 0] = np.where(what == 2, 21, codes[..., 0])
    return TalkerInputs(
        tokens=jnp.asarray(np.where(what == 0, rng.integers(0, 64, (1, T)), -1)),
        codes=jnp.asarray(codes),
        media=jnp.asarray(what == 3),
        positions=jnp.asarray(np.cumsum(rng.integers(0, 3, (3, 1, T)), -1)),
        segment_ids=jnp.ones((1, T), jnp.int32),
        hidden=jnp.asarray(rng.normal(size=(1, 4, 24)), jnp.float32),
        hidden_valid=jnp.asarray([[True, True, True, False]]),
    )


def test_a_code_past_its_table_reads_no_other_codebooks():
    past = jnp.full((1, CONFIG.residuals), CONFIG.codebook_size)
    each = jax.jit(lambda p, codes: MTP(CONFIG).apply({"params": p}, codes, method="embed_each"))
    np.testing.assert_array_equal(each(params()["mtp"], past)[0], params()["mtp"]["embed"][:, -1])


def test_a_position_reads_the_sum_of_what_it_has():
    inputs, p = draw_inputs(), params()
    x = run(Talker.embed_inputs, p, inputs)[0]
    media = iter(inputs.hidden[0] @ p["hidden_projection"]["w"])
    for t in range(T):
        expected = np.zeros(CONFIG.decoder.width, np.float32)
        if inputs.tokens[0, t] >= 0:
            expected += p["text_embed"]["table"][inputs.tokens[0, t]]
        for book, code in enumerate(inputs.codes[0, t]):
            table = p["codec_embed"]["table"] if book == 0 else p["mtp"]["embed"][book - 1]
            expected += table[code] * (code >= 0)
        if inputs.media[0, t]:
            expected += next(media)
        np.testing.assert_allclose(x[t], expected, rtol=1e-5, atol=1e-5)


def test_packed_documents_equal_each_alone():
    inputs = draw_inputs(1)
    two = jax.tree.map(lambda x: jnp.concatenate([x, x], 0 if x.shape[0] == 1 else 1), inputs)
    whole = jnp.where(jnp.arange(T) < 9, 1, 2)
    packed = two._replace(segment_ids=jnp.stack([whole, whole]))
    # The same two documents a row each; the second one's media are the row's third on.
    alone = two._replace(
        segment_ids=jnp.stack([whole == 1, whole == 2]).astype(jnp.int32),
    )
    together = run(Talker.__call__, params(), packed).hidden[0]
    apart = run(Talker.__call__, params(), alone).hidden
    np.testing.assert_allclose(together[:9], apart[0, :9], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(together[9:], apart[1, 9:], rtol=1e-4, atol=1e-4)


def test_every_part_s_parameters_are_made_from_speech_alone():
    assert set(shapes(CONFIG)) == {
        "text_embed", "codec_embed", "hidden_projection", "decoder", "codec_head", "mtp",
    }  # fmt: skip
    assert set(shapes(CONFIG)["mtp"]) == {"embed", "head", "decoder", "project"}
    dual = shapes(presets.tiny("dual_track"))
    assert dual["text_embed"]["table"].shape == (64, 24) and "text_projection" in dual


def test_the_released_talker_has_as_many_parameters_as_its_report_says():
    released = shapes(presets.qwen3_omni_30b_a3b())
    assert count(released["decoder"]) == pytest.approx(3.2e9, rel=0.07)  # "3B-A0.3B"
    assert count(released["mtp"]["decoder"]) == pytest.approx(80e6, rel=0.03)
    assert released["codec_head"]["w"].shape == (1024, 3072)
    described = shapes(presets.qwen3_5_omni())
    assert described["text_embed"]["table"].shape == (248_320, 1024)
    assert described["codec_embed"]["table"].shape == (5120, 1024)
    assert described["mtp"]["head"].shape == (15, 1024, 2048)


def test_nano_is_small_enough_to_ship_beside_its_thinker():
    assert 2e6 < count(shapes(presets.nano())) < 3.6e6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"form": "both"}, r"form is 'both', it must be one of"),
        ({"codebooks": 1}, r"codebooks is 1, it must be at least 2"),
        ({"projection": "mlp"}, r"projection_ffn is None, an mlp needs a width"),
        ({"control_base": 9}, r"control_base is 9, ids below codebook_size 16 are codes"),
        ({"codec_vocab_size": 25}, r"codec_vocab_size is 25, the marks go up to 29"),
        ({"languages": (("en", 40),)}, r"id of 'en' is 40, it must be from codebook_size 16"),
        ({"languages": (("en", 22),)}, r"id of 'en' is 22, which is a mark's"),
        ({"languages": (("en", 16), ("de", 16))}, r"speakers have one id: \[16, 16"),
        ({"languages": (("en", 16), ("en", 17))}, r"speakers have one name: \['en', 'en'"),
        ({"text_width": 0}, r"text_width is 0, it must be at least 1, or None"),
        ({"tts_eos_id": 64}, r"tts_eos_id is 64, it must be below text_vocab_size 64"),
        ({"accept_hidden_layer": -1}, r"accept_hidden_layer is -1"),
        ({"mtp": CONFIG.decoder}, r"mtp.experts is 4, the MTP is dense"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name_and_number(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_a_config_is_hashable_and_equal_by_value():
    assert hash(presets.nano()) == hash(presets.nano()) and presets.nano() == presets.nano()
    assert isinstance(presets.nano(), TalkerConfig)
