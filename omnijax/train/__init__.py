"""Training: state and step, checkpoints, loop, stages as data, objectives."""

from omnijax.train.checkpoint import (
    Checkpointer,
    check_same_config,
    load_weights,
    read_params,
    save_weights,
)
from omnijax.train.loop import Diverged, Result, fit
from omnijax.train.stages import AugmentConfig, OptimizerConfig, RunConfig, Stage
from omnijax.train.state import Losses, Objective, TrainState, init_state, make_train_step

__all__ = [
    "AugmentConfig",
    "Checkpointer",
    "Diverged",
    "Losses",
    "Objective",
    "OptimizerConfig",
    "Result",
    "RunConfig",
    "Stage",
    "TrainState",
    "check_same_config",
    "fit",
    "init_state",
    "load_weights",
    "make_train_step",
    "read_params",
    "save_weights",
]
