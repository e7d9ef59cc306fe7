"""Crops of speech for the codec: 24 kHz samples, and what its teacher hears of them.

    pipeline = make_crops_pipeline(CropsConfig(...), processor=processor)

A source's example gives its "speech" (in "meta", as OmniWorld's `say` does) or else the first
sound of its chat, resampled where its rate is another. What is shorter than a crop is followed by
silence, and its length says so.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from omnijax.data.batch import Fill, RowBudget
from omnijax.data.examples import sound_of
from omnijax.data.mixture import mix, open_mixture, order_fingerprint
from omnijax.data.pipeline import Pipeline, rows_of
from omnijax.data.sources import Source
from omnijax.errors import UserError
from omnijax.media.audio import Audio, check_audio, resample
from omnijax.media.processor import ProcessorConfig, audio_arrays
from omnijax.models.codec.config import SAMPLE_RATE
from omnijax.models.thinker.inputs import AudioInputs
from omnijax.text.content import read_audio
from omnijax.typing import Array, Float, Int

QUIET = 1e-3  # a crop whose loudest sample is below this is drawn again
DRAWS = 8


class CodecBatch(NamedTuple):
    """Crops of clips at 24 kHz; `heard` is what the teacher takes, None without one."""

    samples: Float[Array, "B A"]  # A a multiple of samples_per_frame; silence past the length
    lengths: Int[Array, "B"]  # valid samples
    heard: AudioInputs | None = None

    def counts(self) -> tuple[int, int]:
        """(valid samples, the same): the codec's tokens are its samples."""
        return int(np.sum(self.lengths)), int(np.sum(self.lengths))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """What is cropped. The order is a function of the config alone, as in `PipelineConfig`."""

    mixture: Sequence[tuple[str, float]]
    split: str = "train"
    data_dir: str | None = None
    batch_size: int = 6
    samples: int = 38_400  # a crop
    heard: bool = True  # also as the teacher's mel chunks
    seed: int = 0
    shuffle: bool = True
    threads: int = 2
    prefetch_batches: int = 4

    def __post_init__(self):
        for field in ("batch_size", "samples", "prefetch_batches"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} is {getattr(self, field)}, it must be at least 1")
        if self.threads < 0:
            raise UserError(f"threads is {self.threads}, it must not be negative")


def speech_of(record: Mapping[str, Any], where: str) -> Float[np.ndarray, " A"]:
    """The samples of an example's speech at 24 kHz."""
    clip = (record.get("meta") or {}).get("speech")
    clip = sound_of(record) if clip is None else clip
    if clip is None:
        raise UserError(f'{where}: no sound; "speech" in its "meta" or its chat would hold it')
    try:
        return resample(check_audio(read_audio(clip)), SAMPLE_RATE).samples
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def crop(
    samples: Float[np.ndarray, " A"], length: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " C"], int]:
    """(`length` samples from a random place, how many of them are the clip's).

    A place in silence is drawn again, a few times.
    """
    room = len(samples) - length
    if room <= 0:
        return np.pad(samples, (0, -room)), len(samples)
    for _ in range(DRAWS):
        start = int(rng.integers(room + 1))
        piece = samples[start : start + length]
        if np.abs(piece).max() >= QUIET:
            break
    return piece, length


class _Cropped:
    """Random map: (source name, source, index) -> (samples, length)."""

    dropped = 0  # nothing ever is

    def __init__(self, length: int):
        self._length = length

    def __call__(self, handle: "_Handle", rng: np.random.Generator):
        record = handle.source[handle.index]
        where = record.get("where") or f"{handle.name}[{handle.index}]"
        return _Crop(*crop(speech_of(record, where), self._length, rng))


@dataclasses.dataclass(eq=False)
class _Crop:
    """Opaque to grain, which would otherwise map over the arrays inside."""

    samples: np.ndarray
    length: int


@dataclasses.dataclass(eq=False)
class _Handle:
    name: str
    source: Source
    index: int


class _Handles:
    def __init__(self, name: str, source: Source):
        if not len(source):
            raise UserError(f"source {name!r} has no examples")
        self._name, self._source = name, source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> _Handle:
        return _Handle(self._name, self._source, int(index))


def hear(samples: Float[np.ndarray, "B A"], processor: ProcessorConfig) -> AudioInputs:
    """Crops at 24 kHz as AuT hears them: resampled, mel in whole chunks, one window a crop."""
    rows = []
    for row in samples:
        heard = resample(Audio(row, SAMPLE_RATE), processor.sample_rate).samples
        rows.append(audio_arrays(heard, processor, window_chunks=1 << 30))
    mel = np.stack([row.mel for row in rows])
    lengths = np.stack([row.lengths for row in rows])
    return AudioInputs(mel, lengths, np.ones_like(lengths))


def make_crops_pipeline(
    config: CropsConfig,
    *,
    processor: ProcessorConfig,
    sources: Mapping[str, Source] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Pipeline:
    """Batches of `CodecBatch`, this process's rows, with the state that a checkpoint keeps."""
    mine = rows_of(config.batch_size, process_index, process_count)
    opened = open_mixture(
        config.mixture, split=config.split, data_dir=config.data_dir, sources=sources
    )
    parts = {name: _Handles(name, source) for name, source in opened.items()}
    mixed = mix(config.mixture, parts, seed=config.seed, shuffle=config.shuffle)
    cropped = _Cropped(config.samples)
    mixed = mixed.random_map(cropped, seed=config.seed)

    def collate(crops: Sequence[_Crop]) -> tuple[CodecBatch, Fill]:
        crops = crops[mine]
        samples = np.stack([piece.samples for piece in crops]).astype(np.float32)
        lengths = np.array([piece.length for piece in crops], np.int32)
        heard = hear(samples, processor) if config.heard else None
        valid, rows = int(lengths.sum()), len(crops)
        return CodecBatch(samples, lengths, heard), Fill(rows, rows, valid, valid)

    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=32)
    batches = mixed.to_iter_dataset(options).batch(config.batch_size, batch_fn=collate)
    dataset = grain.experimental.ThreadPrefetchIterDataset(
        batches, prefetch_buffer_size=config.prefetch_batches
    )
    fingerprint = order_fingerprint(
        config,
        [len(source) for source in opened.values()],
        but=("threads", "prefetch_batches", "data_dir"),
    )
    return Pipeline(dataset, fingerprint, cropped, RowBudget(max_tokens=config.samples))
