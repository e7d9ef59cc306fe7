"""All mathematics: arrays in, arrays out."""

from omnijax.ops.attention import attention, windowed_attention
from omnijax.ops.causal_conv import causal_conv
from omnijax.ops.experts import expert_ffn
from omnijax.ops.gated_delta_rule import (
    gated_delta_rule,
    gated_delta_step,
    gated_delta_transition,
)
from omnijax.ops.grouped_matmul import grouped_matmul
from omnijax.ops.rotary import apply_rotary, mrope_angles, rotary_angles, rotary_angles_2d
from omnijax.ops.snake import sine_squared

__all__ = [
    "apply_rotary",
    "attention",
    "causal_conv",
    "expert_ffn",
    "gated_delta_rule",
    "gated_delta_step",
    "gated_delta_transition",
    "grouped_matmul",
    "mrope_angles",
    "rotary_angles",
    "rotary_angles_2d",
    "sine_squared",
    "windowed_attention",
]
