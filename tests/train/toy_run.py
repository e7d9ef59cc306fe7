"""A model of 97 parameters with random noise in its loss, trained by `fit`: for the train tests.

python toy_run.py WORKDIR STEPS [SECONDS_A_STEP]      (run as a process that can be killed)
"""

import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.train import Losses, Objective, OptimizerConfig, RunConfig, Stage, fit
from omnijax.train.stages import to_dict


class Batch(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    loss_weights: np.ndarray


class Data:
    """Batches that are a function of their number."""

    def __init__(self, seconds=0.0):
        self.number, self.seconds = 0, seconds

    def __iter__(self):
        return self

    def __next__(self):
        rng = np.random.default_rng(self.number)
        self.number += 1
        time.sleep(self.seconds)
        x = rng.normal(size=(8, 4)).astype(np.float32)
        weights = rng.integers(1, 4, (8, 1)).astype(np.float32)
        return Batch(x, np.sin(x).sum(-1, keepdims=True), weights)

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]


def init(key):
    keys = jax.random.split(key)
    return {
        "body": {"w": jax.random.normal(keys[0], (4, 16))},
        "head": {"w": jax.random.normal(keys[1], (16, 1)), "bias": jnp.zeros(1)},
    }


def loss(params, batch, key):
    hidden = jnp.tanh(batch.x @ params["body"]["w"])
    if key is not None:
        hidden += 0.01 * jax.random.normal(key, hidden.shape)
    y = hidden @ params["head"]["w"] + params["head"]["bias"]
    total = jnp.sum(batch.loss_weights * (y - batch.y) ** 2)
    return Losses(total, jnp.sum(batch.loss_weights), {"squared": total})


OBJECTIVE = Objective(init, loss)


def quiet_loss(params, batch, key):
    return loss(params, batch, None)


def stage(**changes):
    settings = {"learning_rate": 0.02, "warmup_steps": 3, "ema": 0.9}
    return Stage(
        **{"name": "toy", "steps": 12, "optimizer": OptimizerConfig(**settings), **changes}
    )


def run(workdir, *, of=None, data=None, objective=OBJECTIVE, start=None, mesh=None, **options):
    of = of or stage()
    options = {"progress": False, "log_every": 1, "save_every": 3, **options}
    return fit(
        of,
        objective,
        data or Data(),
        workdir=workdir,
        config=to_dict(of),
        run=RunConfig(**options),
        eval_data=Data,
        start=start,
        mesh=mesh,
    )


def same(a, b):
    """Whether two states are equal bit for bit."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


if __name__ == "__main__":
    folder, steps, seconds = sys.argv[1], int(sys.argv[2]), float((*sys.argv, "0")[3])
    result = run(folder, of=stage(steps=steps), data=Data(seconds), progress=True, save_every=1)
    sys.exit(0 if result.finished else 143)
