"""From a config to a run: builds the model and the data of a stage, and what it starts from."""

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from omnijax.data.omniworld import OmniWorld
from omnijax.data.omniworld.aloud import IN_DRAWN_VOICES
from omnijax.data.omniworld.voices import fingerprint_of_voices
from omnijax.data.sources import open_sources
from omnijax.errors import UserError
from omnijax.sharding import LOGICAL_AXES, flatten, make_mesh, unflatten
from omnijax.train.chat import CHAT
from omnijax.train.checkpoint import (
    check_same_config,
    differing_fields,
    load_weights,
    read_params,
)
from omnijax.train.codec import CODEC
from omnijax.train.kinds import Kind, weights_folder
from omnijax.train.loop import Result, fit
from omnijax.train.processes import ALONE, share_of
from omnijax.train.stages import WEIGHTS, RunConfig, Stage, from_dict, to_dict
from omnijax.train.state import Params
from omnijax.train.talker import TALKER

log = logging.getLogger(__name__)
KINDS: dict[str, Kind] = {"lm": CHAT, "aed": CHAT, "codec": CODEC, "talker": TALKER}
# Sections and fields that may differ between a checkpoint and the run that reads it.
OF_NO_CONSEQUENCE = ("run", "mesh", "speech")
HOW_COMPUTED = ("dtype", "remat", "scan_layers", "implementation")
# What may differ from the weights that a stage starts from. Both forms of a Talker's stream have
# the same parameters: from one, the other is learned; so has attention that sees less or more.
MAY_CHANGE = (*HOW_COMPUTED, "talker.form", "attention_window")
# What weights may lack: it begins at random beside what they have learned.
MAY_COME = ("code2wav.harmonics",)
# Where the config has the sizes of what lies under a prefix, or else under its first name.
SECTION = {
    "audio": ("model", "aut"),
    "vision": ("model", "vision"),
    "decoder": ("model", "decoder"),
    "embed": ("model", "decoder"),
    "codec": ("codec",),
    "codec/encoder": ("codec", "encoder"),
    "codec/quantiser": ("codec", "quantiser"),
    "codec/code2wav": ("codec", "code2wav"),
}
WHOLE = {"codec": ("codec",), "talker": ("talker",)}  # the same where a stage takes everything over


def check_rows(stage: Stage, mesh: Mesh | AbstractMesh) -> None:
    """Each device that shares a batch must get rows of its own."""
    rows = stage.batch // stage.accumulate
    ways = math.prod(mesh.shape[axis] for axis in LOGICAL_AXES.batch)
    if rows % ways:
        raise UserError(
            f"stage {stage.name}: config.stage.batch / accumulate is {rows} rows, which {ways} "
            f"devices (mesh axes {', '.join(LOGICAL_AXES.batch)}) cannot share: give a multiple "
            f"of {ways}"
        )


