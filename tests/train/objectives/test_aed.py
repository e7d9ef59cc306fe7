"""An encoder's pretraining: it learns the words, and all of the encoder learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.data.batch import AedBatch
from omnijax.models.aut import AuT, AuTConfig, AuTDecoder, AuTDecoderConfig
from omnijax.models.thinker import AudioInputs, VisionInputs
from omnijax.models.vision import VisionConfig, VisionEncoder
from omnijax.sharding import flatten
from omnijax.train.objectives.aed import aed_objective
from omnijax.train.stages import OptimizerConfig
from omnijax.train.state import init_params, init_state, make_optimizer, make_train_step

SIZES = {"width": 16, "layers": 1, "heads": 2, "ffn": 32}


def heard(rng):
    mel = rng.normal(size=(2, 1, 32, 16)).astype(np.float32)
    audio = AudioInputs(mel, np.full((2, 1), 32, np.int32), np.ones((2, 1), np.int32))
    config = AuTConfig(chunk_frames=32, mel_bins=16, conv_channels=(4,) * 4, out_width=16, **SIZES)
    return AuT(config), audio, None


def seen(rng):
    coords = np.tile(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32), (2, 1, 1))
    patches = rng.normal(size=(2, 4, 24)).astype(np.float32)
    vision = VisionInputs(patches, coords, np.full_like(coords, 2), np.ones((2, 4), np.int32))
    config = VisionConfig(patch_size=2, grid_side=2, out_width=16, **SIZES)
    return VisionEncoder(config), None, vision


@pytest.mark.parametrize("medium", [heard, seen])
def test_two_examples_are_learned_by_heart_and_every_parameter_moves(medium):
    encoder, audio, vision = medium(np.random.default_rng(0))
    targets = np.array([[5, 6, 7, 1], [8, 9, 5, 1]], np.int32)
    tokens = np.array([[1, 5, 6, 7], [1, 8, 9, 5]], np.int32)
    batch = AedBatch(audio, vision, tokens, targets, np.ones((2, 4), np.float32))
    batch = jax.tree.map(jnp.asarray, batch)
    decoder = AuTDecoder(AuTDecoderConfig(vocab_size=16, feature_width=16, **SIZES))
    objective = aed_objective(encoder, decoder, batch)
    config = OptimizerConfig(learning_rate=0.02, warmup_steps=2)
    optimizer = make_optimizer(config, 40)
    first = jax.jit(lambda: init_params(objective, 0))()
    before = {path: np.asarray(leaf) for path, leaf in flatten(first).items()}
    state = init_state(first, (".*",), optimizer, seed=0)
    step = make_train_step(objective, (".*",), optimizer, config, steps=40)
    for _ in range(40):
        state, metrics = step(state, batch)
    assert metrics["loss"] < 0.2 and metrics["accuracy"] == 1
    still = [p for p, leaf in flatten(state.params).items() if np.array_equal(leaf, before[p])]
    assert not still
