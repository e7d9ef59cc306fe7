"""OmniWorld as a TFDS dataset: ArrayRecord files of (id, task, chat, meta, media), no TensorFlow.

The builder only stores what ``example(index, split, seed)`` gives, in the order of the indices, so
that record i is example i. It is made by ``processes`` processes, each with its own espeak-ng, and
moved into place when whole: an interrupted build leaves no dataset behind.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator

import tensorflow_datasets as tfds

from omnijax.data.omniworld import media
from omnijax.data.omniworld.tasks import plan

SIZES = {
    "train": 12_000,
    "validation": 500,
    "test": 1_000,
    "test_voice": 200,
    "say": 500,
    "say_test": 100,
}
_BLOCK = 25  # examples that a process makes at a time


class OmniWorld(tfds.core.GeneratorBasedBuilder):
    """A small world of coloured shapes, sounds and speech."""

    name = "omni_world"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        sizes: dict[str, int] | None = None,
        seed: int = 0,
        processes: int = 2,
        progress: Callable[[int], None] | None = None,
        **kwargs,
    ):
        self._sizes = SIZES if sizes is None else sizes
        self._seed, self._processes = seed, processes
        self._progress = progress or (lambda count: None)
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "id": text(),
                    "task": text(),
                    "chat": text(),  # JSON; a media item holds its index into media
                    "meta": text(),  # JSON
                    "media": tfds.features.Sequence(text()),  # bytes, see media.py
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager
        return {split: self._generate_examples(split) for split in self._sizes}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        size = self._sizes[split]
        blocks = [
            (split, self._seed, start, min(start + _BLOCK, size))
            for start in range(0, size, _BLOCK)
        ]
        if self._processes <= 1 or len(blocks) < 4:
            yield from self._numbered(map(make_records, blocks))
            return
        # Fresh interpreters: forking a process that runs JAX's threads can hang.
        context = multiprocessing.get_context("spawn")
        with context.Pool(self._processes) as pool:
            yield from self._numbered(pool.imap(make_records, blocks))

    def _numbered(self, blocks) -> Iterator[tuple[int, dict]]:
        number = 0
        for block in blocks:
            for record in block:
                yield number, record
                number += 1
            self._progress(len(block))


def make_records(block: tuple[str, int, int, int]) -> list[dict]:
    """The records of examples start..stop of a split."""
    split, seed, start, stop = block
    return [make_record(index, split, seed) for index in range(start, stop)]


def make_record(index: int, split: str, seed: int = 0) -> dict:
    """An example as it is stored."""
    made = plan(index, split, seed)
    chat = {"messages": made["messages"]}
    if "tools" in made:
        chat["tools"] = made["tools"]
    return {
        "id": made["id"],
        "task": made["task"],
        "chat": json.dumps(chat, ensure_ascii=False),
        "meta": json.dumps(made["meta"], ensure_ascii=False),
        "media": [media.encode(media.render(item)) for item in made["media"]],
    }


def read_record(record: dict) -> dict:
    """An example with its media as arrays: {"id", "task", "chat", "meta"}.

    Media that no message holds (the speech to be said) is ``meta["speech"]``.
    """
    values = [media.decode(bytes(data)) for data in record["media"]]
    chat, meta = json.loads(record["chat"]), json.loads(record["meta"])
    used = set()
    for message in chat["messages"]:
        if isinstance(message["content"], list):
            for item in message["content"]:
                if item["type"] != "text":
                    used.add(item[item["type"]])
                    item[item["type"]] = values[item[item["type"]]]
    for place, value in enumerate(values):
        if place not in used:
            meta["speech"] = value
    return {"id": _str(record["id"]), "task": _str(record["task"]), "chat": chat, "meta": meta}


def _str(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def folder_name(sizes: dict[str, int], seed: int) -> str:
    """Where a corpus of these sizes lies: another size or seed is another folder."""
    if sizes == SIZES and seed == 0:
        return "default"
    return f"seed{seed}_" + "_".join(f"{split}{size}" for split, size in sorted(sizes.items()))


def is_built(builder: tfds.core.DatasetBuilder) -> bool:
    return os.path.exists(os.path.join(str(builder.data_path), "dataset_info.json"))
