"""Runs one stage of a config, and before it the stages it starts from where they are missing."""

import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments._main import config_file
from omnijax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="FILE:STAGE, for instance experiments/configs/nano.py:s2"
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives; by default runs/NAME[+changes of the model]/STAGE."
)
DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    None,
    "Train in several processes, which all get the same command: auto (a pod's hosts, Slurm, MPI) "
    "or HOST:PORT,INDEX,COUNT. --workdir, or the runs, must lie where all of them see them.",
)

# What a stage of the voice has for itself: changed, no other stage changes with it.
OWN = (
    "training.losses.", "training.contexts", "training.max_hidden", "training.frame_noise",
    "speech.context",
)  # fmt: skip
SIZES = ("model", "codec", "talker")  # sections of a config whose changes make another model


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


class Recipe:
    """A config file, one stage of it as the user wants it, and where its runs lie."""

    def __init__(
        self, path: str, stage: str, config: ml_collections.ConfigDict, workdir: str | None
    ):
        self._get_config = config_file(path).get_config
        self.stage, self.config = stage, config
        self._root = Path(workdir).absolute().parent if workdir else None
        self._workdirs = {stage: Path(workdir)} if workdir else {}

    def stage_config(self, stage: str) -> ml_collections.ConfigDict:
        """Another stage's config with this one's changes to model, data and run.

        What is in OWN stays a stage's own, and of all but the codec's stages the mixture.
        """
        if stage == self.stage:
            return self.config
        config = self._get_config(stage)
        theirs, ours = flat(config), flat(self.config)
        original = flat(self._get_config(self.stage))
        for name, value in ours.items():
            if name.startswith("stage.") and name != "stage.mixture" or name not in theirs:
                continue
            if name.startswith(OWN):
                continue
            # The codec's stages share one mixture; all others have one of their own.
            if name == "stage.mixture" and self.config.stage.objective != "codec":
                continue
            if value != original.get(name):
                config.update_from_flattened_dict({name: value})
        return config

    def workdir(self, stage: str) -> Path:
        """Beside the given workdir; or by name, where a changed model gets its own folder."""
        if stage in self._workdirs:
            return self._workdirs[stage]
        if self._root is not None:
            return self._root / stage
        config, original = flat(self.stage_config(stage)), flat(self._get_config(stage))
        changes = [
            f"{name.removeprefix('model.')}-{value}"
            for name, value in sorted(config.items())
            if name.split(".")[0] in SIZES and value != original[name]
        ]
        # No comma and no "=": a stage may start from this folder, and those part its entries.
        folder = "+".join([str(self.config.name), *changes])
        return Path("runs") / re.sub(r"[^\w.+-]", "_", folder) / stage

    def run(self, stage: str | None = None) -> int:
        """Trains the stage to its end, or until it is stopped, to be resumed.

        What cannot be trained is refused before the stages that come first, as far as it can be
        told without its model. Returns the exit status: 0; stopped by Ctrl-C 130, otherwise 143.
        """
        from omnijax.train.processes import is_first, wait_for_all
        from omnijax.train.recipe import run_stage

        last = stage or self.stage
        chain = self._chain(last)
        wait_for_all("chain")  # None trains before all have seen what is there.
        for stage in chain:
            workdir = self.workdir(stage)
            if is_first():
                if stage != last:
                    print(f"{last} starts from {stage}: training {stage} first", flush=True)
                print(f"{stage}: {workdir}", flush=True)
            config = self.stage_config(stage).to_dict()
            result = run_stage(config, workdir, self.workdir)
            if not result.finished:
                return 130 if result.signal == signal.SIGINT else 143
        return 0

    def _chain(self, stage: str, after: tuple[str, ...] = ()) -> list[str]:
        """The stage and, before it, what it starts from and is not there; each can be trained."""
        from omnijax.train.recipe import check_stage, steps_of
        from omnijax.train.stages import WEIGHTS, Stage, from_dict

        if stage in after:
            raise UserError(f"stages start from each other: {' -> '.join((*after, stage))}")
        config = self.stage_config(stage)
        begun = bool(steps_of(self.workdir(stage)))
        check_stage(config.to_dict(), begun=begun)
        chain: list[str] = []
        if not begun:
            for _, before in from_dict(Stage, config.stage.to_dict(), "config.stage.").sources():
                if not before.startswith(WEIGHTS) and not self._complete(before):
                    chain += self._chain(before, (*after, stage))
        return [*dict.fromkeys(chain), stage]

    def _complete(self, stage: str) -> bool:
        from omnijax.train.recipe import is_finished

        return is_finished(self.workdir(stage), self.stage_config(stage).to_dict())


def from_flags(default_stage: str) -> Recipe:
    """The recipe that --config and --workdir name."""
    if CONFIG.value is None:
        raise UserError("give --config=FILE:STAGE, for instance experiments/configs/nano.py:s2")
    if WORKDIR.value and "://" in WORKDIR.value:
        raise UserError(f"--workdir is {WORKDIR.value}: runs lie on a disk, local or mounted")
    path, _, stage = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return Recipe(path, stage or default_stage, CONFIG.value, WORKDIR.value)


def main_of(objective: str, default_stage: str) -> int:
    """The whole of an experiment that trains one stage."""
    from experiments._main import compilation_cache

    compilation_cache()
    recipe = from_flags(default_stage)
    if DISTRIBUTED.value:
        from omnijax.train.processes import join

        join(DISTRIBUTED.value)
    if recipe.config.stage.objective != objective:
        raise UserError(
            f"stage {recipe.stage} has objective {recipe.config.stage.objective!r}, "
            f"this experiment trains {objective!r}"
        )
    return recipe.run()
