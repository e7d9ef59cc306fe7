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
from omnijax.models.aut.streaming import AuTState, flush_stream, init_stream, stream_aut

__all__ = [
    "AuT",
    "AuTConfig",
    "AuTDecoder",
    "AuTDecoderConfig",
    "AuTState",
    "flush_stream",
    "init_stream",
    "nano",
    "nano_decoder",
    "qwen3_5_omni_16x",
    "qwen3_omni_8x",
    "stream_aut",
    "token_lengths",
    "window_ids",
]
