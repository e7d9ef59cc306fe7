"""Named sizes: functions that return a ThinkerConfig; vary one with ``dataclasses.replace``."""

import dataclasses

from omnijax.models import aut, vision
from omnijax.models.thinker.config import ThinkerConfig
from omnijax.nn.config import DecoderConfig

QWEN3_5_VOCAB = 248_320


def nano() -> ThinkerConfig:
    """About 5 M parameters: trains on two CPU cores in hours.

    Attention in every second layer, not every fourth as in the released decoders: at four layers
    a 3:1 pattern would leave it the last layer only. Token ids are those of
    omnijax/assets/nano/tokenizer.json.
    """
    decoder = DecoderConfig(
        width=192,
        layers=4,
        pattern=("gdn", "full"),
        heads=4,
        kv_heads=2,
        head_dim=48,
        rope_theta=10_000.0,
        partial_rotary=0.5,
        mrope_sections=(4, 4, 4),
        gdn_key_heads=4,
        gdn_value_heads=4,
        gdn_key_dim=32,
        gdn_value_dim=48,
        gdn_chunk=32,
        experts=8,
        experts_per_token=2,
        expert_ffn=64,
        shared_expert_ffn=128,
    )
    return ThinkerConfig(
        decoder=decoder,
        vocab_size=1024,
        tie_embeddings=True,
        aut=aut.nano(),
        vision=vision.nano(),
        image_token_id=1010,
        video_token_id=1011,
        audio_token_id=1014,
    )


def tiny() -> ThinkerConfig:
    """Every mechanism (both mixers, MoE, both encoders, DeepStack) at the least size: for tests."""
    decoder = DecoderConfig(
        width=32,
        layers=4,
        pattern=("gdn", "full"),
        heads=4,
        kv_heads=2,
        head_dim=16,
        rope_theta=100.0,
        partial_rotary=0.5,
        mrope_sections=(2, 1, 1),
        gdn_key_heads=2,
        gdn_value_heads=4,
        gdn_key_dim=8,
        gdn_value_dim=8,
        gdn_chunk=16,
        experts=4,
        experts_per_token=2,
        expert_ffn=16,
        shared_expert_ffn=16,
        accept_hidden_layer=3,
    )
    encoder = {"width": 16, "layers": 2, "heads": 2, "ffn": 32, "out_width": 32}
    return ThinkerConfig(
        decoder=decoder,
        vocab_size=64,
        aut=aut.AuTConfig(mel_bins=16, chunk_frames=32, conv_channels=(4,) * 4, **encoder),
        vision=vision.VisionConfig(patch_size=2, grid_side=4, deepstack_layers=(0,), **encoder),
        audio_token_id=61,
        image_token_id=62,
        video_token_id=63,
    )


def qwen3_5_397b_a17b() -> ThinkerConfig:
    return _qwen3_5_moe(
        width=4096, layers=60, heads=32, values=64, experts=512, top=10, ffn=1024, shared=1024
    )


def qwen3_5_122b_a10b() -> ThinkerConfig:
    return _qwen3_5_moe(
        width=3072, layers=48, heads=32, values=64, experts=256, top=8, ffn=1024, shared=1024
    )


def qwen3_5_35b_a3b() -> ThinkerConfig:
    return _qwen3_5_moe(
        width=2048, layers=40, heads=16, values=32, experts=256, top=8, ffn=512, shared=512
    )


def qwen3_5_27b() -> ThinkerConfig:
    return _qwen3_5_dense(width=5120, layers=64, heads=24, kv_heads=4, values=48, ffn=17_408)


def qwen3_5_9b() -> ThinkerConfig:
    return _qwen3_5_dense(width=4096, layers=32, heads=16, kv_heads=4, values=32, ffn=12_288)


def qwen3_5_4b() -> ThinkerConfig:
    return _qwen3_5_dense(
        width=2560, layers=32, heads=16, kv_heads=4, values=32, ffn=9216, tied=True
    )


def qwen3_5_2b() -> ThinkerConfig:
    return _qwen3_5_dense(
        width=2048, layers=24, heads=8, kv_heads=2, values=16, ffn=6144, tied=True
    )


def qwen3_5_0_8b() -> ThinkerConfig:
    return _qwen3_5_dense(
        width=1024, layers=24, heads=8, kv_heads=2, values=16, ffn=3584, tied=True
    )


def qwen3_5_omni_35b_a3b() -> ThinkerConfig:
    """The described system on the released 35B-A3B decoder; the real Omni's size is unpublished."""
    config = qwen3_5_35b_a3b()
    encoder = dataclasses.replace(aut.qwen3_5_omni_16x(), out_width=config.decoder.width)
    return dataclasses.replace(config, aut=encoder)


def qwen3_omni_30b_a3b() -> ThinkerConfig:
    """The released Qwen3-Omni Thinker: attention in every layer, AuT at 8x, DeepStack."""
    decoder = DecoderConfig(
        width=2048,
        layers=48,
        pattern=("full",),
        heads=32,
        kv_heads=4,
        head_dim=128,
        attention_gate=False,
        rope_theta=1e6,
        partial_rotary=1.0,
        mrope_sections=(24, 20, 20),
        norm_zero_centred=False,
        experts=128,
        experts_per_token=8,
        expert_ffn=768,
        dtype="bfloat16",
        param_dtype="bfloat16",
        remat="full",
    )
    return ThinkerConfig(
        decoder=decoder,
        vocab_size=152_064,
        aut=aut.qwen3_omni_8x(),
        vision=vision.qwen3_omni(),
        audio_token_id=151_675,
        image_token_id=151_655,
        video_token_id=151_656,
    )


def _qwen3_5_moe(*, width, layers, heads, values, experts, top, ffn, shared) -> ThinkerConfig:
    decoder = _decoder(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=2,
        gdn_value_heads=values,
        experts=experts,
        experts_per_token=top,
        expert_ffn=ffn,
        shared_expert_ffn=shared,
    )
    return ThinkerConfig(decoder=decoder, vocab_size=QWEN3_5_VOCAB, vision=vision.qwen3_5(width))


def _qwen3_5_dense(*, width, layers, heads, kv_heads, values, ffn, tied=False) -> ThinkerConfig:
    decoder = _decoder(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        gdn_value_heads=values,
        ffn=ffn,
    )
    return ThinkerConfig(
        decoder=decoder,
        vocab_size=QWEN3_5_VOCAB,
        tie_embeddings=tied,
        vision=vision.qwen3_5(width),
    )


def _decoder(**sizes) -> DecoderConfig:
    """What all released Qwen3.5 decoders share."""
    return DecoderConfig(
        head_dim=256, dtype="bfloat16", param_dtype="bfloat16", remat="full", **sizes
    )
