"""From media to the arrays that the encoders take: mel chunks and patches, with their places."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.media.audio import Audio, check_audio, resample
from omnijax.media.image import check_image, resize_image, smart_resize
from omnijax.media.mel import MelConfig, check_length, log_mel
from omnijax.media.video import (
    Video,
    check_video,
    patch_times,
    sample_frames,
    smart_resize_video,
)
from omnijax.typing import Float, Shaped


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """How media become arrays; must agree with the encoders' configs (`check_media`).

    Defaults: those of the described system at full size, with windows of 8 s (`qwen3_5_omni_16x`).

    mel_floor, mel_floor_log10: "fixed" (streams) or "clip_max" (released), see MelConfig.
    audio_chunk_frames: mel frames that the encoder's convolutions see at a time.
    audio_downsample: mel frames to a token.  audio_window_chunks: chunks that attend together.
    min_pixels, max_pixels: area of a picture, or of one frame of a video, after resizing.
    min_side: a picture with a shorter side is refused. [C]
    video_fps, max_video_frames: the rate at which frames are sampled, and how many at most: a
        longer clip is sampled more sparsely, never cut.
    video_sampling: "grid" takes the frame on show at every k / fps; "linspace" spreads the
        frames over the clip as the released Qwen3-VL processor does.
    min_video_pixels, max_video_pixels: area summed over a video's frames, as Qwen3-VL bounds it
        (released: 131,072 and 786,432); where either is set it takes the place of the limits a
        frame.
    """

    sample_rate: int = 16_000
    mel_bins: int = 128
    mel_floor: str = "fixed"
    mel_floor_log10: float | int = -6.5
    audio_chunk_frames: int = 160
    audio_downsample: int = 16
    audio_window_chunks: int = 5
    max_audio_seconds: float | int | None = None
    patch_size: int = 16
    temporal_patch: int = 2
    spatial_merge: int = 2
    min_pixels: int = 65_536
    max_pixels: int = 16_777_216
    min_side: int = 8
    video_fps: float | int = 2.0
    min_video_frames: int = 1
    max_video_frames: int = 768
    video_sampling: str = "grid"
    min_video_pixels: int | None = None
    max_video_pixels: int | None = None

    def __post_init__(self):
        for name in (
            "sample_rate", "mel_bins", "audio_chunk_frames", "audio_downsample",
            "audio_window_chunks", "patch_size", "temporal_patch", "spatial_merge",
            "min_pixels", "min_side", "min_video_frames",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"ProcessorConfig.{name} is {getattr(self, name)}, must be >= 1")
        if self.max_pixels < max(self.min_pixels, self.factor**2):
            raise UserError(
                f"ProcessorConfig.max_pixels is {self.max_pixels}, must be at least min_pixels "
                f"({self.min_pixels}) and one merge block ({self.factor}x{self.factor})"
            )
        if self.video_fps <= 0:
            raise UserError(f"ProcessorConfig.video_fps is {self.video_fps}, must be over 0")
        if self.max_video_frames < self.min_video_frames:
            raise UserError(
                f"ProcessorConfig.max_video_frames is {self.max_video_frames}, must be at least "
                f"min_video_frames ({self.min_video_frames})"
            )
        if self.video_sampling not in ("grid", "linspace"):
            raise UserError(
                f"ProcessorConfig.video_sampling is {self.video_sampling!r}, must be 'grid' or "
                "'linspace'"
            )
        if self.sample_rate % 400:
            raise UserError(
                f"ProcessorConfig.sample_rate is {self.sample_rate}, must be a multiple of 400 "
                "(a hop of 10 ms and an even window of 25 ms)"
            )
        self.mel  # noqa: B018 (its own checks)

    @property
    def factor(self) -> int:
        """Pixels to a merge block's side: pictures are resized to multiples of it."""
        return self.patch_size * self.spatial_merge

    @functools.cached_property
    def mel(self) -> MelConfig:
        return MelConfig(
            sample_rate=self.sample_rate,
            bins=self.mel_bins,
            window=self.sample_rate // 40,
            hop=self.sample_rate // 100,
            floor=self.mel_floor,
            floor_log10=self.mel_floor_log10,
        )

    @property
    def patch_dim(self) -> int:
        return 3 * self.temporal_patch * self.patch_size**2


def nano_processor() -> ProcessorConfig:
    """For the nano model: chunks of 80 frames (5 tokens of exactly 160 ms), small pictures."""
    return ProcessorConfig(
        audio_chunk_frames=80,
        audio_window_chunks=10,
        min_pixels=32 * 32,
        max_pixels=96 * 96,
        video_fps=4.0,
        max_video_frames=64,
    )


