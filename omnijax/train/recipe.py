"""From a config to a run: builds the model and the data of a stage, and what it starts from."""

import dataclasses
import functools
import importlib.resources
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from omnijax.data import PipelineConfig, make_pipeline
from omnijax.data.omniworld import OmniWorld
from omnijax.data.sources import open_sources
from omnijax.errors import UserError
from omnijax.media.processor import ProcessorConfig
from omnijax.models.aut import AuT, AuTDecoder, AuTDecoderConfig
from omnijax.models.thinker import Thinker, ThinkerConfig
from omnijax.models.vision import VisionEncoder
from omnijax.sharding import LOGICAL_AXES, flatten, make_mesh, unflatten
from omnijax.text.tokenizer import Tokenizer
from omnijax.train.checkpoint import (
    check_same_config,
    differing_fields,
    load_weights,
    read_params,
)
from omnijax.train.loop import Result, fit
from omnijax.train.objectives.aed import aed_objective
from omnijax.train.objectives.lm import lm_objective
from omnijax.train.stages import WEIGHTS, RunConfig, Stage, from_dict, to_dict
from omnijax.train.state import Objective, Params

# Sections and fields that may differ between a checkpoint and the run that reads it.
OF_NO_CONSEQUENCE = ("run", "mesh")
HOW_COMPUTED = ("dtype", "remat", "scan_layers", "implementation")
MODEL_PART = {"audio": "aut", "vision": "vision", "decoder": "decoder", "embed": "decoder"}


def weights_folder(name: str) -> Path:
    """A folder of weights by path; "nano" is the one in this package."""
    if name == "nano":
        return Path(str(importlib.resources.files("omnijax") / "assets/nano"))
    return Path(name)


def open_tokenizer(path: str) -> Tokenizer:
    """A tokenizer.json by path; "nano" is the one in this package."""
    if path == "nano":
        path = str(weights_folder(path) / "tokenizer.json")
    return Tokenizer.from_file(path)


def resolve_model(model: Mapping[str, Any], tokenizer: Tokenizer) -> ThinkerConfig:
    """The Thinker's config with the tokenizer's placeholder ids in it."""
    config = from_dict(ThinkerConfig, model, "config.model.")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"config.model.vocab_size is {config.vocab_size}, "
            f"the tokenizer has {tokenizer.vocab_size} tokens"
        )
    return dataclasses.replace(
        config,
        audio_token_id=tokenizer.special("audio_pad"),
        image_token_id=tokenizer.special("image_pad"),
        video_token_id=tokenizer.special("video_pad"),
    )


def check_media(model: ThinkerConfig, processor: ProcessorConfig) -> None:
    """The processor's arrays must have the sizes that the encoders read."""
    pairs = []
    if model.aut is not None:
        pairs += [
            ("audio_chunk_frames", processor.audio_chunk_frames, model.aut.chunk_frames),
            ("audio_downsample", processor.audio_downsample, model.aut.downsample),
            ("mel_bins", processor.mel_bins, model.aut.mel_bins),
        ]
    if model.vision is not None:
        for name in ("patch_size", "temporal_patch", "spatial_merge"):
            pairs.append((name, getattr(processor, name), getattr(model.vision, name)))
    for name, given, needed in pairs:
        if given != needed:
            raise UserError(f"config.processor.{name} is {given}, the model's encoder has {needed}")


