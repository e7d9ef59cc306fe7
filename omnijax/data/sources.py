"""Where examples come from: a folder of media and jsonl, any TFDS name, OmniWorld.

A source is random access: ``len(source)`` and ``source[i] -> {"chat", "task", "meta", "where"}``,
always the same example for the same ``i``. ``where`` is how an error message names the example.
"""

import functools
import importlib.util
import json
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from omnijax.data.codes import CodesSource
from omnijax.errors import UserError
from omnijax.media.audio import Audio
from omnijax.text.chat import ROLES
from omnijax.text.content import MEDIA, is_address, plain_items

NO_EVALUATION = "--config.run.eval_split= turns evaluation off"


@runtime_checkable
class Source(Protocol):
    """Random access to examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def check_chat(chat: Any, where: str) -> dict:
    """The chat with its content items under plain names, or an error that says what it lacks."""
    if not isinstance(chat, Mapping) or not isinstance(chat.get("messages"), Sequence):
        raise UserError(f'{where}: a chat is an object with a list "messages"')
    if not chat["messages"]:
        raise UserError(f"{where}: the chat has no messages")
    messages = []
    for n, message in enumerate(chat["messages"]):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise UserError(f"{where}: role of message {n} is {role!r}, known are {ROLES}")
        content = message.get("content")
        if not isinstance(content, str):
            try:
                content = plain_items(content)
            except UserError as error:
                raise UserError(f"{where}: message {n}: {error}") from None
        for item in _media_of(content):
            if item[item["type"]] is None:
                raise UserError(f"{where}: an item of message {n} lacks {item['type']!r}")
        messages.append({**message, "content": content})
    return {**chat, "messages": messages}


def _media_of(content: Any) -> Iterator[dict[str, Any]]:
    """The media among plain items, those in tool results too."""
    for item in [] if isinstance(content, str) else content:
        if item["type"] in MEDIA:
            yield item
        elif item["type"] == "tool_result":
            yield from _media_of(item.get("content", item.get("tool_result")))


class FolderSource:
    """A folder with ``*.jsonl`` files, one chat a line; media paths are relative to the folder.

    A split is ``SPLIT/*.jsonl`` in the folder; "train" may lie in the folder itself instead. Paths
    are relative to the folder in every split, so that a line can move from one to another.

    A line is a chat, or an object with "chat" and optionally "task" and "meta". Every line is
    checked at once, so a missing file is found now and not hours later; it is named with its line.
    """

    def __init__(self, folder: str | os.PathLike, split: str = "train"):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"data folder {folder} does not exist or is not a folder")
        files = self._files(split)
        self._lines: list[tuple[Path, int, int]] = []  # file, line number, byte offset
        for file in files:
            offset = 0
            with open(file, "rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        self._parse(line, f"{file}, line {number}")
                        self._lines.append((file, number, offset))
                    offset += len(line)
        if not self._lines:
            raise UserError(f"data folder {folder} has no examples: its .jsonl files are empty")

    def _files(self, split: str) -> list[Path]:
        own = sorted((self.folder / split).glob("*.jsonl"))
        top = sorted(self.folder.glob("*.jsonl"))
        if split != "train":
            if not own:
                raise UserError(
                    f"data folder {self.folder} has no split {split!r}: put .jsonl files into "
                    f"{self.folder / split}, or {NO_EVALUATION}"
                )
            return own
        if own and top:
            raise UserError(
                f"data folder {self.folder} has .jsonl files of the split 'train' in two places: "
                f"{top[0]} and {own[0]}; leave one"
            )
        if not own and not top:
            raise UserError(f"data folder {self.folder} has no .jsonl file")
        return own or top

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, number, offset = self._lines[index]
        with open(file, "rb") as lines:
            lines.seek(offset)
            return self._parse(lines.readline(), f"{file}, line {number}")

    def _parse(self, line: bytes, where: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: a line must be a JSON object, not {type(record).__name__}")
        chat = check_chat(record.get("chat", record), where)
        for message in chat["messages"]:
            for item in _media_of(message["content"]):
                item[item["type"]] = self._existing(item[item["type"]], where)
        task, meta = record.get("task", "chat"), record.get("meta", {})
        if not isinstance(task, str):
            raise UserError(f'{where}: "task" is a string, not {type(task).__name__}')
        if not isinstance(meta, dict):
            raise UserError(f'{where}: "meta" is an object, not {type(meta).__name__}')
        return {"chat": chat, "task": task, "meta": meta, "where": where}

    def _existing(self, name: Any, where: str) -> str:
        if not isinstance(name, str):
            raise UserError(f"{where}: a medium is given by its path, not {type(name).__name__}")
        if is_address(name):
            return name
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{where}: file {path} does not exist")
        return str(path)


AUDIO_FIELDS = ("audio", "speech")
TEXT_FIELDS = ("transcription", "transcript", "text", "sentence", "raw_transcription")


def speech_to_chat(record: Mapping[str, Any], sample_rate: int, prompt: str) -> dict[str, Any]:
    """An {audio, text} record of LibriSpeech, FLEURS and their like as a transcription chat."""
    audio = next((record[name] for name in AUDIO_FIELDS if name in record), None)
    text = next((record[name] for name in TEXT_FIELDS if name in record), None)
    if audio is None or text is None:
        raise UserError(
            f"a speech record needs one of {AUDIO_FIELDS} and one of {TEXT_FIELDS}, "
            f"this one has {sorted(record)}; give to_chat= for other features"
        )
    samples = np.asarray(audio)
    if np.issubdtype(samples.dtype, np.integer):  # TFDS keeps 16-bit samples in int64
        samples = samples / 32768.0
    text = text.decode() if isinstance(text, bytes) else str(text)
    clip = Audio(samples.astype(np.float32), sample_rate)
    question = [{"type": "audio", "audio": clip}, {"type": "text", "text": prompt}]
    return {
        "chat": {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": text},
            ]
        },
        "task": "transcribe",
        "meta": {"transcript": text},
    }


def import_tfds() -> Any:
    """tensorflow_datasets, whose Audio feature otherwise asks TensorFlow for the name of a dtype.

    Reading, and preparing from arrays, then need no TensorFlow; preparing most public sets does.
    """
    import tensorflow_datasets as tfds  # slow to import, and only needed here

    if importlib.util.find_spec("tensorflow") is None:
        from tensorflow_datasets.core.features import audio_feature

        audio_feature.tf = types.SimpleNamespace(dtypes=types.SimpleNamespace(as_dtype=np.dtype))
    return tfds


class TfdsSource:
    """A public dataset by its TFDS name, read as `tfds.data_source` does, without TensorFlow.

    ``to_chat(record) -> {"chat", ...}`` maps its features; without it the features must be speech
    and transcript. The dataset must have been prepared in ArrayRecord (``file_format=
    "array_record"``); ``download=True`` prepares it where the dataset's own code can.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        *,
        data_dir: str | None = None,
        to_chat: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
        download: bool = False,
        prompt: str = "Transcribe the speech.",
    ):
        tfds = import_tfds()
        self.name = f"tfds:{name}:{split}"
        try:
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"TFDS knows no dataset {name!r}: {reason}") from None
        if split.split("[")[0] not in builder.info.splits and builder.info.splits:
            raise UserError(f"{name} has no split {split!r}, it has {sorted(builder.info.splits)}")
        if download:
            builder.download_and_prepare()
        if not builder.info.splits:
            raise UserError(
                f"{name} is not prepared under {builder.data_path}: prepare it with "
                '`tfds build --file_format=array_record` (pip install "tensorflow-cpu")'
            )
        self._records = builder.as_data_source(split=split)
        features = builder.info.features
        audio = next((features[f] for f in AUDIO_FIELDS if f in features), None)
        rate = getattr(audio, "sample_rate", None)
        if to_chat is None and rate is None:
            raise UserError(
                f"{name} has no audio feature with a sample rate, so no speech to write down: give "
                "TfdsSource a to_chat that makes chats of its records"
            )
        self._to_chat = to_chat or (lambda record: speech_to_chat(record, rate, prompt))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        where = f"{self.name}[{index}]"
        example = self._to_chat(self._records[index])
        chat = check_chat(example["chat"], where)
        return {"task": "chat", "meta": {}, "where": where, **example, "chat": chat}


class TaskSource:
    """The examples of one or more tasks of another source, in its order.

    The source may know its tasks without reading the examples: an attribute ``tasks``.
    """

    def __init__(self, source: Source, tasks: Sequence[str]):
        task_of = getattr(source, "tasks", None)
        if task_of is None:
            task_of = [source[i]["task"] for i in range(len(source))]
        unknown = sorted(set(tasks) - set(task_of))
        if unknown:
            raise UserError(f"no examples of task {unknown}, there are {sorted(set(task_of))}")
        self._source = source
        self._indices = [i for i, task in enumerate(task_of) if task in tasks]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[self._indices[index]]


def open_sources(
    specs: Sequence[str], *, split: str = "train", data_dir: str | None = None
) -> dict[str, Source]:
    """Sources by their names in a mixture; what they share is opened once.

    ``omniworld[/TASK[+TASK]]`` · ``omniworld_live[/TASK[+TASK]]`` · ``folder:PATH`` ·
    ``tfds:NAME[:SPLIT]`` · ``codes:PATH`` (speech as a codec's frames, for the Talker)

    ``omniworld_live`` makes examples as they are read, in training of as many as `LIVE_TRAIN` says.

    A SPLIT of its own is what a source trains on; it is never read in place of another `split`.
    """

    @functools.cache
    def stored() -> Source:
        from omnijax.data import omniworld  # builds a corpus, so only on demand

        return omniworld.load(split, data_dir=data_dir)

    opened: dict[str, Source] = {}
    for spec in specs:
        kind, _, rest = spec.partition(":")
        family, _, tasks = kind.partition("/")
        if kind == "folder" and rest:
            opened[spec] = FolderSource(rest, split)
        elif kind == "codes" and rest:
            opened[spec] = CodesSource(rest, split)
        elif kind == "tfds" and rest:
            name, _, own_split = rest.partition(":")
            if own_split and split != "train":
                raise UserError(
                    f"{spec} names the split that is trained on, which is not evaluated on: write "
                    f"tfds:{name}, whose splits are then train and {split}, or {NO_EVALUATION}"
                )
            opened[spec] = TfdsSource(name, own_split or split, data_dir=data_dir)
        elif family == "omniworld" and not rest:
            opened[spec] = TaskSource(stored(), tasks.split("+")) if tasks else stored()
        elif family == "omniworld_live" and not rest:
            from omnijax.data import omniworld

            opened[spec] = omniworld.live(split, tasks=tasks.split("+") if tasks else None)
        else:
            raise UserError(
                f"unknown source {spec!r} in the mixture: it must be omniworld[/TASK[+TASK]], "
                "omniworld_live[/TASK[+TASK]], folder:PATH, tfds:NAME[:SPLIT] or codes:PATH"
            )
    return opened


def open_source(spec: str, *, split: str = "train", data_dir: str | None = None) -> Source:
    """A source by its name in a mixture, as in `open_sources`."""
    return open_sources([spec], split=split, data_dir=data_dir)[spec]
