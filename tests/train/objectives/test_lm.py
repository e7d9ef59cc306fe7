"""The next-token objective: weights, chunks of the loss, augmentation and router losses."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.data.batch import TrainBatch
from omnijax.models.thinker import AudioInputs, text_inputs
from omnijax.train.objectives.lm import cross_entropy, lm_objective, weighted_sums
from omnijax.train.stages import AugmentConfig

pytestmark = pytest.mark.usefixtures("quick_compile")


class Small(nn.Module):
    """What the objective needs of a Thinker: hidden states, router statistics and logits."""

    def setup(self):
        self.embed = nn.Embed(16, 8)

    def __call__(self, inputs):
        hidden = self.embed(inputs.tokens) + inputs.audio.mel.mean((1, 2, 3))[:, None, None]
        aux = SimpleNamespace(balance=jnp.mean(hidden**2), z=jnp.mean(hidden**4))
        return SimpleNamespace(hidden=hidden, aux=aux)

    def logits(self, hidden):
        return self.embed.attend(hidden)


@pytest.fixture(scope="module")
def ready():
    tokens = jax.random.randint(jax.random.key(1), (2, 32), 0, 16)
    audio = AudioInputs(
        jax.random.normal(jax.random.key(2), (2, 1, 8, 16)),
        jnp.full((2, 1), 8, jnp.int32),
        jnp.ones((2, 1), jnp.int32),
    )
    inputs = text_inputs(tokens)._replace(audio=audio)
    weights = jax.random.bernoulli(jax.random.key(3), 0.5, tokens.shape).astype(jnp.float32)
    batch = TrainBatch(inputs, jnp.roll(tokens, -1, axis=1), weights)
    model = Small()
    return model, batch, lm_objective(model, batch).init(jax.random.key(0))


def test_cross_entropy_is_the_log_likelihood_in_float32():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5)).astype(jnp.bfloat16)
    targets = jnp.array([[0, 1, 2], [3, 4, 0]])
    loss, right = cross_entropy(logits, targets)
    expected = -jax.nn.log_softmax(logits.astype(jnp.float32))[
        jnp.arange(2)[:, None], jnp.arange(3), targets
    ]
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(right, logits.argmax(-1) == targets)


def test_targets_without_weight_do_not_count():
    logits = jax.random.normal(jax.random.key(0), (1, 4, 5))
    weights = jnp.array([[1.0, 0.0, 2.0, 0.0]])
    a = weighted_sums(logits, jnp.array([[1, 2, 3, 4]]), weights)
    b = weighted_sums(logits, jnp.array([[1, 0, 3, 0]]), weights)
    assert jax.tree.map(float, a) == jax.tree.map(float, b) and float(a[1]) == 3


def test_logits_made_in_chunks_give_the_same_loss(ready):
    model, batch, params = ready
    values = [
        jax.jit(lm_objective(model, batch, loss_chunk=chunk).loss)(params, batch, None)
        for chunk in (0, 8)
    ]
    for a, b in zip(*map(jax.tree.leaves, values), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_router_losses_are_added_by_their_weights_and_the_mel_changes_with_the_key(ready):
    model, batch, params = ready
    plain = lm_objective(model, batch, router_balance=0.0, router_z=0.0)
    augment = AugmentConfig(warp=0.2, gain_db=6.0)
    routed = lm_objective(model, batch, router_balance=0.5, router_z=0.25, augment=augment)

    @jax.jit
    def all_losses(params, key):
        a, b = plain.loss(params, batch, None), routed.loss(params, batch, None)
        return a, b, routed.loss(params, batch, key)

    a, b, heard = all_losses(params, jax.random.key(0))
    extra = 0.5 * b.metrics["router_balance"] + 0.25 * b.metrics["router_z"]
    np.testing.assert_allclose(b.total, a.total + extra, rtol=1e-5)
    assert float(a.metrics["cross_entropy"]) == pytest.approx(float(a.total))
    assert abs(float(heard.total) - float(b.total)) > 1e-4
