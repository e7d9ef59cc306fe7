"""The vision encoder: patches of images and video frames to tokens."""

from omnijax.models.vision.config import VisionConfig, nano, qwen3_5, qwen3_omni
from omnijax.models.vision.encoder import VisionEncoder

__all__ = ["VisionConfig", "VisionEncoder", "nano", "qwen3_5", "qwen3_omni"]
