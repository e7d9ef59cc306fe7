"""Writes tests/golden/thinker.npz from transformers' text models: run in the parity environment.

python tests/golden/make_thinker.py
"""

from pathlib import Path

import numpy as np
import thinker_cases as cases
import torch
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextModel
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import (
    Qwen3_5MoeTextModel,
    load_balancing_loss_func,
)

__all__ = ["load_balancing_loss_func", "released_model", "released_output"]


def released_model(config, params):
    """The released text model of the config's sizes, with our weights; eager attention."""
    c = config
    sizes = {
        "vocab_size": cases.VOCAB,
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "linear_conv_kernel_dim": c.conv_width,
        "linear_num_key_heads": c.gdn_key_heads,
        "linear_num_value_heads": c.gdn_value_heads,
        "linear_key_head_dim": c.gdn_key_dim,
        "linear_value_head_dim": c.gdn_value_dim,
        "rms_norm_eps": c.norm_eps,
        "attn_implementation": "eager",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": c.rope_theta,
            "partial_rotary_factor": c.partial_rotary,
            "mrope_section": list(c.mrope_sections),
            "mrope_interleaved": True,
        },
    }
    if c.experts:
        experts = {
            "num_experts": c.experts,
            "num_experts_per_tok": c.experts_per_token,
            "moe_intermediate_size": c.expert_ffn,
            "shared_expert_intermediate_size": c.shared_expert_ffn,
        }
        model = Qwen3_5MoeTextModel(Qwen3_5MoeTextConfig(**sizes, **experts))
    else:
        model = Qwen3_5TextModel(Qwen3_5TextConfig(**sizes, intermediate_size=c.ffn))
    weights = cases.released(params, c)
    model.load_state_dict({name: torch.tensor(w.copy()) for name, w in weights.items()})
    return model.eval()


@torch.no_grad()
def released_output(model) -> np.ndarray:
    output = model(
        input_ids=torch.tensor(cases.tokens()).long(),
        attention_mask=torch.tensor(cases.segment_ids()).long(),
        position_ids=torch.tensor(cases.positions()).long(),
        use_cache=False,
    )
    return output.last_hidden_state.numpy()


def main():
    outputs = {}
    for name, config in (("moe", cases.CONFIG), ("dense", cases.DENSE)):
        model = released_model(config, cases.random_params(config))
        outputs[name] = released_output(model).astype(np.float32)
    np.savez_compressed(Path(__file__).with_name("thinker.npz"), **outputs)


if __name__ == "__main__":
    main()
