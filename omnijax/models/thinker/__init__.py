"""The Thinker: a hybrid-attention decoder that reads text, audio, images and video."""

from omnijax.models.thinker.config import ThinkerConfig
from omnijax.models.thinker.inputs import (
    AudioInputs,
    ThinkerInputs,
    VisionInputs,
    check_media,
    text_inputs,
)
from omnijax.models.thinker.thinker import Thinker, ThinkerOutput

__all__ = [
    "AudioInputs",
    "Thinker",
    "ThinkerConfig",
    "ThinkerInputs",
    "ThinkerOutput",
    "VisionInputs",
    "check_media",
    "text_inputs",
]
