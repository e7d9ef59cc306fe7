"""Law 5: a run killed by SIGKILL at any step and resumed = one never stopped, bit for bit.

The runs are processes of their own: a tiny Thinker, trained with dropout-like mel augmentation, so
that the random state matters too. (Data order: test_data_order.)
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from omnijax.sharding import flatten
from omnijax.train import read_params

STEPS = 6


def train(workdir: str) -> None:
    import jax
    from tiny import batch_of, tiny

    from omnijax.models.thinker import Thinker
    from omnijax.sharding import make_mesh
    from omnijax.train import AugmentConfig, OptimizerConfig, RunConfig, Stage, fit
    from omnijax.train.objectives.lm import lm_objective
    from omnijax.train.stages import to_dict

    jax.config.update("jax_compilation_cache_dir", str(Path(workdir).parent / "xla"))
    config = tiny()

    class Data:
        number = 0

        def __next__(self):
            self.number += 1
            time.sleep(0.2)  # room for the kill
            return batch_of(config, seed=self.number)

        def get_state(self):
            return self.number

        def set_state(self, state):
            self.number = state

    stage = Stage(
        name="tiny",
        steps=STEPS,
        optimizer=OptimizerConfig(name="muon", warmup_steps=2, ema=0.9),
        augment=AugmentConfig(warp=0.1, noise_db=6.0, time_masks=1, time_width=4),
    )
    model = Thinker(config)
    fit(
        stage,
        lm_objective(model, batch_of(config), augment=stage.augment),
        Data(),
        workdir=workdir,
        config=to_dict(stage),
        run=RunConfig(log_every=1, save_every=1),
        mesh=make_mesh(data=-1),
    )


def start(workdir: Path, devices: int = 1) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, __file__, str(workdir)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def finish(workdir: Path, devices: int = 1) -> None:
    process = start(workdir, devices)
    out, _ = process.communicate()
    assert process.returncode == 0, out[-3000:]


def last_step(workdir: Path) -> int:
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    return max(steps, default=0)


def kill_in_step(workdir: Path, step: int, delay: float) -> None:
    """Starts the run and kills it `delay` seconds after checkpoint `step - 1` is there."""
    process = start(workdir)
    while last_step(workdir) < step - 1 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def final(workdir: Path) -> tuple[dict[str, bytes], list[str]]:
    """Every parameter's bytes, and the metrics that do not tell the time."""
    params = {
        path: leaf.tobytes()
        for path, leaf in flatten(read_params(workdir / "checkpoints")[0]).items()
    }
    lines = [
        line.split('"step_seconds"')[0]
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    return params, lines


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run never stopped, and one killed three times, which "moved" is a copy of."""
    folder = tmp_path_factory.mktemp("restarts")
    finish(folder / "straight")
    dice = random.Random(0)
    for step in (2, 4, 5):
        kill_in_step(folder / "killed", step, dice.uniform(0, 0.4))
    assert last_step(folder / "killed") < STEPS
    shutil.copytree(folder / "killed", folder / "moved")
    return folder


def test_killed_three_times_at_any_moment_it_ends_as_if_never_stopped(runs):
    finish(runs / "killed")
    assert final(runs / "killed") == final(runs / "straight")


@pytest.mark.slow
def test_resumed_on_two_devices_it_ends_within_rounding(runs):
    finish(runs / "moved", devices=2)
    ours, theirs = ([line for line in final(runs / name)[1]][-1] for name in ("moved", "straight"))
    loss = [float(text.split('"loss": ')[1].split(",")[0]) for text in (ours, theirs)]
    np.testing.assert_allclose(*loss, rtol=1e-5)


if __name__ == "__main__":
    train(sys.argv[1])
