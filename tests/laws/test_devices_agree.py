"""Law 4: one device = eight devices, on each mesh axis and on mixes of them.

The comparison runs in one process of its own, which simulates eight devices on the CPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "context": {"data": 1, "context": 8},
    "tensor": {"data": 1, "tensor": 8},
    "expert": {"data": 1, "expert": 8},
    "data, fsdp and tensor": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp, context and expert": {"data": 1, "fsdp": 2, "context": 2, "expert": 2},
}


def tiny():
    """A Thinker whose every axis divides by eight, with all kinds of layers and both encoders."""
    from omnijax.models.aut import AuTConfig
    from omnijax.models.thinker import ThinkerConfig
    from omnijax.models.vision import VisionConfig
    from omnijax.nn.config import DecoderConfig

    decoder = DecoderConfig(
        width=32,
        layers=2,
        pattern=("gdn", "full"),
        heads=8,
        kv_heads=8,
        head_dim=8,
        partial_rotary=0.5,
        mrope_sections=(1, 1, 0),
        gdn_key_heads=8,
        gdn_value_heads=8,
        gdn_key_dim=8,
        gdn_value_dim=8,
        gdn_chunk=16,
        experts=8,
        experts_per_token=2,
        expert_ffn=16,
        shared_expert_ffn=16,
    )
    encoder = {"width": 16, "layers": 1, "heads": 2, "ffn": 32, "out_width": 32}
    aut = AuTConfig(chunk_frames=32, mel_bins=16, conv_channels=(4,) * 4, **encoder)
    vision = VisionConfig(patch_size=4, grid_side=4, **encoder)
    return ThinkerConfig(
        decoder=decoder,
        vocab_size=64,
        tie_embeddings=True,
        aut=aut,
        vision=vision,
        audio_token_id=61,
        image_token_id=62,
        video_token_id=63,
    )


def batch_of(config, rows=8, tokens=32):
    """Two packed documents a row, with sound and a picture in the first."""
    import numpy as np

    from omnijax.data.batch import TrainBatch
    from omnijax.models.thinker import AudioInputs, ThinkerInputs, VisionInputs

    rng = np.random.default_rng(0)
    ids = rng.integers(0, 60, (rows, tokens)).astype(np.int32)
    ids[:, 2:6], ids[:, 8:12] = config.audio_token_id, config.image_token_id
    positions = np.broadcast_to(np.arange(tokens, dtype=np.int32), (3, rows, tokens))
    segments = np.where(np.arange(tokens) < tokens // 2, 1, 2).astype(np.int32)
    grid = np.stack(np.meshgrid(range(4), range(4), indexing="ij"), -1).reshape(16, 2)
    audio = AudioInputs(
        rng.normal(size=(rows, 2, 32, 16)).astype(np.float32),
        np.full((rows, 2), 32, np.int32),
        np.ones((rows, 2), np.int32),
    )
    vision = VisionInputs(
        rng.normal(size=(rows, 16, 2 * 3 * 16)).astype(np.float32),
        np.broadcast_to(grid.astype(np.int32), (rows, 16, 2)),
        np.full((rows, 16, 2), 4, np.int32),
        np.ones((rows, 16), np.int32),
    )
    inputs = ThinkerInputs(ids, positions, np.broadcast_to(segments, ids.shape), audio, vision)
    weights = (rng.random(ids.shape) < 0.5).astype(np.float32)
    return TrainBatch(inputs, np.roll(ids, -1, axis=1), weights)


def compare() -> dict:
    """For each mesh: relative error of the loss, and of every gradient by its largest entry."""
    import jax
    import numpy as np

    from omnijax.models.thinker import Thinker
    from omnijax.sharding import flatten, make_mesh
    from omnijax.train.loop import place_batch
    from omnijax.train.objectives.lm import lm_objective
    from omnijax.train.stages import OptimizerConfig
    from omnijax.train.state import (
        init_state,
        loss_and_gradients,
        make_optimizer,
        make_train_step,
        state_shardings,
    )

    jax.config.update("jax_default_matmul_precision", "highest")
    config = tiny()
    batch = batch_of(config)
    objective = lm_objective(Thinker(config), batch)
    optimizer = make_optimizer(OptimizerConfig(), 10)

    def fresh():
        return init_state(objective, (".*",), optimizer, seed=0)

    results, expected = {}, None
    for name, sizes in {"one": {"data": 1}, **MESHES}.items():
        devices = jax.devices()[:1] if name == "one" else jax.devices()
        mesh = make_mesh(**sizes, devices=devices)
        with jax.set_mesh(mesh):
            where = state_shardings(jax.eval_shape(fresh), optimizer, mesh)
            state = jax.jit(fresh, out_shardings=where)()
            gradients = jax.jit(
                lambda params, batch, where=where: loss_and_gradients(
                    objective, params, {}, batch, None, shardings=flatten(where.params)
                )
            )
            placed = place_batch(batch, mesh)
            loss, _, grads = gradients(state.params, placed)
            flat = {path: np.asarray(leaf) for path, leaf in flatten(grads).items()}
            if expected is None:
                expected = float(loss), flat
                continue
            leaf = flatten(grads)["decoder/periods/layer_0/gdn/q/w"]
            errors = {
                path: float(np.max(np.abs(leaf - expected[1][path])))
                / float(np.max(np.abs(expected[1][path])))
                for path, leaf in flat.items()
            }
            results[name] = {
                "loss": abs(float(loss) / expected[0] - 1),
                "gradients": errors,
                "split": len({str(s.index) for s in leaf.addressable_shards}),
            }
            if name == "data, fsdp and tensor":
                step = make_train_step(
                    objective, (".*",), optimizer, OptimizerConfig(), steps=10, shardings=where
                )
                for _ in range(3):
                    state, metrics = step(state, placed)
                results[name]["trained"] = [float(loss), float(metrics["loss"])]
    return results


@pytest.fixture(scope="module")
def results():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", MESHES)
def test_the_loss_is_that_of_one_device(results, mesh):
    assert results[mesh]["loss"] < 1e-5


@pytest.mark.parametrize("mesh", MESHES)
def test_the_gradients_are_those_of_one_device(results, mesh):
    worst = max(results[mesh]["gradients"].items(), key=lambda item: item[1])
    assert worst[1] < 1e-4, worst


@pytest.mark.parametrize("mesh", ["fsdp", "tensor", "data, fsdp and tensor"])
def test_gradients_lie_split_like_their_parameters(results, mesh):
    assert results[mesh]["split"] > 1


def test_a_mix_of_axes_trains(results):
    before, after = results["data, fsdp and tensor"]["trained"]
    assert after < before


if __name__ == "__main__":
    print(json.dumps(compare()))
