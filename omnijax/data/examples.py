"""One example from its source to a row: rendered, kept in memory, given its random window."""

import dataclasses
import logging
import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from omnijax.data.batch import Shown, Spoken
from omnijax.data.cache import RenderedCache
from omnijax.data.config import PipelineConfig
from omnijax.data.sources import Source
from omnijax.errors import UserError
from omnijax.media.audio import check_audio, resample
from omnijax.media.processor import ProcessorConfig, audio_arrays, image_arrays, video_arrays
from omnijax.media.video import Video
from omnijax.text.chat import Rendered, render
from omnijax.text.content import Medium, plain_items, read_audio, read_image, read_video
from omnijax.text.style import ChatStyle
from omnijax.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)
WHOLE_CLIP = 1 << 30  # window of a rendering from which any other window follows
Make = Callable[[Mapping[str, Any], np.random.Generator | None], Any]


@dataclasses.dataclass(eq=False)
class Example:
    """Opaque to grain, which would otherwise map over the arrays inside."""

    value: Any  # Rendered, Spoken or Shown
    where: str


def rewindow(clips: np.ndarray, window_chunks: int) -> np.ndarray:
    """Window ids 1.. of chunks whose clip ids (1.., in order) are given: `window_chunks` each."""
    windows, last_clip, place = [], None, 0
    for clip in clips.tolist():  # a few chunks: quicker than numpy
        place = place + 1 if clip == last_clip else 0
        opens = place % window_chunks == 0
        windows.append(opens + (windows[-1] if windows else 0))
        last_clip = clip
    return np.array(windows, np.int32)


class Handles:
    """What grain shuffles and mixes: which example of which source, not yet read."""

    def __init__(self, source: "RenderedSource"):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple["RenderedSource", int]:
        return self._source, int(index)


class RenderedSource:
    """Random access to the rendered examples of a source, through the cache."""

    def __init__(self, name: str, source: Source, make: Make, cache: RenderedCache | None):
        if not len(source):
            raise UserError(f"source {name!r} has no examples")
        self._name, self._source, self._make, self._cache = name, source, make, cache

    def __len__(self) -> int:
        return len(self._source)

    def get(self, index: int, variant: int) -> Example:
        where = f"{self._name}[{index}]"
        cached = self._cache is not None
        value = self._cache.get((self._name, index), variant) if cached else None
        if value is None:
            record = self._source[index]
            where = record.get("where") or f"{where} ({record.get('id', record.get('task'))})"
            digest = zlib.crc32(self._name.encode())
            rng = np.random.default_rng([digest, index, variant]) if variant else None
            try:
                value = self._make(record, rng)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            if cached:
                self._cache.put((self._name, index), variant, value)
        return Example(value, where)


class Finish:
    """Renders an example and makes its random choices: stamps, AuT window, whether it fits."""

    def __init__(self, config: PipelineConfig, default_window: int):
        self._windows = config.window_chunks or (default_window,)
        self._config = config
        self._lock = threading.Lock()
        self.kept = self.dropped = 0

    def __call__(
        self, handle: tuple[RenderedSource, int], rng: np.random.Generator
    ) -> Example | None:
        source, index = handle
        window = self._windows[int(rng.integers(len(self._windows)))]
        variants = self._config.stamp_variants
        example = source.get(index, 1 + int(rng.integers(variants)) if variants else 0)
        value = example.value
        if isinstance(value, Spoken):
            value = value._replace(windows=rewindow(value.windows, window))
        if isinstance(value, Spoken | Shown):
            excess = _aed_excess(value, self._config)
        else:
            value = value._replace(audio_windows=rewindow(value.audio_windows, window))
            excess = self._config.budget.excess(value)
        if excess is None:
            self.kept += 1
            return Example(value, example.where)
        if self._config.on_too_long == "error":
            raise UserError(f"{example.where} does not fit: {excess}")
        with self._lock:
            self.dropped += 1
            dropped = self.dropped
        if dropped <= 3 or dropped % 1000 == 0:
            log.warning("dropped %s (%d so far): %s", example.where, dropped, excess)
        if not self.kept and dropped >= 256:
            raise UserError(f"none of the first {dropped} examples fits into a row: {excess}")
        return None


