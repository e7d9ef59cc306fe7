"""Checkpoints that survive kills and full disks, and weights as one small file.

A checkpoint is written beside the others under a temporary name and renamed when complete, so
whatever happens meanwhile, the last good one stays.
"""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from safetensors import SafetensorError
from safetensors.flax import load_file, save_file

from omnijax.errors import UserError
from omnijax.files import whole
from omnijax.sharding import flatten, unflatten
from omnijax.train.processes import is_first, wait_for_all
from omnijax.train.state import Params, TrainState

FLOAT32_ALWAYS = re.compile(r"(A_log|dt_bias)$")  # never cast: bfloat16 decays are off by 150 %


def differing_fields(saved: Any, given: Any, path: str = "") -> list[str]:
    """'model.decoder.width: 192 in the checkpoint, 256 here' for each field that differs."""
    if isinstance(saved, Mapping) and isinstance(given, Mapping):
        lines = []
        for name in sorted({*saved, *given}):
            inner = f"{path}.{name}" if path else str(name)
            lines += differing_fields(saved.get(name), given.get(name), inner)
        return lines
    if isinstance(saved, list | tuple) and isinstance(given, list | tuple):
        saved, given = list(saved), list(given)
    return [] if saved == given else [f"{path}: {saved!r} in the checkpoint, {given!r} here"]


def check_same_config(saved: Any, given: Any, where: str | Path) -> None:
    """Raises with the names of all fields that differ."""
    lines = differing_fields(json.loads(json.dumps(saved)), json.loads(json.dumps(given)))
    if lines:
        raise UserError(f"{where} is a checkpoint of another config: {'; '.join(lines)}")


def _reason(error: BaseException) -> str:
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if getattr(seen, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return os.strerror(seen.errno)
        if re.search(r"no space left|quota exceeded|RESOURCE_EXHAUSTED", text, re.I):
            return "No space left on device"
        seen = seen.__cause__ or seen.__context__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class Checkpointer:
    """The checkpoints of one run, in `directory`: state, data position and config together.

    config: plain values; a checkpoint restores only where `compare(config)` is the same.
    """

    def __init__(
        self,
        directory: str | Path,
        config: Mapping[str, Any],
        *,
        keep: int = 2,
        compare: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ):
        self.directory = Path(directory).absolute()
        self._compare = compare
        self.config = json.loads(json.dumps(config))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=False,
            save_root_metadata=False,
        )
        logging.getLogger("absl").setLevel(logging.ERROR)
        try:
            if is_first():
                for part in self.directory.glob("*orbax-checkpoint-tmp*"):
                    shutil.rmtree(part)  # what a kill left half written
            wait_for_all("checkpoints")
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise UserError(f"cannot use {self.directory} for checkpoints: {error}") from None

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, data_state: Any = None, extra: Any = None) -> None:
        """Writes the state; on failure says why and which checkpoint is still there."""
        step = int(state.step)
        if step in self.steps():
            return
        items = {"config": self.config, "data": data_state, "extra": extra}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state._asdict()),
                    rest=ocp.args.JsonSave(items),
                ),
                force=True,
            )
            self._manager.wait_until_finished()
        except Exception as error:
            self._manager.reload()
            last = [s for s in self.steps() if s != step]
            rest = f"step {last[-1]} is still there" if last else "there is none before it"
            raise UserError(
                f"could not save the checkpoint of step {step} to {self.directory}: "
                f"{_reason(error)}; {rest}"
            ) from error

    def restore(self, like: TrainState) -> tuple[TrainState, Any, Any] | None:
        """(state, data state, extra) of the last checkpoint, or None where there is none.

        like: a TrainState of arrays or `jax.ShapeDtypeStruct`s with shardings.
        """
        steps = self.steps()
        if not steps:
            return None
        rest = self._manager.restore(
            steps[-1], args=ocp.args.Composite(rest=ocp.args.JsonRestore())
        ).rest
        check_same_config(self._compare(rest["config"]), self._compare(self.config), self.directory)
        restored = self._manager.restore(
            steps[-1],
            args=ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict())),
        )
        return TrainState(**restored.state), rest["data"], rest["extra"]

    def close(self) -> None:
        self._manager.close()


def read_params(directory: str | Path) -> tuple[Params, dict[str, Any]]:
    """(parameters, config) of the last checkpoint in a run's directory; averages where kept."""
    directory = Path(directory).absolute()
    if not directory.is_dir():
        raise UserError(f"there is no checkpoint directory {directory}")
    logging.getLogger("absl").setLevel(logging.ERROR)
    with ocp.CheckpointManager(
        directory, options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"{directory} has no complete checkpoint")
        rest = manager.restore(step, args=ocp.args.Composite(rest=ocp.args.JsonRestore())).rest
    state = _read_arrays(directory / str(step) / "state")
    params = flatten(state["params"])
    params.update(flatten(state["ema"] or {}))
    return unflatten({path: np.asarray(leaf) for path, leaf in params.items()}), rest["config"]


def _read_arrays(directory: Path) -> dict[str, Any]:
    """A saved state as numpy arrays, on however many devices it was saved."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(directory).item_metadata.tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        return checkpointer.restore(directory, args=ocp.args.PyTreeRestore(restore_args=kinds))


def save_weights(directory: str | Path, params: Params, config: Mapping[str, Any]) -> Path:
    """Writes model.safetensors (bfloat16, `A_log` and `dt_bias` float32) and config.json."""
    file, beside = Path(directory) / "model.safetensors", Path(directory) / "config.json"
    tensors = {
        path: jnp.asarray(leaf, jnp.float32 if FLOAT32_ALWAYS.search(path) else jnp.bfloat16)
        for path, leaf in flatten(params).items()
    }
    with whole(beside) as text, whole(file) as weights:  # both, or neither
        text.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        try:
            save_file(tensors, weights)
        except SafetensorError as error:
            raise UserError(f"cannot write {file}: {_reason(error)}") from error
    return file


def load_weights(directory: str | Path) -> tuple[Params, dict]:
    """(parameters, config) that `save_weights` wrote, in float32, or of a run's last checkpoint."""
    directory = Path(directory)
    if (directory / "checkpoints").is_dir():
        return read_params(directory / "checkpoints")
    try:
        config = json.loads((directory / "config.json").read_text())
        tensors = load_file(str(directory / "model.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"no readable weights in {directory}: {_reason(error)}") from None
    return unflatten({path: leaf.astype(jnp.float32) for path, leaf in tensors.items()}), config


def abstract(state: TrainState, shardings: TrainState | None = None) -> TrainState:
    """Shapes, dtypes and places of a state, to restore into."""
    if shardings is None:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
    )
