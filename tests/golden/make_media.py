"""Writes tests/golden/media.npz from transformers' processors: run it in the parity environment.

python tests/golden/make_media.py
"""

from pathlib import Path

import numpy as np
import torch
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as image_resize
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as video_resize
from transformers.video_utils import VideoMetadata

LIMITS = {"min_pixels": 1024, "max_pixels": 9216}


def speech_like(rng, samples: int) -> np.ndarray:
    """Gliding harmonics under a slow envelope, a little noise, a silent stretch; int16."""
    t = np.arange(samples) / 16_000
    phase = 2 * np.pi * np.cumsum(120 + 60 * np.sin(3 * t)) / 16_000
    wave = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.sin(4 * np.pi * t) ** 2
    wave = 0.2 * wave + 0.01 * rng.standard_normal(samples)
    wave[samples // 2 : samples // 2 + samples // 8] = 0
    return np.clip(wave * 32767, -32768, 32767).astype(np.int16)


def whisper_mel(samples: np.ndarray) -> np.ndarray:
    extractor = WhisperFeatureExtractor(feature_size=128)
    if len(samples) <= 200:  # torch cannot mirror so short a clip, the numpy form can
        return extractor._np_extract_fbank_features(samples[None], "cpu")[0].T
    out = extractor(
        samples, sampling_rate=16_000, padding="do_not_pad", truncation=False, return_tensors="np"
    )
    return out["input_features"][0].T


def image_patches(image: np.ndarray, **limits) -> tuple[np.ndarray, np.ndarray]:
    processor = Qwen2VLImageProcessorPil(
        patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, **limits
    )
    out = processor(image, return_tensors="np")
    return out["pixel_values"], out["image_grid_thw"][0]


def video_patches(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Its patchify alone: the resize before it needs torchvision."""
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float()
    video = (video / 255 - 0.5) / 0.5
    patches, *grid = Qwen3VLVideoProcessor().patchify(video, 16, 2, 2)
    return patches[0].numpy(), np.array(grid)


def sampled(total: int, source_fps: float, fps: float) -> np.ndarray:
    metadata = VideoMetadata(total_num_frames=total, fps=source_fps, duration=total / source_fps)
    return Qwen3VLVideoProcessor().sample_frames(metadata, fps=fps)


def timestamps(indices: np.ndarray, source_fps: float) -> np.ndarray:
    return np.array(Qwen3VLProcessor._calculate_timestamps(None, indices, source_fps, 2))


def main() -> None:
    rng = np.random.default_rng(0)
    out = {}
    for name, samples in {"long": 6_345, "short": 170}.items():
        out[f"audio_{name}"] = speech_like(rng, samples)
        out[f"mel_{name}"] = whisper_mel(out[f"audio_{name}"].astype(np.float32) / 32768)
    shapes = {"kept": (32, 64), "resized": (75, 41), "large": (90, 300)}
    for name, (height, width) in shapes.items():
        y, x = np.mgrid[:height, :width]
        image = np.stack([3 * x + y, x * y // 16, 255 - 2 * y], -1) % 256
        out[f"image_{name}"] = image.astype(np.uint8)
        patches, grid = image_patches(out[f"image_{name}"], **LIMITS)
        out[f"patches_{name}"], out[f"grid_{name}"] = patches, grid
    out["video"] = rng.integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)
    out["video_patches"], out["video_grid"] = video_patches(out["video"])
    sizes = rng.integers(16, 2000, (200, 2))
    sizes = sizes[sizes.max(1) < 200 * sizes.min(1)]
    out["sizes"] = sizes
    out["resized"] = np.array(
        [image_resize(h, w, 32, 65_536, 1_048_576) for h, w in sizes.tolist()]
    )
    counts = rng.integers(2, 60, len(sizes))
    out["counts"] = counts
    out["resized_video"] = np.array(
        [
            video_resize(n, h, w, 2, 32, 131_072, 786_432)
            for n, (h, w) in zip(counts.tolist(), sizes.tolist(), strict=True)
        ]
    )
    out["sampled_90_of_30_at_2"] = sampled(90, 30.0, 2.0)
    out["sampled_100_of_24_at_4"] = sampled(100, 24.0, 4.0)
    out["timestamps_of_that"] = timestamps(out["sampled_100_of_24_at_4"][:7], 24.0)
    np.savez_compressed(Path(__file__).parent / "media.npz", **out)


if __name__ == "__main__":
    main()