def _aed_excess(example: Spoken | Shown, config: PipelineConfig) -> str | None:
    media = "max_audio_chunks" if isinstance(example, Spoken) else "max_patches"
    for field, length, limit in (
        ("max_tokens", len(example.tokens) + 1, config.max_tokens),
        (media, len(example[0]), getattr(config, media)),
    ):
        if length > limit:
            return f"it has {length} {field.removeprefix('max_')}, the limit ({field}) is {limit}"
    return None


def transcript(record: Mapping[str, Any]) -> tuple[Any, str] | None:
    """The clip of an example and what is said or heard in it, if it says so.

    "meta" says it in "transcript", or in "heard" where it is not speech; or the task is to
    transcribe; or "meta" has the "question" and the "voice" that asks it.
    """
    messages, meta = record["chat"]["messages"], record.get("meta") or {}
    contents = [message.get("content") for message in messages]
    clip = sound_of(record)
    text = meta.get("transcript", meta.get("heard"))
    if text is None and record.get("task") == "transcribe":
        text = contents[-1] if messages[-1]["role"] == "assistant" else None
    if text is None and "voice" in meta:
        text = meta.get("question")
    return None if clip is None or not isinstance(text, str) else (clip, text)


def sound_of(record: Mapping[str, Any]) -> Any:
    """The first clip of an example's messages; a video in memory gives its sound track."""
    clips = (_clip(item) for item in _items(record))
    return next((clip for clip in clips if clip is not None), None)


def _clip(item: Mapping[str, Any]) -> Any:
    if item["type"] == "video":
        return item["video"].audio if isinstance(item["video"], Video) else None
    return item["audio"] if item["type"] == "audio" else None


def _items(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The content items of all messages, under their plain names."""
    contents = (message.get("content") for message in record["chat"]["messages"])
    return [item for content in contents for item in plain_items(content)]


def make_rendered(tokenizer: Tokenizer, processor: ProcessorConfig, style: ChatStyle) -> Make:
    """Record to Rendered; with an rng, time stamps fall into sound at random places.

    What is made raises UserError for a chat that has no answer to learn.
    """

    def make(record, rng) -> Rendered:
        rendered = render(
            record["chat"], tokenizer, processor, window_chunks=WHOLE_CLIP, style=style, rng=rng
        )
        if not rendered.loss_mask[1:].any():
            raise UserError("the chat has no answer to learn: no message is the assistant's")
        return rendered

    return make


def make_spoken(tokenizer: Tokenizer, processor: ProcessorConfig) -> Make:
    """Record to the clip that it transcribes and the tokens of what is said."""

    def make(record, rng) -> Spoken:
        found = transcript(record)
        if found is None:
            raise UserError('no transcribed clip; "transcript" in its "meta" would name the words')
        clip, text = found
        clip = check_audio(read_audio(clip))
        samples = resample(clip, processor.sample_rate).samples
        arrays = audio_arrays(samples, processor, window_chunks=WHOLE_CLIP)
        tokens = np.asarray(tokenizer.encode(text, literal=True), np.int32)
        return Spoken(arrays.mel, arrays.lengths, np.ones_like(arrays.lengths), tokens)

    return make


def make_shown(tokenizer: Tokenizer, processor: ProcessorConfig) -> Make:
    """Record to its first picture or video and the tokens of its "description" ("meta")."""

    def make(record, rng) -> Shown:
        words = (record.get("meta") or {}).get("description")
        item = next((x for x in _items(record) if x["type"] in ("image", "video")), None)
        if item is None or not isinstance(words, str):
            raise UserError('no described picture; "description" in its "meta" would describe it')
        if item["type"] == "image":
            arrays = image_arrays(read_image(Medium("image", item["image"], {})), processor)
        else:
            fps = item.get("fps")
            arrays = video_arrays(read_video(item["video"], processor, fps), processor, fps)
        tokens = np.asarray(tokenizer.encode(words, literal=True), np.int32)
        return Shown(arrays.patches, arrays.coords, arrays.grids, arrays.frames + 1, tokens)

    return make
