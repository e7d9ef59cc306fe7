import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.models.aut import AuTDecoder, AuTDecoderConfig

CONFIG = AuTDecoderConfig(vocab_size=11, feature_width=12, width=16, layers=2, heads=2, ffn=24)
MODEL = AuTDecoder(CONFIG)
FEATURES = jax.random.normal(jax.random.key(0), (2, 9, 12))
VALID = jnp.array([[True] * 9, [True] * 5 + [False] * 4])
TOKENS = jax.random.randint(jax.random.key(1), (2, 6), 0, 11)
PARAMS = jax.jit(MODEL.init)(jax.random.key(2), FEATURES, VALID, TOKENS)
APPLY = jax.jit(MODEL.apply)


def test_a_logit_depends_on_no_later_token():
    logits = APPLY(PARAMS, FEATURES, VALID, TOKENS)
    for last in range(1, 6):
        changed = TOKENS.at[:, last:].set((TOKENS[:, last:] + 1) % 11)
        other = APPLY(PARAMS, FEATURES, VALID, changed)
        np.testing.assert_array_equal(logits[:, :last], other[:, :last])
        assert np.abs(logits[:, last] - other[:, last]).max() > 1e-3


def test_invalid_features_never_reach_a_logit_and_valid_ones_reach_all():
    gradient = jax.jit(
        jax.grad(lambda x: jnp.sum(jnp.sin(MODEL.apply(PARAMS, x, VALID, TOKENS)[:, 0])))
    )(FEATURES)
    reached = np.abs(gradient).sum(-1) > 0
    np.testing.assert_array_equal(reached, VALID)


def test_the_order_of_features_matters():
    # AuT's own positions restart in every chunk: without the decoder's, order would be lost.
    logits = APPLY(PARAMS, FEATURES, VALID, TOKENS)
    swapped = APPLY(PARAMS, FEATURES[:, ::-1], VALID[:, ::-1], TOKENS)
    assert np.abs(logits - swapped)[0].max() > 1e-3


def test_padding_between_and_after_features_changes_nothing():
    logits = APPLY(PARAMS, FEATURES, VALID, TOKENS)
    wide = jnp.zeros((2, 12, 12)).at[:, 1:3].set(FEATURES[:, :2]).at[:, 5:].set(FEATURES[:, 2:])
    valid = jnp.zeros((2, 12), bool).at[:, 1:3].set(VALID[:, :2]).at[:, 5:].set(VALID[:, 2:])
    np.testing.assert_allclose(APPLY(PARAMS, wide, valid, TOKENS), logits, atol=1e-5)


def test_logits_of_bfloat16_are_not_rounded_to_it():
    model = AuTDecoder(dataclasses.replace(CONFIG, dtype="bfloat16"))
    logits = jax.jit(model.apply)(PARAMS, FEATURES.astype(jnp.bfloat16), VALID, TOKENS)
    assert logits.dtype == jnp.float32
    rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
    assert np.mean(np.asarray(rounded) != logits) > 0.5
    np.testing.assert_allclose(logits, APPLY(PARAMS, FEATURES, VALID, TOKENS), atol=0.1)


def test_every_parameter_gets_a_gradient():
    def loss(params):
        logits = MODEL.apply(params, FEATURES, VALID, TOKENS)
        return -jnp.mean(jax.nn.log_softmax(logits)[..., 3])

    gradients = jax.jit(jax.grad(loss))(PARAMS)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(leaf).max() > 0, path
