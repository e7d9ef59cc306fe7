"""Stages on chats: the Thinker (lm), and an encoder in an attention encoder-decoder (aed)."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from omnijax.data import Pipeline, PipelineConfig, make_pipeline
from omnijax.errors import UserError
from omnijax.media.processor import ProcessorConfig
from omnijax.models.aut import AuT, AuTDecoder, AuTDecoderConfig
from omnijax.models.thinker import Thinker, ThinkerConfig, check_media
from omnijax.models.vision import VisionEncoder
from omnijax.text.tokenizer import Tokenizer
from omnijax.train.kinds import Config, Kind, check_default, memory_gb, open_tokenizer
from omnijax.train.objectives.aed import aed_objective
from omnijax.train.objectives.lm import lm_objective
from omnijax.train.processes import ALONE, Share
from omnijax.train.stages import RunConfig, Stage, from_dict, to_dict
from omnijax.train.state import Objective


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


def resolve(config: Config) -> dict[str, Any]:
    """The config with the tokenizer's ids in the model's.

    Raises:
      UserError: they do not fit; a field is set that such a stage does not read.
    """
    stage = from_dict(Stage, config["stage"], "config.stage.")
    if stage.objective == "aed":
        check_default(stage, "loss_weighting", "router_balance", "router_z")
    if stage.objective == "aed" and not stage.audio_chunks:
        for name, given in (
            ("window_chunks", stage.window_chunks),
            ("augment", stage.augment.active),
        ):
            if given:
                raise UserError(
                    f"config.stage.{name} is of sound, stage {stage.name} trains on pictures alone"
                )
    model = resolve_model(config["model"], open_tokenizer(config["tokenizer"]))
    processor = from_dict(ProcessorConfig, config["processor"], "config.processor.")
    check_media(model, processor)
    return {**config, "model": json.loads(json.dumps(to_dict(model)))}


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
        threads=run.reading_threads,
        shuffle=split == "train",
    )


def data(
    config: Config, stage: Stage, run: RunConfig, split: str, share: Share = ALONE
) -> Pipeline:
    """Batches of a split, this process's share of their rows."""
    return make_pipeline(
        pipeline_config(stage, run, split),
        tokenizer=open_tokenizer(config["tokenizer"]),
        processor=from_dict(ProcessorConfig, config["processor"], "config.processor."),
        process_index=share.index,
        process_count=share.count,
    )


def objective(config: Config, stage: Stage, example: Any) -> Objective:
    """The objective of a stage with its modules; `example` is a batch, for its shapes."""
    model = from_dict(ThinkerConfig, config["model"], "config.model.")
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


CHAT = Kind(
    sections={
        "model": ThinkerConfig,
        "processor": ProcessorConfig,
        "aed": AuTDecoderConfig,
    },
    resolve=resolve,
    data=data,
    objective=objective,
)
