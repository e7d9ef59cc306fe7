"""Sizes of the vision encoder."""

import dataclasses

from omnijax.nn.encoder import EncoderConfig, check, check_dtypes


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Patches -> transformer with learned and rotary 2-D positions -> 2x2 merge to LLM width."""

    patch_size: int = 16
    temporal_patch: int = 2
    channels: int = 3
    spatial_merge: int = 2
    grid_side: int = 48  # the learned position grid is grid_side x grid_side, interpolated
    width: int = 1152
    layers: int = 27
    heads: int = 16
    ffn: int = 4304
    out_width: int = 3584
    deepstack_layers: tuple[int, ...] = ()  # 0-based; their merged outputs are returned too
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = True
    remat: bool = False

    def __post_init__(self):
        for field in (
            "patch_size",
            "temporal_patch",
            "channels",
            "spatial_merge",
            "grid_side",
            "width",
            "layers",
            "heads",
            "ffn",
            "out_width",
        ):
            value = getattr(self, field)
            check(value >= 1, f"VisionConfig.{field} is {value}, it must be at least 1")
        check(
            self.width % (4 * self.heads) == 0,
            f"VisionConfig.width is {self.width}, 2-D rotary positions need a multiple of "
            f"4 * heads = {4 * self.heads}",
        )
        for layer in self.deepstack_layers:
            check(
                0 <= layer < self.layers,
                f"VisionConfig.deepstack_layers has {layer}, layers are 0 to {self.layers - 1}",
            )
        check_dtypes(self)

    @property
    def patch_dim(self) -> int:
        return self.temporal_patch * self.channels * self.patch_size**2

    @property
    def merge_unit(self) -> int:
        """Patches that become one token."""
        return self.spatial_merge**2

    @property
    def encoder(self) -> EncoderConfig:
        return EncoderConfig(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            ffn=self.ffn,
            activation="gelu_tanh",
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            scan_layers=self.scan_layers,
            remat=self.remat,
        )


def qwen3_5(out_width: int = 2048) -> VisionConfig:
    """The released vision encoder of Qwen3.5-MoE; `out_width` is the LLM's width."""
    return VisionConfig(out_width=out_width)


def qwen3_omni() -> VisionConfig:
    """The released vision encoder of Qwen3-Omni-30B-A3B, with DeepStack."""
    return VisionConfig(out_width=2048, deepstack_layers=(8, 16, 24))


def nano() -> VisionConfig:
    """Trains on two CPU cores."""
    return VisionConfig(grid_side=12, width=128, layers=3, heads=4, ffn=384, out_width=192)
