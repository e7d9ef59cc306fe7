"""A trained model with all that it takes to talk to it, from a folder of weights or a run.

nano = load("nano")
session = Session(nano.generator(), nano.tokenizer, nano.processor)
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.data.codes import (
    UNREADABLE,
    CodesSource,
    ThinkerStream,
    Utterance,
    check_codec,
    fingerprint,
)
from omnijax.errors import UserError
from omnijax.files import whole
from omnijax.generate.sampling import SamplingConfig
from omnijax.generate.speaker import Speaker, StoredVoice
from omnijax.generate.speech import SpeechConfig
from omnijax.generate.text import TextGenerator
from omnijax.media import ProcessorConfig
from omnijax.models.talker import Talker, TalkerConfig
from omnijax.models.thinker import Thinker, ThinkerConfig, check_media, text_inputs
from omnijax.sharding import flatten
from omnijax.text.tokenizer import Tokenizer
from omnijax.train.checkpoint import load_weights, read_params, save_weights
from omnijax.train.codec import load_codec
from omnijax.train.kinds import open_tokenizer, weights_folder
from omnijax.train.recode import counted_together, recode
from omnijax.train.stages import Stage, from_dict, to_dict
from omnijax.train.talker import code_folders

EXPORTED = ("name", "talker", "training", "stage", "codec")  # of a Talker's config
TOKENIZER, VOICES = "tokenizer.json", "voices.npz"


class Loaded(NamedTuple):
    """A Thinker with what it takes to talk to it."""

    model: Thinker
    params: Any
    tokenizer: Tokenizer
    processor: ProcessorConfig
    config: dict[str, Any]

    def generator(
        self, sampling: SamplingConfig | None = None, max_len: int = 1024
    ) -> TextGenerator:
        """Answers end at <|im_end|>."""
        stops = (self.tokenizer.special("im_end"), self.tokenizer.special("endoftext"))
        return TextGenerator(
            self.model, self.params, stop_ids=stops, sampling=sampling, max_len=max_len
        )


def load(weights: str) -> Loaded:
    """``weights``: "nano" (the shipped ones), a folder of weights, or a training run's folder."""
    directory = weights_folder(weights)
    if not directory.is_dir():
        raise UserError(f"no weights at {weights!r}: give nano, a folder of weights, or a run")
    params, config = load_weights(directory)
    for name in ("model", "processor", "tokenizer"):
        if name not in config:
            raise UserError(f"the config in {directory} has no {name}")
    model = from_dict(ThinkerConfig, config["model"], "config.model.")
    decoder = dataclasses.replace(model.decoder, remat="none")
    processor = from_dict(ProcessorConfig, config["processor"], "config.processor.")
    check_media(model, processor)
    thinker = Thinker(dataclasses.replace(model, decoder=decoder))
    check_params(thinker, params, directory)
    own = directory / TOKENIZER
    tokenizer = open_tokenizer(str(own) if own.is_file() else config["tokenizer"])
    return Loaded(thinker, params, tokenizer, processor, config)


def check_params(model: Thinker, params: Any, where: Path) -> None:
    """Raises where the parameters are not those of the model, and names one that differs."""
    prompt = text_inputs(jnp.zeros((1, 1), jnp.int32))
    needed = jax.eval_shape(lambda: model.init(jax.random.key(0), prompt)["params"])
    needed = {path: leaf.shape for path, leaf in flatten(needed).items()}
    given = {path: leaf.shape for path, leaf in flatten(params).items()}
    for path in sorted({*needed, *given}):
        if needed.get(path) != given.get(path):
            raise UserError(
                f"the weights in {where} are not of the model in its config: {path} is "
                f"{given.get(path, 'missing')}, the model's is {needed.get(path, 'nothing')}"
            )


def export(run: Path, directory: Path) -> Path:
    """The last checkpoint of a run as a small folder that needs nothing else.

    Returns the file of the weights; config and tokenizer lie beside it.
    """
    params, config = read_params(run / "checkpoints")
    tokenizer = open_tokenizer(config["tokenizer"])
    kept = {name: config[name] for name in ("name", "tokenizer", "model", "processor", "stage")}
    file = save_weights(directory, params, json.loads(json.dumps(kept)))
    tokenizer.save(directory / TOKENIZER)
    return file


def has_voice(weights: str) -> bool:
    """Whether a Talker and a codec lie beside a Thinker's weights."""
    directory = weights_folder(weights)
    return all((directory / part / "config.json").is_file() for part in ("talker", "codec"))


def load_speaker(
    weights: str = "nano", speech: SpeechConfig | None = None, max_len: int = 1024
) -> Speaker:
    """The voice beside a Thinker: ``weights`` is "nano" or a folder with "talker" and "codec".

    speech: how it speaks; None: as its recipe says.
    max_len: positions of an answer: voice, user's turn where it reads that, text and frames.
    """
    directory = weights_folder(weights)
    if not has_voice(weights):
        raise UserError(
            f"no voice beside the weights {weights!r}: {directory} lacks talker/ or codec/, which "
            "`make nano` trains"
        )
    params, config = load_weights(directory / "talker")
    for name in ("talker", "codec", "pace"):
        if name not in config:
            raise UserError(f"the config in {directory / 'talker'} has no {name}")
    if not isinstance(config["pace"], dict):
        raise UserError(
            f"the config in {directory / 'talker'} has pace {config['pace']}, it must be of each "
            "language: export the Talker's run again"
        )
    codec, codec_params = load_codec(directory / "codec")
    mark = fingerprint(codec_params["quantiser"]["codebooks"])
    if config["codec"] != mark:
        raise UserError(
            f"the Talker in {directory} speaks codes of codec {config['codec']}, beside it lies "
            f"{mark}"
        )
    talker = from_dict(TalkerConfig, config["talker"], "config.talker.")
    speech = speech or from_dict(SpeechConfig, config.get("speech", {}), "config.speech.")
    own = directory / "talker" / TOKENIZER
    tokenizer = open_tokenizer(str(own if own.is_file() else directory / TOKENIZER))
    try:
        with np.load(directory / "talker" / VOICES) as file:
            rows = json.loads(file["meta"].tobytes())
            voices = [StoredVoice(name, words, file[name].astype(np.int32)) for name, words in rows]
    except UNREADABLE as error:
        raise UserError(f"no readable voices in {directory / 'talker'}: {error}") from None
    thinker = ThinkerStream(*config["thinker"]) if config.get("thinker") else None
    return Speaker(
        Talker(talker), params, codec, codec_params, tokenizer, voices, speech,
        max_len=max_len, pace=config["pace"], thinker=thinker,
    )  # fmt: skip


