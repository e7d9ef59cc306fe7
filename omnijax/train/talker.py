"""Stages of the Talker: stored codec frames in, frames, residuals and ends predicted."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from omnijax.data import Pipeline
from omnijax.data.codes import made_by
from omnijax.data.talker import TalkerDataConfig, TalkerDraws, make_talker_pipeline, thinker_of
from omnijax.errors import UserError
from omnijax.generate.speech import SpeechConfig
from omnijax.models.talker import Talker, TalkerConfig
from omnijax.train.kinds import Config, Kind, check_unused, open_tokenizer
from omnijax.train.objectives.talker import talker_objective
from omnijax.train.processes import ALONE, Share
from omnijax.train.stages import RunConfig, Stage, from_dict, to_dict
from omnijax.train.state import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalkerTraining(TalkerDraws):
    """What a Talker's stage has beside its Talker: what is drawn, and how losses are weighed."""

    codes: str = ""  # where a mixture's codes lie that are named without a folder; ./NAME has one
    residual_weight: float = 1.0
    mtp_frames: int = 128  # of a row, drawn anew at each step; 0: all
    frame_noise: float = 0.0  # share of the frames said so far that others take the place of

    def __post_init__(self):
        super().__post_init__()
        for field in ("residual_weight", "mtp_frames"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} is {getattr(self, field)}, it must not be negative")
        if not 0 <= self.frame_noise < 1:
            raise UserError(f"frame_noise is {self.frame_noise}, it must be in [0, 1)")


def resolve(config: Config) -> dict[str, Any]:
    """Defaults and the mixture's folders written out, how the Talker is to speak ("speech") among
    them, the mark of the codec whose codes these are ("codec"), and where contexts are read, whose
    stream they hold ("thinker"); the text table must hold the tokenizer's ids."""
    stage = from_dict(Stage, config["stage"], "config.stage.")
    check_unused(stage, "audio_chunks", "patches")
    talker = from_dict(TalkerConfig, config["talker"], "config.talker.")
    training = from_dict(TalkerTraining, config["training"], "config.training.")
    tokenizer = open_tokenizer(config["tokenizer"])
    if tokenizer.vocab_size > talker.text_vocab_size:
        raise UserError(
            f"config.talker.text_vocab_size is {talker.text_vocab_size}, the tokenizer has "
            f"{tokenizer.vocab_size} tokens"
        )
    stage.weights()  # are numbers
    mixture = tuple(codes_in(training.codes, entry) for entry in stage.mixture)
    for entry, found in zip(stage.mixture, mixture, strict=True):
        folder = found.rpartition("=")[0].removeprefix("codes:")
        if found != entry and not Path(folder).is_dir():
            raise UserError(
                f"no codes at {folder}: experiments/talker.py codes makes them, of --task, in "
                f"--out. The mixture's {entry} is looked for where config.training.codes says; "
                f"{entry.replace('codes:', 'codes:./', 1)} would be a folder here"
            )
    stage = dataclasses.replace(stage, mixture=mixture)
    training = dataclasses.replace(training, codes="")  # The mixture has it now.
    folders = code_folders(stage)
    made = {name: made_by(folder) for name, folder in folders.items()}
    split = from_dict(RunConfig, config.get("run", {}), "config.run.").eval_split
    for name, folder in folders.items():
        # One that is missing is told of by whoever opens it.
        if (folder / f"{split}.npz").is_file() and made_by(folder, split) != made[name]:
            raise UserError(
                f"{folder} has a train split by (codec, Thinker) {made[name]} and a {split} split "
                f"by {made_by(folder, split)}: make them again"
            )
    marks = {name: codec for name, (codec, _) in made.items()}
    if len(set(marks.values())) > 1:
        raise UserError(f"config.stage.mixture has codes of several codecs: {marks}")
    thinkers = {name: thinker for name, (_, thinker) in made.items()}
    speech = from_dict(SpeechConfig, config.get("speech", {}), "config.speech.")
    if speech.context and not training.contexts:
        raise UserError(
            "config.speech.context is set, but config.training.contexts is 0: it would read what "
            "it has not learned to"
        )
    parts = {
        "stage": {**config["stage"], "mixture": to_dict(stage)["mixture"]},
        "talker": to_dict(talker),
        "training": to_dict(training),
        "codec": min(marks.values()),
        "thinker": thinker_of(thinkers, talker) if training.contexts else None,
        "speech": to_dict(speech),
    }
    return {**config, **json.loads(json.dumps(parts))}


def codes_in(folder: str, entry: str) -> str:
    """A mixture's "codes:NAME=SHARE" as "codes:FOLDER/NAME=SHARE"; a name that has a folder, such
    as ./NAME, stays as it is."""
    name, _, share = entry.rpartition("=")
    kind, _, where = name.partition(":")
    if not folder or kind != "codes" or not where or "/" in where or os.sep in where:
        return entry
    return f"codes:{os.path.join(folder, where)}={share}"


def code_folders(stage: Stage) -> dict[str, Path]:
    """The folders of codes that a stage's mixture names."""
    folders = {}
    for name, _ in stage.weights():
        kind, _, folder = name.partition(":")
        if kind != "codes" or not folder:
            raise UserError(f"the Talker trains on codes:FOLDER, the mixture names {name!r}")
        folders[name] = Path(folder)
    return folders


def data(
    config: Config, stage: Stage, run: RunConfig, split: str, share: Share = ALONE
) -> Pipeline:
    """Packed rows of a split's speech, this process's share of them."""
    training = from_dict(TalkerTraining, config["training"], "config.training.")
    draws = {f.name: getattr(training, f.name) for f in dataclasses.fields(TalkerDraws)}
    return make_talker_pipeline(
        TalkerDataConfig(
            mixture=stage.weights(),
            split=split,
            batch_size=stage.batch,
            max_tokens=stage.tokens,
            seed=stage.seed,
            shuffle=split == "train",
            threads=run.reading_threads,
            **draws,
        ),
        talker=from_dict(TalkerConfig, config["talker"], "config.talker."),
        tokenizer=open_tokenizer(config["tokenizer"]),
        process_index=share.index,
        process_count=share.count,
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
        frame_noise=training.frame_noise,
        router_balance=stage.router_balance,
        router_z=stage.router_z,
    )


TALKER = Kind(
    sections={"talker": TalkerConfig, "training": TalkerTraining},
    resolve=resolve,
    data=data,
    objective=objective,
)