def mesh_sizes(sizes: Mapping[str, int], stage: Stage, devices: int) -> dict[str, int]:
    """A config's mesh; where its `data` is -1, as large as devices and rows of a step allow."""
    if sizes["data"] != -1:
        return dict(sizes)
    rows = stage.batch // stage.accumulate
    others = math.prod(size for axis, size in sizes.items() if axis != "data")
    ways = math.prod(sizes[axis] for axis in LOGICAL_AXES.batch if axis != "data")
    most = max(devices // max(others, 1), 1)
    data = next((n for n in range(most, 0, -1) if rows % (n * ways) == 0), 1)
    return {**sizes, "data": data}


def mesh_of(sizes: Mapping[str, int], stage: Stage) -> Mesh:
    """The mesh of a stage, over as many devices as it needs."""
    # A host's devices beside each other, so that its rows are one run.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    sizes = mesh_sizes(sizes, stage, len(devices))
    total = math.prod(sizes.values())
    return make_mesh(**sizes, devices=devices[:total] if total >= 1 else devices)


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that decides what is learned; fields it lacks have their defaults.

    Of an encoder's pretraining that is the encoder and its decoder alone: another Thinker starts
    from the same one. The codec's teacher is an AuT.
    """
    whole = {name: value for name, value in config.items() if name not in OF_NO_CONSEQUENCE}
    objective = whole.get("stage", {}).get("objective", "lm")
    sections = {"stage": Stage, **(KINDS[objective].sections if objective in KINDS else {})}
    for name, cls in sections.items():
        try:
            whole[name] = to_dict(from_dict(cls, whole[name]))
        except (KeyError, TypeError, UserError):
            continue  # written by another version: shown as it is
    model = whole.get("model", {})
    if objective == "aed":
        part = "aut" if whole["stage"].get("audio_chunks") else "vision"
        whole["model"] = {part: model.get(part)}
    elif objective == "codec":
        whole["model"] = {"aut": model.get("aut")}
    else:
        whole.pop("aed", None)
    return whole


def starting_params(
    stage: Stage, config: Mapping[str, Any], find: Callable[[str], Path]
) -> Params | None:
    """What the stages and weights named in `starts_from` have learned; later entries win."""
    start: dict[str, Any] = {}
    for prefix, name in stage.sources():
        if name.startswith(WEIGHTS):
            where = weights_folder(name.removeprefix(WEIGHTS))
            params, saved = load_weights(where)
        else:
            where = find(name)
            params, saved = read_params(where / "checkpoints")
            learned = saved.get("codec")  # a Talker's: the mark of its codes
            if stage.objective == "talker" and learned != config["codec"]:
                raise UserError(
                    f"{where} has learned codes of codec {learned}, the mixture's are of "
                    f"{config['codec']}: give its codes, or begin there all the same by "
                    f"--config.stage.starts_from=weights:{where}"
                )
        first = SECTION.get(prefix.split("/")[0], WHOLE.get(stage.objective, ("model",)))
        section = SECTION.get(prefix, first)
        ours, theirs = _section(config, section), _section(saved, section)
        lines = [
            line
            for line in differing_fields(json.loads(json.dumps(theirs)), ours, ".".join(section))
            if not _is_allowed(line)
        ]
        if lines:
            raise UserError(f"{where} has another model: {'; '.join(lines)}")
        chosen = {
            path: leaf
            for path, leaf in flatten(params).items()
            if not prefix or path == prefix or path.startswith(f"{prefix}/")
        }
        if not chosen:
            raise UserError(f"{where} has no parameters under {prefix!r}")
        start.update(chosen)
    return unflatten(start) if start else None


def _is_allowed(difference: str) -> bool:
    """Of a line of `differing_fields`."""
    field, values = difference.split(":", 1)
    comes = field.endswith(MAY_COME) and values.startswith(" None in the checkpoint")
    return comes or field.endswith(MAY_CHANGE)


def _section(config: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = config
    for name in path:
        value = (value or {}).get(name)
    return value


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as a run keeps it: plain values, the tokenizer's ids, the corpus' version and,
    where drawn voices speak, their mark."""
    config = json.loads(json.dumps(to_dict(config)))
    stage = from_dict(Stage, config["stage"], "config.stage.")
    config = KINDS[stage.objective].resolve(config)
    if any(name.split("/")[0] in ("omniworld", "omniworld_live") for name, _ in stage.weights()):
        config["corpus"] = f"omniworld {OmniWorld.VERSION}"
    drawn = {f"omniworld_live/{task}" for task in IN_DRAWN_VOICES}
    if any(name in drawn for name, _ in stage.weights()):
        config["corpus"] += f" {fingerprint_of_voices()}"
    return config


def check_stage(config: Mapping[str, Any], *, begun: bool = False) -> None:
    """Raises for what is wrong with a stage as far as it can be told without its model.

    begun: it has checkpoints, so what it began from is not needed any more.
    """
    config = resolve(config)
    stage = from_dict(Stage, config["stage"], "config.stage.")
    run = from_dict(RunConfig, config["run"], "config.run.")
    check_rows(stage, mesh_of(config["mesh"], stage))
    names = [name for name, _ in stage.weights()]
    for split in ("train", run.eval_split if run.eval_batches else ""):
        if split:
            open_sources(names, split=split, data_dir=run.data_dir or None)
    for _, name in stage.sources():
        where = weights_folder(name.removeprefix(WEIGHTS))
        if name.startswith(WEIGHTS) and not begun and not where.is_dir():
            raise UserError(f"stage {stage.name} starts from {name}: there is no folder {where}")


def steps_of(workdir: Path) -> list[int]:
    """The steps of which a run has checkpoints."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def is_finished(workdir: Path, config: Mapping[str, Any]) -> bool:
    """Whether a stage's last step has its checkpoint; raises if it is another recipe's."""
    steps = steps_of(workdir)
    if not steps:
        return False
    config = resolve(config)
    saved = json.loads((workdir / "config.json").read_text())
    check_same_config(comparable(saved), comparable(config), workdir)
    return steps[-1] >= config["stage"]["steps"]


def run_stage(config: Mapping[str, Any], workdir: Path, find: Callable[[str], Path]) -> Result:
    """Trains one stage in `workdir`; `find` gives the workdir of a stage by its name."""
    config = resolve(config)
    stage = from_dict(Stage, config["stage"], "config.stage.")
    run = from_dict(RunConfig, config["run"], "config.run.")
    kind = KINDS[stage.objective]
    mesh = mesh_of(config["mesh"], stage)
    check_rows(stage, mesh)
    if mesh.size < len(jax.devices()):
        log.warning("%s uses %d of %d devices", stage.name, mesh.size, len(jax.devices()))
    share = share_of(mesh, stage.batch)
    kept: list[Any] = []
    if run.eval_split and run.eval_batches:  # what cannot be read is said now, not at the end
        held_out = kind.data(config, stage, run, run.eval_split, share)
        kept.extend(batch for batch, _ in zip(held_out, range(run.eval_batches), strict=False))
        held_out.close()
    data = kind.data(config, stage, run, "train", share)
    # The whole batch, the same in all processes: codebooks begin by its values.
    first = data if share == ALONE else kind.data(config, stage, run, "train", ALONE)
    fresh = first.get_state()
    example = next(first)
    first.set_state(fresh)

    def start() -> Params | None:
        return starting_params(stage, config, find)

    try:
        return fit(
            stage,
            kind.objective(config, stage, example),
            data,
            workdir=workdir,
            config=config,
            compare=comparable,
            run=run,
            mesh=mesh,
            start=start,
            eval_data=(lambda: iter(kept)) if kept else None,
        )
    finally:
        data.close()
