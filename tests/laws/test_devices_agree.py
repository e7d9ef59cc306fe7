"""Law 4: one device = eight devices, on each mesh axis and on mixes of them.

The comparison runs in one process of its own, which simulates eight devices on the CPU.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AXES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "context": {"data": 1, "context": 8},
    "tensor": {"data": 1, "tensor": 8},
    "expert": {"data": 1, "expert": 8},
}
MIXES = {
    "data, fsdp and tensor": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp, context and expert": {"data": 1, "fsdp": 2, "context": 2, "expert": 2},
}
MESHES = AXES | MIXES


def thinker():
    """(objective, batch, a parameter that every axis but data and context may split)"""
    from tiny import batch_of, tiny

    from omnijax.models.thinker import Thinker
    from omnijax.train.objectives.lm import lm_objective

    config = tiny()
    batch = batch_of(config)
    return lm_objective(Thinker(config), batch), batch, "decoder/periods/layer_0/gdn/q/w"


def talker():
    """The same of the Talker with its MTP: eight rows under drawn schedules."""
    import numpy as np

    from omnijax.models.talker import Talker, aria, presets
    from omnijax.models.talker.prompt import Marks, answer_row, collate_talker, spoken_text
    from omnijax.train.objectives.talker import talker_objective

    config, rng = presets.tiny(), np.random.default_rng(0)
    marks, rows = Marks((1, 2, 3), (1, 4, 3), (5, 3)), []
    for _ in range(8):
        codes = rng.integers(0, 16, (rng.integers(8, 17), 4))
        text = spoken_text(config, rng.integers(6, 60, 4))
        schedule = aria.random(rng, len(text), len(codes))
        rows.append([answer_row(config, marks, text, codes, schedule, asks=True)])
    batch = collate_talker(config, rows, max_tokens=32)
    objective = talker_objective(Talker(config), batch, asks=True)
    return objective, batch, "decoder/periods/layer_0/gdn/q/w"


def codec():
    """The same of the codec with a voice's source: eight clips of tones, each its own length."""
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "codec"))
    import tiny_codec

    from omnijax.data.crops import CodecBatch
    from omnijax.models.codec import PeriodicityConfig
    from omnijax.models.codec.losses import MelLossConfig
    from omnijax.train.objectives.codec import CodecLossConfig, codec_objective

    model = tiny_codec.VOICED
    size = 8 * model.config.samples_per_frame
    lengths = size - 7 * np.arange(8, dtype=np.int32)
    tones = 0.3 * np.sin(np.arange(size) * np.linspace(0.2, 1.5, 8)[:, None])
    samples = (tones * (np.arange(size) < lengths[:, None])).astype(np.float32)
    batch = CodecBatch(samples, lengths)
    scales = MelLossConfig(windows=(64, 128), bins=(8, 12))
    periods = PeriodicityConfig(window=128, pool=2, lowest=500, highest=2000)
    losses = CodecLossConfig(mel_scales=scales, periods=periods)
    return codec_objective(model, batch, losses), batch, "codec/quantiser/codebooks"


PARTS = {"thinker": thinker, "talker": talker, "codec": codec}


def compare(names: list[str], part: str, *, train: bool = False) -> dict:
    """For each mesh: relative error of the loss, and of every gradient by its largest entry."""
    import jax
    import numpy as np

    from omnijax.sharding import flatten, make_mesh
    from omnijax.train.loop import place_batch
    from omnijax.train.optimizer import make_optimizer
    from omnijax.train.stages import OptimizerConfig
    from omnijax.train.state import (
        init_params,
        init_state,
        loss_and_gradients,
        make_train_step,
        state_shardings,
    )

    jax.config.update("jax_default_matmul_precision", "highest")
    objective, batch, split = PARTS[part]()
    # Muon is AdamW too, for what is no matrix; the codec's parameters all lie whole.
    options = OptimizerConfig(name="adamw" if part == "codec" else "muon")
    optimizer = make_optimizer(options, 10)
    params = jax.tree.map(np.asarray, jax.jit(lambda: init_params(objective, 0))())
    state = jax.jit(lambda p: init_state(p, (".*",), optimizer, seed=0))(params)
    state = jax.tree.map(np.asarray, state)  # a step takes the buffers it is given

    results, expected = {}, None
    for name in ["one", *names]:
        devices = jax.devices()[:1] if name == "one" else jax.devices()
        mesh = make_mesh(**MESHES.get(name, {"data": 1}), devices=devices)
        with jax.set_mesh(mesh):
            where = state_shardings(jax.eval_shape(lambda: state), mesh)
            placed, here = place_batch(batch, mesh), jax.device_put(state, where)
            gradients = jax.jit(
                lambda params, batch, where=where: loss_and_gradients(
                    objective, params, {}, batch, None, shardings=flatten(where.params)
                )
            )
            losses, grads = gradients(here.params, placed)
            loss = losses.total / losses.weight
            flat = {path: np.asarray(leaf) for path, leaf in flatten(grads).items()}
            trained = None
            if train:
                step = make_train_step(
                    objective, (".*",), optimizer, options, steps=10, shardings=where
                )
                for _ in range(3):
                    here, metrics = step(here, placed)
                trained = float(metrics["loss"])
            if expected is None:
                expected = float(loss), flat, trained
                continue
            results[name] = {
                "loss": abs(float(loss) / expected[0] - 1),
                "gradients": {
                    path: float(np.abs(leaf - expected[1][path]).max())
                    / float(np.abs(expected[1][path]).max())
                    for path, leaf in flat.items()
                    if np.any(expected[1][path]) or np.any(leaf)
                },
                "split": len(
                    {str(part.index) for part in flatten(grads)[split].addressable_shards}
                ),
            }
            if train:
                results[name]["trained"] = [float(loss), trained, expected[2]]
    return results


@functools.cache
def results(*names: str, part: str = "thinker", train: bool = False) -> dict:
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, __file__, part, *names, *(["--train"] if train else [])],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(result: dict) -> None:
    assert result["loss"] < 1e-5
    worst = max(result["gradients"].items(), key=lambda item: item[1])
    assert worst[1] < 1e-4, worst


@pytest.mark.parametrize("mesh", MIXES)
def test_loss_and_gradients_on_a_mix_of_axes_are_those_of_one_device(mesh):
    check(results(*MIXES)[mesh])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MIXES)
def test_the_talkers_loss_and_gradients_are_those_of_one_device(mesh):
    check(results(*MIXES, part="talker")[mesh])
    assert results(*MIXES, part="talker")["data, fsdp and tensor"]["split"] == 4


@pytest.mark.slow
def test_the_codecs_loss_and_gradients_are_those_of_one_device():
    mix = "data, fsdp and tensor"
    check(results(mix, part="codec")[mix])


def test_gradients_lie_split_like_their_parameters():
    assert results(*MIXES)["data, fsdp and tensor"]["split"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("mesh", AXES)
def test_loss_and_gradients_on_one_axis_are_those_of_one_device(mesh):
    check(results(*AXES, train=True)[mesh])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", AXES)
def test_one_axis_trains_as_one_device_does(mesh):
    before, after, alone = results(*AXES, train=True)[mesh]["trained"]
    assert after < before and abs(after / alone - 1) < 1e-3


if __name__ == "__main__":
    meshes = [name for name in sys.argv[1:] if name in MESHES]
    print(json.dumps(compare(meshes, sys.argv[1], train="--train" in sys.argv)))
