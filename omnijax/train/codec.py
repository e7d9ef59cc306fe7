"""Stages of the codec: crops of speech, an AuT as teacher, judges where the stage has them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from omnijax.data import Pipeline
from omnijax.data.crops import CropsConfig, make_crops_pipeline
from omnijax.errors import UserError
from omnijax.media.processor import ProcessorConfig
from omnijax.models.aut import AuT
from omnijax.models.codec import SAMPLE_RATE, Codec, CodecConfig
from omnijax.models.codec.discriminators import DiscriminatorConfig, Discriminators
from omnijax.models.thinker import ThinkerConfig
from omnijax.train.checkpoint import load_weights, read_params, save_weights
from omnijax.train.kinds import Config, Kind, check_unused, weights_folder
from omnijax.train.objectives.codec import PITCH, CodecLossConfig, check_losses, codec_objective
from omnijax.train.processes import ALONE, Share
from omnijax.train.stages import RunConfig, Stage, from_dict, to_dict
from omnijax.train.state import Objective, Params

ROWS = ("tokens", "audio_chunks", "patches")  # a crop has its own length


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecTraining:
    """What a codec's stage has beside its codec: crops, losses, teacher, judges."""

    frames: int = 20  # a crop
    # Codebook 0 learns to carry what an AuT makes of the crop: that of these weights; "": none.
    # Where a stage starts from another with a teacher, that one goes on; one of Code2Wav alone has
    # none.
    teacher: str = "weights:nano"
    decoded: bool = True  # False: the encoder and the codebooks alone
    encoded: bool = True  # False: Code2Wav alone, on codes that stay as they are
    judged: bool = False  # adversarial losses
    losses: CodecLossConfig = CodecLossConfig()
    judges: DiscriminatorConfig = DiscriminatorConfig()

    def __post_init__(self):
        if self.frames < 1:
            raise UserError(f"frames is {self.frames}, it must be at least 1")


def resolve(config: Config) -> dict[str, Any]:
    """Defaults, the teacher's weights and the pitch's head written out; a crop must be whole chunks
    for the teacher, and the losses such as the stage can learn from."""
    given = from_dict(Stage, config["stage"], "config.stage.")
    check_unused(given, *ROWS, "router_balance", "router_z")
    codec = from_dict(CodecConfig, config["codec"], "config.codec.")
    training = from_dict(CodecTraining, config["training"], "config.training.")
    processor = from_dict(ProcessorConfig, config["processor"], "config.processor.")
    if not training.encoded:
        training = dataclasses.replace(training, teacher="")
    check_losses(
        training.losses,
        encoded=training.encoded,
        decoded=training.decoded,
        judged=training.judged,
        taught=bool(training.teacher),
    )
    if training.teacher:
        seconds = training.frames * codec.samples_per_frame / SAMPLE_RATE
        hop = processor.mel.hop / processor.sample_rate
        chunks = seconds / (hop * processor.audio_chunk_frames)
        if abs(chunks - round(chunks)) > 1e-6 or chunks < 1:
            raise UserError(
                f"config.training.frames is {training.frames}: {seconds:g} s are {chunks:g} of the "
                "teacher's chunks, they must be whole ones"
            )
    stage = dict(config["stage"])
    if training.teacher and all(prefix != "audio" for prefix, _ in given.sources()):
        stage["starts_from"] = [f"audio={training.teacher}", *given.starts_from]  # later ones win
    if training.losses.pitch and PITCH not in given.trains:
        trains = dataclasses.replace(given, trains=(*given.trains, PITCH))
        stage["trains"] = to_dict(trains)["trains"]
    parts = {"codec": to_dict(codec), "training": to_dict(training), "stage": stage}
    return {**config, **json.loads(json.dumps(parts))}


def data(
    config: Config, stage: Stage, run: RunConfig, split: str, share: Share = ALONE
) -> Pipeline:
    """Crops of a split's speech, this process's share of them."""
    codec = from_dict(CodecConfig, config["codec"], "config.codec.")
    training = from_dict(CodecTraining, config["training"], "config.training.")
    crops = CropsConfig(
        mixture=stage.weights(),
        split=split,
        data_dir=run.data_dir or None,
        batch_size=stage.batch,
        samples=training.frames * codec.samples_per_frame,
        heard=bool(training.teacher),
        seed=stage.seed,
        shuffle=split == "train",
        threads=run.reading_threads,
    )
    processor = from_dict(ProcessorConfig, config["processor"], "config.processor.")
    return make_crops_pipeline(
        crops, processor=processor, process_index=share.index, process_count=share.count
    )


def objective(config: Config, stage: Stage, example: Any) -> Objective:
    """The codec's objective, its teacher the "audio" part of the config's model."""
    training = from_dict(CodecTraining, config["training"], "config.training.")
    model = from_dict(ThinkerConfig, config["model"], "config.model.")
    if training.teacher and model.aut is None:
        raise UserError("config.training.teacher is given, but config.model.aut is None")
    return codec_objective(
        Codec(from_dict(CodecConfig, config["codec"], "config.codec.")),
        example,
        training.losses,
        judges=Discriminators(training.judges) if training.judged else None,
        teacher=AuT(model.aut) if training.teacher else None,
        decoded=training.decoded,
        encoded=training.encoded,
    )


CODEC = Kind(
    sections={
        "codec": CodecConfig,
        "training": CodecTraining,
        "model": ThinkerConfig,
        "processor": ProcessorConfig,
    },
    resolve=resolve,
    data=data,
    objective=objective,
)


def load_codec(weights: str | Path) -> tuple[Codec, Params]:
    """A codec and its parameters: "nano" (the shipped one), an exported folder, or a run."""
    directory = weights_folder("nano/codec" if str(weights) == "nano" else f"{weights}")
    if not directory.is_dir():
        raise UserError(f"no codec at {str(weights)!r}: give a folder of weights, or a run")
    params, config = load_weights(directory)
    for name, where in (("config", config), ("weights", params)):
        if not isinstance(where.get("codec"), dict):
            raise UserError(f"the {name} in {directory} have no codec")
    return Codec(from_dict(CodecConfig, config["codec"], "config.codec.")), params["codec"]


def export_codec(run: Path, directory: Path) -> Path:
    """The codec of a run alone, without judges and teacher; returns the weights' file."""
    params, config = read_params(run / "checkpoints")
    if "codec" not in params:
        raise UserError(f"the run {run} is no codec's")
    fields = ("name", "codec", "training", "stage", "corpus")
    kept = {name: config[name] for name in fields if name in config}
    return save_weights(directory, {"codec": params["codec"]}, json.loads(json.dumps(kept)))
