"""AuT, the audio encoder: mel chunks to tokens of 160 ms, whole or streamed."""

from omnijax.models.aut.config import (
    AuTConfig,
    AuTDecoderConfig,
    nano,
    nano_decoder,
    qwen3_5_omni_16x,
    qwen3_omni_8x,
)
from omnijax.models.aut.decoder import AuTDecoder
from omnijax.models.aut.encoder import AuT, token_lengths, window_ids

__all__ = [
    "AuT",
    "AuTConfig",
    "AuTDecoder",
    "AuTDecoderConfig",
    "nano",
    "nano_decoder",
    "qwen3_5_omni_16x",
    "qwen3_omni_8x",
    "token_lengths",
    "window_ids",
]
