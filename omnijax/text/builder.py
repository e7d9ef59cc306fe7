"""Puts a rendered conversation together: runs of tokens with their positions, and media arrays."""

from typing import NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.media import (
    AudioArrays,
    ProcessorConfig,
    VisionArrays,
    audio_arrays,
    audio_tokens,
    image_arrays,
    resample,
    video_arrays,
)
from omnijax.text.content import Medium, read_audio, read_image, read_video
from omnijax.text.positions import PositionState, as_int, audio_of_patches, qwen3_omni_video
from omnijax.text.style import ChatStyle
from omnijax.text.tokenizer import Tokenizer


class Rendered(NamedTuple):
    """One example, unbatched; media in the order of their placeholder tokens.

    tokens [T] int32.  loss_mask [T] bool: the assistant produces the token at this place.
    positions [T, 3] int32: time, height, width (float32 where Qwen3-Omni's ids fall between).
    audio_mel [g, F, M] float32; audio_lengths [g] int32: valid mel frames; audio_windows [g]
    int32: from 1, one for each attention window of each clip.
    patches [p, dim] float32; patch_coords, patch_grids [p, 2] int32; patch_frames [p] int32:
    from 1, one for each picture and temporal patch.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    positions: np.ndarray
    audio_mel: np.ndarray
    audio_lengths: np.ndarray
    audio_windows: np.ndarray
    patches: np.ndarray
    patch_coords: np.ndarray
    patch_grids: np.ndarray
    patch_frames: np.ndarray


class Builder:
    """Collects text, control tokens and media in order; `finish` makes the arrays."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        processor: ProcessorConfig,
        style: ChatStyle,
        window_chunks: int | None,
        rng: np.random.Generator | None,
        positions: PositionState,
        windows: int,
        frames: int,
    ):
        self._tokenizer, self._processor, self._style = tokenizer, processor, style
        self._window_chunks, self._rng = window_chunks, rng
        self.positions, self.windows, self.frames = positions, windows, frames
        self._tokens: list[int] = []
        self._loss: list[bool] = []
        self._places: list[np.ndarray] = []  # Positions of all but the run of text at the end.
        self._run = 0  # Length of that run.
        self._text, self._text_loss = "", False
        self._audio: list[AudioArrays] = []
        self._vision: list[VisionArrays] = []
        self._counts = {"text": 0, "audio": 0, "vision": 0}

    def text(self, text: str, loss: bool = False) -> None:
        """Text that can never become a control token; neighbours are tokenised as one."""
        if loss != self._text_loss:
            self._flush_text()
        self._text += text
        self._text_loss = loss

    def control(self, name: str, loss: bool = False) -> None:
        self._flush_text()
        self._append([self._tokenizer.special(name)], loss)

    def piece(self, piece: str | Medium) -> None:
        if isinstance(piece, str):
            self.text(piece)
        elif piece.kind == "image":
            self._image(piece)
        elif piece.kind == "audio":
            self._sound(self._hear(read_audio(piece.value)), stamped=True)
        else:
            self._video(piece)

    def finish(self, max_tokens: int | None = None) -> Rendered:
        self._flush_text()
        self._flush_run()
        if max_tokens is not None and len(self._tokens) > max_tokens:
            parts = ", ".join(f"{count} of {kind}" for kind, count in self._counts.items() if count)
            raise UserError(
                f"the conversation has {len(self._tokens)} tokens ({parts}), "
                f"over the limit of {max_tokens}; nothing is cut"
            )
        return Rendered(
            np.array(self._tokens, np.int32),
            np.array(self._loss, bool),
            as_int(_joined(self._places, np.zeros((0, 3), np.int32))),
            *self._media_arrays(),
        )

    def _media_arrays(self) -> tuple[np.ndarray, ...]:
        config = self._processor
        no_mel = np.zeros((0, config.audio_chunk_frames, config.mel_bins), np.float32)
        no_patch = np.zeros((0, config.patch_dim), np.float32)
        none, no_pair = np.zeros(0, np.int32), np.zeros((0, 2), np.int32)
        return (
            _joined([a.mel for a in self._audio], no_mel),
            _joined([a.lengths for a in self._audio], none),
            _joined([a.windows for a in self._audio], none),
            _joined([v.patches for v in self._vision], no_patch),
            _joined([v.coords for v in self._vision], no_pair),
            _joined([v.grids for v in self._vision], no_pair),
            _joined([v.frames for v in self._vision], none),
        )

    def _append(self, tokens: list[int], loss: bool = False) -> None:
        """Text tokens, or sound that stands alone: positions count up."""
        self._tokens += tokens
        self._loss += [loss] * len(tokens)
        self._run += len(tokens)
        self._counts["text"] += len(tokens)

    def _pads(self, name: str, count: int, places: np.ndarray) -> None:
        """Placeholders whose positions are given."""
        self._tokens += [self._tokenizer.special(name)] * count
        self._loss += [False] * count
        self._places.append(places)
        self._counts["audio" if name == "audio_pad" else "vision"] += count

    def _flush_text(self) -> None:
        if self._text:
            self._append(self._tokenizer.encode_literal(self._text), self._text_loss)
            self._text = ""

    def _flush_run(self) -> None:
        if self._run:
            self.positions, places = self.positions.text(self._run)
            self._places.append(places)
            self._run = 0

    def _image(self, medium: Medium) -> None:
        arrays = image_arrays(read_image(medium), self._processor)
        _, rows, columns = self._look(arrays)
        self.control("vision_start")
        self._vision_pads("image_pad", rows, columns)
        self.control("vision_end")

    def _vision_pads(self, name: str, rows: int, columns: int) -> None:
        self._flush_text()
        self._flush_run()
        self.positions, places = self.positions.vision(rows, columns)
        self._pads(name, rows * columns, places)

    def _look(self, arrays: VisionArrays) -> tuple[int, int, int]:
        """Takes the patches in; returns steps and merged rows and columns."""
        steps, rows, columns = arrays.grid_thw
        merge = self._processor.spatial_merge
        self._vision.append(arrays._replace(frames=arrays.frames + np.int32(1 + self.frames)))
        self.frames += steps
        return steps, rows // merge, columns // merge

    def _hear(self, audio) -> int:
        """Takes a clip's mel in; returns its tokens."""
        audio = resample(audio, self._processor.sample_rate)
        arrays = audio_arrays(audio.samples, self._processor, self._window_chunks)
        self._audio.append(arrays._replace(windows=arrays.windows + np.int32(1 + self.windows)))
        self.windows += int(arrays.windows[-1]) + 1
        return arrays.num_tokens

    @property
    def _tokens_per_second(self) -> float:
        frames = self._processor.audio_chunk_frames
        return audio_tokens(frames, self._processor) / frames * 100

    def _sound(self, count: int, stamped: bool, start: int = 0) -> None:
        """A clip that stands alone; `start` is its first token's place in the recording."""
        self.control("audio_start")
        done = 0
        while done < count:
            step = self._until_stamp(count - done) if stamped else count
            self._flush_text()
            self._flush_run()
            self.positions, places = self.positions.text(step)
            self._pads("audio_pad", step, places)
            done += step
            if done < count:
                self._stamp((start + done) / self._tokens_per_second)
        self.control("audio_end")

    def _until_stamp(self, left: int) -> int:
        """Tokens to the next stamp in a sound, all that are left where there is none."""
        style = self._style
        if style.time != "stamps":
            return left
        if self._rng is not None:
            if self._rng.random() >= style.stamp_probability:
                return left
            seconds = self._rng.uniform(*style.stamp_seconds)
        elif style.stamp_every is not None:
            seconds = style.stamp_every
        else:
            return left
        return min(left, max(1, round(seconds * self._tokens_per_second)))

    def _stamp(self, seconds: float) -> None:
        self.text(f"<{seconds:.1f} seconds>")

    def _video(self, medium: Medium) -> None:
        fps = medium.options.get("fps")
        video = read_video(medium.value, self._processor, fps)
        arrays = video_arrays(video, self._processor, fps)
        steps, rows, columns = self._look(arrays)
        sound = 0
        if video.audio is not None and self._style.sound_of_video:
            sound = self._hear(video.audio)
        if self._style.time == "merged":
            return self._merged_video(arrays, steps, rows, columns, sound)
        shares = audio_of_patches(
            arrays.times,
            arrays.patch_seconds,
            self._processor.temporal_patch,
            self._tokens_per_second,
            sound,
        )
        for time, share in zip(arrays.times, shares, strict=True):
            self._stamp(time)
            self.control("vision_start")
            self._vision_pads("video_pad", rows, columns)
            if share:
                self.positions, places = self.positions.sound_beside(share)
                self._pads("audio_pad", share, places)
            self.control("vision_end")
        if sound > sum(shares):
            self._sound(sound - sum(shares), stamped=False)
        return None

    def _merged_video(self, arrays, steps: int, rows: int, columns: int, sound: int) -> None:
        """Qwen3-Omni: one block, sound nested in it and merged by time id."""
        self.control("vision_start")
        if sound:
            self.control("audio_start")
        self._flush_text()
        self._flush_run()
        seconds = arrays.patch_seconds or self._processor.temporal_patch / self._processor.video_fps
        self.positions, places, is_audio = qwen3_omni_video(
            self.positions, steps, rows, columns, seconds, self._style.ids_per_second, sound
        )
        video, audio = self._tokenizer.special("video_pad"), self._tokenizer.special("audio_pad")
        self._tokens += np.where(is_audio, audio, video).tolist()
        self._loss += [False] * len(places)
        self._places.append(places)
        self._counts["audio"] += sound
        self._counts["vision"] += len(places) - sound
        if sound:
            self.control("audio_end")
        self.control("vision_end")


def _joined(arrays: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
    if len(arrays) < 2:
        return arrays[0] if arrays else empty
    return np.concatenate(arrays)
