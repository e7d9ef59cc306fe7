"""How the stages of one objective get their data and their loss: what a recipe must know of it."""

import importlib.resources
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omnijax.errors import UserError
from omnijax.text.tokenizer import Tokenizer
from omnijax.train.processes import Share
from omnijax.train.stages import RunConfig, Stage
from omnijax.train.state import Objective

Config = Mapping[str, Any]  # a run's, as plain values


class Kind(NamedTuple):
    """One kind of stage. `Stage.objective` names it, `recipe.KINDS` has them all.

    sections: config class of each section that decides what is learned, beside "stage".
    resolve: the config with what follows from other parts of it; raises where parts do not fit.
    data: (config, stage, run, split, share) -> batches, of this process's share of the rows, with
        `get_state`, `set_state` and `close`.
    objective: (config, stage, a batch for its shapes) -> what is optimised.
    """

    sections: Mapping[str, type]
    resolve: Callable[[Config], dict[str, Any]]
    data: Callable[[Config, Stage, RunConfig, str, Share], Any]
    objective: Callable[[Config, Stage, Any], Objective]


# Of a stage, what only stages of the Thinker and its encoders do.
CHAT_ONLY = ("window_chunks", "on_too_long", "loss_weighting", "augment")


def check_unused(stage: Stage, *names: str) -> None:
    """Raises if a field that this stage's objective does not read was changed: one of chats' alone
    or of `names`."""
    check_default(stage, *CHAT_ONLY, *names)


def check_default(stage: Stage, *names: str) -> None:
    """Raises if a field that this stage does not read was changed."""
    default = Stage(name=stage.name)
    for name in names:
        if getattr(stage, name) != getattr(default, name):
            raise UserError(
                f"config.stage.{name} is {getattr(stage, name)}, a stage with objective "
                f"{stage.objective!r} does not read it"
            )


SHIPPED = ("nano", "nano/talker", "nano/codec")


def weights_folder(name: str) -> Path:
    """A folder of weights by path, or one of those in this package (SHIPPED) by name."""
    if name in SHIPPED:
        return Path(str(importlib.resources.files("omnijax") / "assets")) / name
    return Path(name)


def open_tokenizer(path: str) -> Tokenizer:
    """A tokenizer.json by path; "nano" is the one in this package."""
    if path == "nano":
        path = str(weights_folder(path) / "tokenizer.json")
    return Tokenizer.from_file(path)


def memory_gb() -> float:
    """What this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
