"""Named sizes of Talkers; vary one with ``dataclasses.replace``."""

import dataclasses

from omnijax.models import presets
from omnijax.models.talker.config import TalkerConfig
from omnijax.nn.config import DecoderConfig


def nano(codebooks: int = 16, codebook_size: int = 256) -> TalkerConfig:
    """About 2.4 M parameters with the MTP, beside `omnijax.models.presets.nano` and its codec.

    Text ids are those of omnijax/assets/nano/tokenizer.json.
    """
    dense = {"experts": 0, "experts_per_token": 0, "expert_ffn": 0, "shared_expert_ffn": 0}
    narrower = {"width": 160, "head_dim": 40, "gdn_value_dim": 40, "mrope_sections": (4, 3, 3)}
    decoder = dataclasses.replace(
        presets.nano().decoder,
        **dense,
        **narrower,
        ffn=288,
        # With text held back (`SpeechConfig.lead`) a frame's text is within it, of six sentences at
        # least; of the prompt there is then what GDN's state keeps.
        attention_window=128,
    )
    mtp = DecoderConfig(
        width=80,
        layers=2,
        pattern=("full",),
        heads=2,
        kv_heads=1,
        head_dim=40,
        rope_theta=10_000.0,
        partial_rotary=1.0,
        mrope_sections=(20, 0, 0),
        ffn=208,
    )
    languages = ("de", "en", "es", "fr")  # what OmniWorld speaks
    return TalkerConfig(
        decoder=decoder,
        mtp=mtp,
        codebooks=codebooks,
        codebook_size=codebook_size,
        codec_vocab_size=codebook_size + 64,
        control_base=codebook_size,
        languages=tuple((name, codebook_size + 16 + i) for i, name in enumerate(languages)),
        text_vocab_size=1024,
        tts_pad_id=1015,
        tts_bos_id=1016,
        tts_eos_id=1017,
        thinker_width=192,
        accept_hidden_layer=3,
    )


def tiny(form: str = "aria") -> TalkerConfig:
    """Every mechanism at the least size, for tests: both mixers, MoE, an MTP of its own width."""
    decoder = dataclasses.replace(presets.tiny().decoder, accept_hidden_layer=None)
    mtp = DecoderConfig(
        width=24,
        layers=2,
        pattern=("full",),
        heads=2,
        kv_heads=1,
        head_dim=8,
        rope_theta=100.0,
        partial_rotary=1.0,
        mrope_sections=(4, 0, 0),
        ffn=32,
    )
    dual = form == "dual_track"
    return TalkerConfig(
        decoder=decoder,
        mtp=mtp,
        form=form,
        codebooks=4,
        codebook_size=16,
        codec_vocab_size=32,
        control_base=20,
        languages=(("en", 16), ("de", 17)),
        speakers=(("ethan", 18),),
        text_vocab_size=64,
        text_width=24 if dual else None,
        tts_pad_id=61,
        tts_bos_id=62,
        tts_eos_id=63,
        thinker_width=24,
        accept_hidden_layer=2,
        projection="mlp" if dual else "linear",
        projection_ffn=40 if dual else None,
    )


def qwen3_5_omni() -> TalkerConfig:
    """The described Talker: 24 hybrid layers, tables of 248,320 and 5,120 ids.

    Width, heads and experts are unpublished: those of Qwen3.5-0.8B and of Qwen3-Omni's Talker
    stand in [C], beside a Thinker on Qwen3.5-35B-A3B.
    """
    decoder = DecoderConfig(
        width=1024,
        layers=24,
        heads=8,
        kv_heads=2,
        head_dim=256,
        gdn_value_heads=16,
        experts=128,
        experts_per_token=6,
        expert_ffn=384,
        shared_expert_ffn=768,
        **_BIG,
    )
    return TalkerConfig(
        decoder=decoder,
        mtp=_released_mtp(),
        tts_pad_id=248_072,  # between audio_end and audio_pad, in Qwen3-Omni's order
        tts_bos_id=248_073,
        tts_eos_id=248_074,
        thinker_width=2048,
        accept_hidden_layer=20,  # unpublished; the middle, as Qwen3-Omni's 24 of 48 [C]
    )


def qwen3_omni_30b_a3b() -> TalkerConfig:
    """The released Qwen3-Omni Talker: attention in every layer, dual-track, no text table of its
    own ("text_embed" is the Thinker's)."""
    decoder = DecoderConfig(
        width=1024,
        layers=20,
        pattern=("full",),
        heads=16,
        kv_heads=2,
        head_dim=128,
        attention_gate=False,
        rope_theta=1e6,
        partial_rotary=1.0,
        mrope_sections=(24, 20, 20),
        norm_zero_centred=False,
        experts=128,
        experts_per_token=6,
        expert_ffn=384,
        shared_expert_ffn=768,
        **_BIG,
    )
    return TalkerConfig(
        decoder=decoder,
        mtp=_released_mtp(),
        form="dual_track",
        codec_vocab_size=3072,
        control_base=2148,
        speakers=(("chelsie", 2301), ("ethan", 2302), ("aiden", 2303)),
        text_vocab_size=152_064,
        text_width=2048,
        tts_pad_id=151_671,
        tts_bos_id=151_672,
        tts_eos_id=151_673,
        thinker_width=2048,
        accept_hidden_layer=24,
        projection="mlp",
        projection_ffn=2048,
    )


_BIG = {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "full"}


def _released_mtp() -> DecoderConfig:
    """Qwen3OmniMoeTalkerCodePredictorConfig's sizes."""
    return DecoderConfig(
        width=1024,
        layers=5,
        pattern=("full",),
        heads=16,
        kv_heads=8,
        head_dim=128,
        attention_gate=False,
        rope_theta=1e6,
        partial_rotary=1.0,
        mrope_sections=(64, 0, 0),
        norm_zero_centred=False,
        ffn=3072,
        **_BIG,
    )
