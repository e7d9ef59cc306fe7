"""Stages of the Talker: stored codec frames in, frames, residuals and ends predicted."""

import dataclasses
import json
from typing import Any

from omnijax.data import Pipeline
from omnijax.data.talker import TalkerDataConfig, make_talker_pipeline
from omnijax.errors import UserError
from omnijax.models.talker import Talker, TalkerConfig
from omnijax.train.kinds import Config, Kind, open_tokenizer
from omnijax.train.objectives.talker import talker_objective
from omnijax.train.stages import RunConfig, Stage, from_dict, to_dict
from omnijax.train.state import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalkerTraining:
    """What a Talker's stage has beside its Talker: what is drawn, and how losses are weighed."""

    schedules: tuple[str, ...] = ("random=0.5", "chunked=0.4", "earliest=0.1")
    described: float = 0.7
    shown: float = 0.7
    reference_frames: tuple[int, ...] = (10, 30)
    joined: tuple[float, ...] = (0.6, 0.25, 0.15)
    named_language: float = 0.8
    asks: bool = False
    residual_weight: float = 1.0
    mtp_frames: int = 128  # of a row, drawn anew at each step; 0: all


def resolve(config: Config) -> dict[str, Any]:
    """Defaults written out; the Talker's text table must hold the tokenizer's ids."""
    talker = from_dict(TalkerConfig, config["talker"], "config.talker.")
    training = from_dict(TalkerTraining, config["training"], "config.training.")
    tokenizer = open_tokenizer(config["tokenizer"])
    if tokenizer.vocab_size > talker.text_vocab_size:
        raise UserError(
            f"config.talker.text_vocab_size is {talker.text_vocab_size}, the tokenizer has "
            f"{tokenizer.vocab_size} tokens"
        )
    parts = {"talker": to_dict(talker), "training": to_dict(training)}
    return {**config, **json.loads(json.dumps(parts))}


def data(config: Config, stage: Stage, run: RunConfig, split: str) -> Pipeline:
    """Packed rows of a split's speech."""
    training = from_dict(TalkerTraining, config["training"], "config.training.")
    drawn = {
        field.name: getattr(training, field.name)
        for field in dataclasses.fields(training)
        if field.name not in ("residual_weight", "mtp_frames")
    }
    return make_talker_pipeline(
        TalkerDataConfig(
            mixture=stage.weights(),
            split=split,
            batch_size=stage.batch,
            max_tokens=stage.tokens,
            seed=stage.seed,
            shuffle=split == "train",
            threads=run.threads,
            **drawn,
        ),
        talker=from_dict(TalkerConfig, config["talker"], "config.talker."),
        tokenizer=open_tokenizer(config["tokenizer"]),
    )


def objective(config: Config, stage: Stage, example: Any) -> Objective:
    """Frames, residuals, ends and, where they are learned, requests."""
    training = from_dict(TalkerTraining, config["training"], "config.training.")
    return talker_objective(
        Talker(from_dict(TalkerConfig, config["talker"], "config.talker.")),
        example,
        residual_weight=training.residual_weight,
        mtp_frames=training.mtp_frames or None,
        asks=training.asks,
        router_balance=stage.router_balance,
        router_z=stage.router_z,
    )


TALKER = Kind(
    sections={"talker": TalkerConfig, "training": TalkerTraining},
    resolve=resolve,
    data=data,
    objective=objective,
)
