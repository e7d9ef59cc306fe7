"""Writes tests/golden/encoders.npz from transformers' encoders: run it in the parity environment.

python tests/golden/make_encoders.py
"""

from pathlib import Path

import encoder_cases as cases
import numpy as np
import torch
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeVisionConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeVisionModel
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import (
    Qwen3OmniMoeAudioEncoderConfig,
    Qwen3OmniMoeVisionEncoderConfig,
)
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeAudioEncoder,
    Qwen3OmniMoeVisionEncoder,
)

from omnijax.models.aut import AuT
from omnijax.models.vision import VisionEncoder


def load(model, table, params):
    weights = cases.to_released(table, params)
    model.load_state_dict({name: torch.tensor(w.copy()) for name, w in weights.items()})
    return model.eval()


def aut_params():
    return cases.random_params(AuT(cases.AUT), *cases.mel_rows(cases.mel_clips("several")))


def released_aut() -> Qwen3OmniMoeAudioEncoder:
    config = cases.AUT
    released = Qwen3OmniMoeAudioEncoder(
        Qwen3OmniMoeAudioEncoderConfig(
            num_mel_bins=config.mel_bins,
            encoder_layers=config.layers,
            encoder_attention_heads=config.heads,
            encoder_ffn_dim=config.ffn,
            d_model=config.width,
            n_window=config.chunk_frames // 2,
            n_window_infer=config.chunk_frames * cases.AUT_WINDOW_CHUNKS,
            output_dim=config.out_width,
            downsample_hidden_size=config.conv_channels[0],
        )
    )
    return load(released, cases.AUT_TABLE, aut_params())


@torch.no_grad()
def aut_output(model, clips) -> np.ndarray:
    """Tokens of all clips, one after the other."""
    features = torch.tensor(np.concatenate(clips).T.copy())
    lengths = torch.tensor([len(clip) for clip in clips])
    return model(features, feature_lens=lengths).last_hidden_state.numpy()


def vision_params(config):
    return cases.random_params(VisionEncoder(config), *cases.patch_row("images", config))


def released_vision(config):
    sizes = {
        "depth": config.layers,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_heads": config.heads,
        "patch_size": config.patch_size,
        "out_hidden_size": config.out_width,
        "num_position_embeddings": config.grid_side**2,
    }
    if config.deepstack_layers:
        sizes["deepstack_visual_indexes"] = config.deepstack_layers
        model = Qwen3OmniMoeVisionEncoder(Qwen3OmniMoeVisionEncoderConfig(**sizes))
        return load(model, cases.VISION_DEEPSTACK_TABLE, vision_params(config))
    model = Qwen3_5MoeVisionModel(Qwen3_5MoeVisionConfig(**sizes))
    return load(model, cases.VISION_TABLE, vision_params(config))


@torch.no_grad()
def vision_output(model, name, config) -> list[np.ndarray]:
    """Tokens of all images and videos, and those of the DeepStack layers."""
    patches = torch.tensor(cases.patch_row(name, config)[0][0])
    out = model(patches, grid_thw=torch.tensor(cases.VISION_GRIDS[name]))
    deepstack = getattr(out, "deepstack_features", None) or []
    return [out.pooler_output.numpy(), *(h.numpy() for h in deepstack)]


def main():
    model = released_aut()
    golden = {f"aut_{name}": aut_output(model, cases.mel_clips(name)) for name in cases.AUT_CLIPS}
    for kind, config in (("vision", cases.VISION), ("deepstack", cases.VISION_DEEPSTACK)):
        model = released_vision(config)
        for name in cases.VISION_GRIDS:
            for i, tokens in enumerate(vision_output(model, name, config)):
                golden[f"{kind}_{name}_{i}"] = tokens
    np.savez_compressed(Path(__file__).with_name("encoders.npz"), **golden)
    print({name: (x.shape, float(np.abs(x).mean())) for name, x in golden.items()})


if __name__ == "__main__":
    main()
