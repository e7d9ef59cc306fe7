"""The speech codec: 24 kHz samples to 12.5 frames of codes a second, and back."""

from omnijax.models.codec.code2wav import Code2Wav, Code2WavState
from omnijax.models.codec.codec import Codec
from omnijax.models.codec.config import (
    SAMPLE_RATE,
    Code2WavConfig,
    CodecConfig,
    HarmonicsConfig,
    QuantiserConfig,
    SeanetConfig,
    TransformerConfig,
    mimi_encoder,
    nano,
    qwen3_5_omni,
    qwen3_omni,
    qwen3_omni_code2wav,
)
from omnijax.models.codec.encoder import CodecEncoder, EncoderState
from omnijax.models.codec.quantiser import SplitRVQ
from omnijax.models.codec.streaming import (
    EncodeStream,
    check_codes,
    decode_clip,
    encode_clip,
    flush_encode,
    init_decode_state,
    init_encode_state,
    init_encode_stream,
    restart_rows,
    stream_decode,
    stream_encode,
)

__all__ = [
    "SAMPLE_RATE",
    "Code2Wav",
    "Code2WavConfig",
    "Code2WavState",
    "Codec",
    "CodecConfig",
    "CodecEncoder",
    "EncodeStream",
    "EncoderState",
    "HarmonicsConfig",
    "QuantiserConfig",
    "SeanetConfig",
    "SplitRVQ",
    "TransformerConfig",
    "check_codes",
    "decode_clip",
    "encode_clip",
    "flush_encode",
    "init_decode_state",
    "init_encode_state",
    "init_encode_stream",
    "mimi_encoder",
    "nano",
    "qwen3_5_omni",
    "qwen3_omni",
    "qwen3_omni_code2wav",
    "restart_rows",
    "stream_decode",
    "stream_encode",
]
