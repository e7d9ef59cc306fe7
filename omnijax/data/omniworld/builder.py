"""OmniWorld as a TFDS dataset: ArrayRecord files of (id, task, chat, meta, media), no TensorFlow.

The builder only stores what ``example(index, split, seed)`` gives, in the order of the indices, so
that record i is example i. It is made by ``processes`` processes, each with its own espeak-ng, and
moved into place when whole: an interrupted build leaves no dataset behind.
"""

import os
from collections.abc import Callable, Iterator

import tensorflow_datasets as tfds

from omnijax.data.omniworld.records import make_all

SIZES = {
    "train": 34_000,
    "validation": 500,
    "test": 1_500,
    "test_voice": 200,
    "say": 500,
    "say_test": 100,
}


class OmniWorld(tfds.core.GeneratorBasedBuilder):
    """A small world of coloured shapes, sounds and speech."""

    name = "omni_world"
    VERSION = tfds.core.Version("1.9.0")  # another one whenever what is stored changes

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
        made = make_all(self._sizes, self._seed, self._processes)
        return {split: self._generate_examples(split, made) for split in self._sizes}

    def _generate_examples(self, split: str, made: Iterator) -> Iterator[tuple[int, dict]]:
        number = 0
        while number < self._sizes[split]:
            own_split, records = next(made)
            if own_split != split:
                raise RuntimeError(f"records of {own_split} where {split} was due")
            for record in records:
                yield number, record
                number += 1
            self._progress(len(records))


def folder_name(sizes: dict[str, int], seed: int) -> str:
    """Where a corpus of these sizes lies: another size or seed is another folder."""
    if sizes == SIZES and seed == 0:
        return "default"
    return f"seed{seed}_" + "_".join(f"{split}{size}" for split, size in sorted(sizes.items()))


def is_built(builder: tfds.core.DatasetBuilder) -> bool:
    return os.path.exists(os.path.join(str(builder.data_path), "dataset_info.json"))