class AudioArrays(NamedTuple):
    """A clip as mel chunks, to be padded to a batch.

    mel [g, F, M] float32, zero past lengths.  lengths [g] int32: valid mel frames.
    windows [g] int32: 0-based index of the attention window.
    """

    mel: np.ndarray
    lengths: np.ndarray
    windows: np.ndarray
    num_tokens: int


class VisionArrays(NamedTuple):
    """One picture or video as patches, in merge blocks: each run of merge**2 rows is one token.

    patches [p, dim] float32 in -1..1, inside a patch (channel, frame, row, column).
    coords [p, 2] int32: row, column in patches.  grids [p, 2] int32: rows, columns of the whole.
    frames [p] int32: temporal patch, 0-based.  grid_thw: temporal patches, rows, columns.
    times: seconds, the mean time of each temporal patch's frames.
    patch_seconds: time from one temporal patch to the next, 0 for a picture.
    """

    patches: np.ndarray
    coords: np.ndarray
    grids: np.ndarray
    frames: np.ndarray
    grid_thw: tuple[int, int, int]
    times: tuple[float, ...]
    patch_seconds: float
    num_tokens: int


def audio_tokens(num_mel_frames: int, config: ProcessorConfig) -> int:
    """Tokens for so many mel frames: each chunk, and the tail, rounds up on its own."""
    full, tail = divmod(num_mel_frames, config.audio_chunk_frames)
    per_chunk = -(-config.audio_chunk_frames // config.audio_downsample)
    return full * per_chunk + -(-tail // config.audio_downsample)


def audio_arrays(
    samples: Float[np.ndarray, " A"], config: ProcessorConfig, window_chunks: int | None = None
) -> AudioArrays:
    """A clip at config.sample_rate as mel chunks; `window_chunks` replaces the config's."""
    window_chunks = config.audio_window_chunks if window_chunks is None else window_chunks
    if window_chunks < 1:
        raise UserError(f"audio window is {window_chunks} chunks, must be at least 1")
    limit = config.max_audio_seconds
    if limit is not None and len(samples) > limit * config.sample_rate:
        raise UserError(
            f"audio lasts {len(samples) / config.sample_rate:.2f} s, over the limit of {limit:g} s"
        )
    mel = log_mel(samples, config.mel)
    size = config.audio_chunk_frames
    count = -(-len(mel) // size)
    chunks = np.zeros((count * size, config.mel_bins), np.float32)
    chunks[: len(mel)] = mel
    lengths = np.full(count, size, np.int32)
    lengths[-1] = len(mel) - size * (count - 1)
    return AudioArrays(
        mel=chunks.reshape(count, size, config.mel_bins),
        lengths=lengths,
        windows=np.arange(count, dtype=np.int32) // window_chunks,
        num_tokens=audio_tokens(len(mel), config),
    )


def open_audio(audio: Audio, config: ProcessorConfig, name: str = "audio") -> Audio:
    """The clip at config.sample_rate, or the UserError that `audio_arrays` would raise of it."""
    check_audio(audio, name, config.max_audio_seconds)
    audio = resample(audio, config.sample_rate)
    check_length(len(audio.samples), config.mel, name)
    return audio


def open_image(image: Shaped[np.ndarray, "..."], config: ProcessorConfig):
    """The picture as given, or the UserError that `image_arrays` would raise of it."""
    _image_size(check_image(image, config.min_side), config)
    return image


def open_video(video: Video, config: ProcessorConfig, sound: bool = True) -> Video:
    """The video, its sound at config.sample_rate, or the UserError that rendering would raise.

    sound: whether its sound track is heard.
    """
    check_video(video)
    check_image(video.frames[0], config.min_side, "video frame")
    _video_size(video.frames, config)
    if video.audio is None or not sound:
        return video
    return video._replace(audio=open_audio(video.audio, config, "video: sound track"))


def image_arrays(image: Shaped[np.ndarray, "..."], config: ProcessorConfig) -> VisionArrays:
    """A picture, resized bicubically to whole merge blocks, as patches; its frame is repeated to
    fill the temporal patch, as in the released processor."""
    height, width = _image_size(check_image(image, config.min_side), config)
    frame = resize_image(image, height, width)
    patches = _patchify(frame[None], 1, config)
    # (p, channel, 1, pixels) -> the one frame stands for all of the temporal patch.
    patches = np.repeat(patches.reshape(len(patches), 3, 1, -1), config.temporal_patch, axis=2)
    patches = patches.reshape(len(patches), -1)
    return _vision_arrays(patches, (1, height, width), (0.0,), 0.0, config)


def video_arrays(
    video: Video, config: ProcessorConfig, fps: float | int | None = None
) -> VisionArrays:
    """A video's frames, sampled and resized, as patches with true timestamps.

    An odd number of frames is filled up by repeating the last one, as in the released processor.
    The sound track is not touched: it is the caller's to place.
    """
    if len(video.frames):
        check_image(video.frames[0], config.min_side, "video frame")
    video = sample_frames(
        video,
        fps=config.video_fps if fps is None else fps,
        max_frames=config.max_video_frames,
        min_frames=config.min_video_frames,
        sampling=config.video_sampling,
    )
    frames = video.frames
    fill = -len(frames) % config.temporal_patch
    height, width = _video_size(frames, config)
    if frames.shape[1:3] != (height, width):
        frames = np.stack([resize_image(frame, height, width) for frame in frames])
    if fill:
        frames = np.concatenate([frames, np.repeat(frames[-1:], fill, axis=0)])
    times = patch_times(video.times, config.temporal_patch)
    spacing = float(np.median(np.diff(video.times))) if len(video.times) > 1 else 0.0
    patches = _patchify(frames, config.temporal_patch, config)
    grid = (len(frames) // config.temporal_patch, height, width)
    return _vision_arrays(patches, grid, times, spacing * config.temporal_patch, config)


def _image_size(image, config: ProcessorConfig, name: str = "image") -> tuple[int, int]:
    """(height, width) of a picture once it is resized."""
    return smart_resize(
        *image.shape[:2],
        factor=config.factor,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        name=name,
    )


def _video_size(frames, config: ProcessorConfig) -> tuple[int, int]:
    """(height, width) of each of a video's frames once they are resized."""
    if config.max_video_pixels is None and config.min_video_pixels is None:
        return _image_size(frames[0], config, "video frame")
    return smart_resize_video(
        len(frames),
        *frames.shape[1:3],
        factor=config.factor,
        temporal_patch=config.temporal_patch,
        min_pixels=config.min_video_pixels or 1,
        max_pixels=config.max_video_pixels or config.max_pixels * len(frames),
    )


# The released (x / 255 - 0.5) / 0.5, once for each of the 256 values.
_NORMALISED = ((np.arange(256, dtype=np.float32) / np.float32(255) - 0.5) / 0.5).astype(np.float32)


def _patchify(frames, together: int, config: ProcessorConfig):
    """uint8 [n, H, W, 3] -> float32 [p, 3 * together * patch**2], `together` frames to a patch."""
    count, height, width = frames.shape[:3]
    patch, merge = config.patch_size, config.spatial_merge
    blocks = frames.reshape(
        count // together, together,
        height // (merge * patch), merge, patch,
        width // (merge * patch), merge, patch, 3,
    )  # fmt: skip
    # (time, block row, block column, row in it, column in it, channel, frame, y, x)
    blocks = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return _NORMALISED[blocks.reshape(-1, 3 * together * patch * patch)]


def _vision_arrays(patches, size, times, patch_seconds, config: ProcessorConfig) -> VisionArrays:
    steps, height, width = size
    grid = (height // config.patch_size, width // config.patch_size)
    coords, grids, frames = _places(steps, *grid, config.spatial_merge)
    return VisionArrays(
        patches=patches,
        coords=coords,
        grids=grids,
        frames=frames,
        grid_thw=(steps, *grid),
        times=times,
        patch_seconds=patch_seconds,
        num_tokens=len(patches) // config.spatial_merge**2,
    )


@functools.lru_cache(maxsize=256)
def _places(steps: int, rows: int, columns: int, merge: int):
    """Coordinates of the patches in merge-block order, cached and read-only."""
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    coords = np.stack([row, column], -1).reshape(rows // merge, merge, columns // merge, merge, 2)
    coords = np.tile(coords.transpose(0, 2, 1, 3, 4).reshape(-1, 2), (steps, 1)).astype(np.int32)
    grids = np.tile(np.array([[rows, columns]], np.int32), (len(coords), 1))
    frames = np.repeat(np.arange(steps, dtype=np.int32), rows * columns)
    for array in (coords, grids, frames):
        array.flags.writeable = False
    return coords, grids, frames
