"""The hybrid decoder's configuration: Thinker, Talker, MTP and every ablation are values of it."""

import dataclasses

from omnijax.errors import UserError
from omnijax.ops.rotary import mrope_axes

MIXERS = ("gdn", "full")
DTYPES = ("float32", "bfloat16")
REMAT = ("none", "dots", "full")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and choices of a HybridDecoder; checked when made.

    ``pattern`` names the mixers of one period ("gdn" or "full"), which repeats ``layers /
    len(pattern)`` times; a string such as "full" or "gdn,full" is read as a tuple.
    Every layer's feed-forward is dense of width ``ffn``, or a mixture when ``experts`` > 0.
    """

    width: int
    layers: int
    pattern: tuple[str, ...] | str = ("gdn", "gdn", "gdn", "full")

    heads: int  # of full attention
    kv_heads: int
    head_dim: int
    attention_gate: bool = True  # W_q emits [query | gate] (Qwen3.5); off for Qwen3-Omni
    rope_theta: float = 1e7
    partial_rotary: float = 0.25  # share of head_dim that turns
    mrope_sections: tuple[int, int, int] = (11, 11, 10)  # time, height, width frequencies
    mrope_interleaved: bool = True
    # A token sees so many, itself included; 0: all before it. A cache stays as large as it is.
    attention_window: int = 0
    attention_implementation: str | None = None

    gdn_key_heads: int = 16
    gdn_value_heads: int = 32
    gdn_key_dim: int = 128
    gdn_value_dim: int = 128
    conv_width: int = 4
    gdn_chunk: int = 64
    gdn_implementation: str | None = None

    ffn: int | None = None  # dense width, where experts == 0
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: int = 0
    shared_expert_ffn: int = 0  # 0: no shared expert (Qwen3-Omni)
    moe_implementation: str | None = None

    norm_eps: float = 1e-6
    norm_zero_centred: bool = True  # x_hat (1 + w) (Qwen3.5); off: x_hat w (Qwen3-Omni)
    dtype: str = "float32"  # of activations and matmuls
    param_dtype: str = "float32"
    remat: str = "none"  # what the backward pass computes again: nothing, all but dots, all
    scan_layers: bool = True
    accept_hidden_layer: int | None = None  # aux.hidden is the stream after that many layers

    def __post_init__(self):
        if isinstance(self.pattern, str):
            parts = tuple(part.strip() for part in self.pattern.split(",") if part.strip())
            object.__setattr__(self, "pattern", parts)
        object.__setattr__(self, "pattern", tuple(self.pattern))
        object.__setattr__(self, "mrope_sections", tuple(self.mrope_sections))
        self._check()

    @property
    def periods(self) -> int:
        return self.layers // len(self.pattern)

    @property
    def rotary_dim(self) -> int:
        return int(self.head_dim * self.partial_rotary)

    def mixer(self, layer: int) -> str:
        return self.pattern[layer % len(self.pattern)]

    def _check(self) -> None:
        positive = ["width", "layers", "heads", "kv_heads", "head_dim"]
        if "gdn" in self.pattern:
            positive += ["gdn_key_heads", "gdn_value_heads", "gdn_key_dim", "gdn_value_dim"]
            positive += ["conv_width", "gdn_chunk"]
        positive += ["experts_per_token", "expert_ffn"] if self.experts else ["ffn"]
        for name in positive:
            if not getattr(self, name) or getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be at least 1")
        for name, known in (("dtype", DTYPES), ("param_dtype", DTYPES), ("remat", REMAT)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}, it must be one of {known}")
        if self.attention_window < 0:
            raise UserError(
                f"attention_window is {self.attention_window}, it must be at least 1, or 0 for all"
            )
        if self.attention_window and "full" not in self.pattern:
            raise UserError(
                f"attention_window is {self.attention_window}, the pattern {self.pattern} has no "
                "attention"
            )
        if not self.pattern or any(mixer not in MIXERS for mixer in self.pattern):
            raise UserError(f"pattern is {self.pattern}, each part must be one of {MIXERS}")
        if self.layers % len(self.pattern):
            raise UserError(
                f"layers is {self.layers}, not a multiple of the pattern's {len(self.pattern)}"
            )
        if self.heads % self.kv_heads:
            raise UserError(f"heads is {self.heads}, not a multiple of kv_heads {self.kv_heads}")
        if "gdn" in self.pattern and self.gdn_value_heads % self.gdn_key_heads:
            raise UserError(
                f"gdn_value_heads is {self.gdn_value_heads}, "
                f"not a multiple of gdn_key_heads {self.gdn_key_heads}"
            )
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise UserError(
                f"partial_rotary is {self.partial_rotary}: {self.rotary_dim} of {self.head_dim} "
                "dims would turn, which must be an even number from 2 to head_dim"
            )
        if len(self.mrope_sections) != 3 or sum(self.mrope_sections) != self.rotary_dim // 2:
            raise UserError(
                f"mrope_sections is {self.mrope_sections}, three numbers that must add up to "
                f"{self.rotary_dim // 2} frequencies (half of head_dim * partial_rotary)"
            )
        mrope_axes(self.rotary_dim // 2, tuple(self.mrope_sections), self.mrope_interleaved)
        if self.experts < 0 or self.experts_per_token > self.experts:
            raise UserError(
                f"experts_per_token is {self.experts_per_token}, there are {self.experts} experts"
            )
        accept = self.accept_hidden_layer
        if accept is not None and not 0 <= accept <= self.layers:
            raise UserError(f"accept_hidden_layer is {accept}, it must be 0 to {self.layers}")