def memory_gb() -> float:
    """What this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def pipeline_config(stage: Stage, run: RunConfig, split: str) -> PipelineConfig:
    """What the data pipeline is asked for; the evaluation split is read in order."""
    return PipelineConfig(
        mixture=stage.weights(),
        split=split,
        data_dir=run.data_dir or None,
        objective=stage.objective,
        batch_size=stage.batch,
        max_tokens=stage.tokens,
        max_audio_chunks=stage.audio_chunks,
        max_patches=stage.patches,
        seed=stage.seed,
        on_too_long=stage.on_too_long,
        loss_weighting=stage.loss_weighting,
        window_chunks=stage.window_chunks if split == "train" else (),
        cache_gb=min(run.cache_gb, 0.3 * memory_gb()),
        threads=run.threads,
        shuffle=split == "train",
    )


def check_rows(stage: Stage, mesh: Mesh | AbstractMesh) -> None:
    """Each device that shares a batch must get rows of its own."""
    if jax.process_count() > 1:
        raise UserError(f"training runs in one process, this one is of {jax.process_count()}")
    rows = stage.batch // stage.accumulate
    ways = math.prod(mesh.shape[axis] for axis in LOGICAL_AXES.batch)
    if rows % ways:
        raise UserError(
            f"config.stage.batch / accumulate is {rows} rows, which {ways} devices (mesh axes "
            f"{', '.join(LOGICAL_AXES.batch)}) cannot share: give a multiple of {ways}"
        )


def build_objective(
    config: Mapping[str, Any], stage: Stage, tokenizer: Tokenizer, example: Any
) -> Objective:
    """The objective of a stage with its modules; `example` is a batch, for its shapes."""
    model = resolve_model(config["model"], tokenizer)
    if stage.objective == "aed":
        part, module = ("aut", AuT) if stage.audio_chunks else ("vision", VisionEncoder)
        sizes = getattr(model, part)
        if sizes is None:
            raise UserError(f"stage {stage.name} trains it, but config.model.{part} is None")
        aed = from_dict(AuTDecoderConfig, config["aed"], "config.aed.")
        return aed_objective(module(sizes), AuTDecoder(aed), example, augment=stage.augment)
    return lm_objective(
        Thinker(model),
        example,
        router_balance=stage.router_balance,
        router_z=stage.router_z,
        augment=stage.augment,
    )


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that decides what is learned; fields it lacks have their defaults.

    Of an encoder's pretraining that is the encoder and its decoder alone: another Thinker starts
    from the same one.
    """
    whole = {name: value for name, value in config.items() if name not in OF_NO_CONSEQUENCE}
    parts = {
        "stage": Stage,
        "model": ThinkerConfig,
        "processor": ProcessorConfig,
        "aed": AuTDecoderConfig,
    }
    for name, cls in parts.items():
        try:
            whole[name] = to_dict(from_dict(cls, whole[name]))
        except (KeyError, TypeError, UserError):
            continue  # written by another version: shown as it is
    if whole["stage"].get("objective") == "aed":
        part = "aut" if whole["stage"].get("audio_chunks") else "vision"
        whole["model"] = {part: whole.get("model", {}).get(part)}
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
        part = MODEL_PART.get(prefix.split("/")[0])
        ours, theirs = config["model"], saved["model"]
        if part is not None:
            ours, theirs = {part: ours[part]}, {part: theirs[part]}
        lines = [
            line
            for line in differing_fields(json.loads(json.dumps(theirs)), ours, "model")
            if not line.split(":")[0].endswith(HOW_COMPUTED)
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


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as a run keeps it: plain values, the tokenizer's ids, the corpus' version."""
    config = json.loads(json.dumps(to_dict(config)))
    stage = from_dict(Stage, config["stage"], "config.stage.")
    model = resolve_model(config["model"], open_tokenizer(config["tokenizer"]))
    config["model"] = json.loads(json.dumps(to_dict(model)))
    if any(name.split("/")[0] in ("omniworld", "omniworld_live") for name, _ in stage.weights()):
        config["corpus"] = f"omniworld {OmniWorld.VERSION}"
    return config


def is_finished(workdir: Path, config: Mapping[str, Any]) -> bool:
    """Whether a stage's last step has its checkpoint; raises if it is another recipe's."""
    folder = workdir / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdigit()] if folder.is_dir() else []
    if not steps:
        return False
    config = resolve(config)
    saved = json.loads((workdir / "config.json").read_text())
    check_same_config(comparable(saved), comparable(config), workdir)
    return max(steps) >= config["stage"]["steps"]


def run_stage(config: Mapping[str, Any], workdir: Path, find: Callable[[str], Path]) -> Result:
    """Trains one stage in `workdir`; `find` gives the workdir of a stage by its name."""
    config = resolve(config)
    stage = from_dict(Stage, config["stage"], "config.stage.")
    run = from_dict(RunConfig, config["run"], "config.run.")
    processor = from_dict(ProcessorConfig, config["processor"], "config.processor.")
    tokenizer = open_tokenizer(config["tokenizer"])
    model = from_dict(ThinkerConfig, config["model"])
    check_media(model, processor)
    mesh = make_mesh(**config["mesh"])
    check_rows(stage, mesh)
    make = functools.partial(make_pipeline, tokenizer=tokenizer, processor=processor)
    data = make(
        pipeline_config(stage, run, "train"),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    if run.eval_split and run.eval_batches:  # a split that is missing is said now, not at the end
        names = [name for name, _ in stage.weights()]
        open_sources(names, split=run.eval_split, data_dir=run.data_dir or None)
    fresh = data.get_state()
    example = next(data)
    data.set_state(fresh)
    kept: list[Any] = []

    def eval_batches() -> Iterator[Any]:
        if not kept and run.eval_batches:
            held_out = make(pipeline_config(stage, run, run.eval_split))
            kept.extend(batch for batch, _ in zip(held_out, range(run.eval_batches), strict=False))
            held_out.close()
        return iter(kept)

    def start() -> Params | None:
        return starting_params(stage, config, find)

    objective = build_objective(config, stage, tokenizer, example)
    try:
        return fit(
            stage,
            objective,
            data,
            workdir=workdir,
            config=config,
            compare=comparable,
            run=run,
            mesh=mesh,
            start=start,
            eval_data=eval_batches if run.eval_split else None,
        )
    finally:
        data.close()