def export_talker(run: Path, directory: Path, speech: SpeechConfig | None = None) -> Path:
    """A run's last checkpoint and a stored utterance of each voice, as a small folder.

    The voices are those of the codes that the run was trained on, from their validation split.
    speech: how they are to speak; None: as the run's config says.
    """
    params, config = read_params(run / "checkpoints")
    for name in EXPORTED:
        if name not in config:
            raise UserError(f"the run {run} is no Talker's, or of an older version: no {name}")
    stage = from_dict(Stage, config["stage"], "config.stage.")
    source = CodesSource(next(iter(code_folders(stage).values())), "validation")
    if source.codec != config["codec"]:
        raise UserError(
            f"{run} was trained on codes of codec {config['codec']}, there are now {source.codec}'s"
        )
    if speech is not None and speech.context and not config.get("thinker"):
        raise UserError(f"speech.context is set, but {run} has learned to read no Thinker's stream")
    kept = {name: config[name] for name in EXPORTED}
    tokenizer = open_tokenizer(config["tokenizer"])
    kept["speech"] = to_dict(speech) if speech else config.get("speech", {})
    kept["thinker"] = config.get("thinker")
    said = (source[place] for place in range(len(source)))
    kept |= {"tokenizer": TOKENIZER, "pace": paces(said, tokenizer)}
    file = save_weights(directory, params, json.loads(json.dumps(kept)))
    tokenizer.save(directory / TOKENIZER)
    beside = directory.parent / TOKENIZER
    if beside.is_file() and beside.read_bytes() == (directory / TOKENIZER).read_bytes():
        (directory / TOKENIZER).unlink()  # the Thinker's is the same
    voices = stored_voices(source, config["training"]["reference_frames"][1])
    rows = [(voice.name, voice.description) for voice in voices]
    frames = {voice.name: voice.codes.astype(np.int16) for voice in voices}
    meta = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    with whole(directory / VOICES) as partial:
        np.savez_compressed(partial, meta=meta, **frames)
    return file


def recode_weights(talker: Path, old: Path, new: Path, directory: Path) -> tuple[int, int]:
    """Writes an exported Talker's weights as they begin on another codec's codes.

    They begin a stage (`starts_from`); a voice they are not, for nothing says how they sound.

    Args:
      talker: a folder that `export_talker` wrote.
      old, new: folders of codes, of the codec whose codes it speaks and of the other, whose train
        splits are counted.
      directory: where they go; none in which a voice lies.

    Returns:
      The number of utterances counted, and of those that both folders have.
    """
    if (directory / VOICES).exists():
        raise UserError(f"{directory} has a voice: its {VOICES} would be of another codec's codes")
    params, config = load_weights(talker)
    if "talker" not in config or "codec" not in config:
        raise UserError(f"the weights in {talker} are no Talker's")
    before, now = CodesSource(old), CodesSource(new)
    for folder, source in ((old, before), (new, now)):
        check_codec(source, config["talker"], str(folder))
    if before.codec != config["codec"]:
        raise UserError(
            f"the Talker in {talker} speaks codes of codec {config['codec']}, those in {old} are "
            f"{before.codec}'s"
        )
    if now.codec == before.codec:
        raise UserError(f"the codes in {old} and {new} are of one codec, {now.codec}")
    if before.speech and now.speech and before.speech != now.speech:
        raise UserError(
            f"the codes in {old} are of speech {before.speech}, those in {new} of {now.speech}"
        )
    sizes = config["talker"]["codebooks"], config["talker"]["codebook_size"]
    counts, counted = counted_together(before, now, *sizes)
    save_weights(directory, recode(params, counts), config | {"codec": now.codec})
    return counted, min(len(before), len(now))


def paces(source: Iterable[Utterance], tokenizer: Tokenizer) -> dict[str, float]:
    """Frames a text token of each language, and of all ("")."""
    frames: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for one in source:
        for language in (one.language, ""):
            frames[language] += len(one.codes)
            tokens[language] += len(tokenizer.encode(one.text, literal=True))
    return {language: frames[language] / tokens[language] for language in sorted(frames)}


def stored_voices(source: CodesSource, longest: int) -> list[StoredVoice]:
    """Each voice by its longest utterance, up to what the Talker was shown in training."""
    voices = []
    for name in sorted({voice for voice, _ in source.by_voice}):
        said = [source[place] for place in source.of_voice(name)]
        most = max(said, key=lambda one: len(one.codes))
        voices.append(StoredVoice(name, most.description, most.codes[:longest]))
    return voices
