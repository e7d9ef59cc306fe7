"""Media to arrays: mel, sound, pictures, video, and the processor that lays them out."""

from omnijax.media.audio import Audio, check_audio, load_audio, resample, save_audio
from omnijax.media.image import check_image, load_image, resize_image, smart_resize
from omnijax.media.mel import MelConfig, MelState, flush_stream, init_stream, log_mel, stream_mel
from omnijax.media.processor import (
    AudioArrays,
    ProcessorConfig,
    VisionArrays,
    audio_arrays,
    audio_tokens,
    image_arrays,
    nano_processor,
    open_audio,
    open_image,
    open_video,
    video_arrays,
)
from omnijax.media.video import Video, check_video, load_video, sample_frames, write_video

__all__ = [
    "Audio",
    "AudioArrays",
    "MelConfig",
    "MelState",
    "ProcessorConfig",
    "Video",
    "VisionArrays",
    "audio_arrays",
    "audio_tokens",
    "check_audio",
    "check_image",
    "check_video",
    "flush_stream",
    "image_arrays",
    "init_stream",
    "load_audio",
    "load_image",
    "load_video",
    "log_mel",
    "nano_processor",
    "open_audio",
    "open_image",
    "open_video",
    "resample",
    "resize_image",
    "sample_frames",
    "save_audio",
    "smart_resize",
    "stream_mel",
    "video_arrays",
    "write_video",
]
