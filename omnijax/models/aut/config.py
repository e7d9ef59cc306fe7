"""Sizes of the AuT audio encoder."""

import dataclasses
import math

from omnijax.nn.encoder import EncoderConfig, check, check_dtypes


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuTConfig:
    """Mel chunk -> strided convolutions -> windowed transformer -> features of the LLM's width.

    A mel chunk of `chunk_frames` gives `ceil(chunk_frames / downsample)` tokens. Of the released
    encoders the 8x one is known (`qwen3_omni_8x`); for the 16x one only the rate is published, its
    chunk length is this project's choice: 160 frames, ten tokens of exactly 160 ms.
    """

    mel_bins: int = 128
    chunk_frames: int = 160
    downsample: int = 16  # one stride-2 convolution for each factor of two
    conv_channels: tuple[int, ...] = (480, 480, 480, 480)
    width: int = 1280
    layers: int = 32
    heads: int = 20
    ffn: int = 5120
    out_width: int = 2048
    norm_eps: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = True
    remat: bool = False

    def __post_init__(self):
        for field in ("mel_bins", "chunk_frames", "width", "layers", "heads", "ffn", "out_width"):
            value = getattr(self, field)
            check(value >= 1, f"AuTConfig.{field} is {value}, it must be at least 1")
        check(
            self.downsample >= 2 and self.downsample & (self.downsample - 1) == 0,
            f"AuTConfig.downsample is {self.downsample}, it must be a power of two from 2 on",
        )
        check(
            len(self.conv_channels) == self.convs,
            f"AuTConfig.conv_channels has {len(self.conv_channels)} entries, "
            f"downsample {self.downsample} needs {self.convs}",
        )
        check(
            min(self.conv_channels) >= 1,
            f"AuTConfig.conv_channels is {self.conv_channels}, each must be at least 1",
        )
        check(
            self.width % self.heads == 0,
            f"AuTConfig.width {self.width} is not a multiple of heads {self.heads}",
        )
        check(
            self.width % 2 == 0 and self.width > 2,
            f"AuTConfig.width is {self.width}, sinusoidal positions need an even width above 2",
        )
        check_dtypes(self)

    @property
    def convs(self) -> int:
        return int(math.log2(self.downsample))

    @property
    def tokens_per_chunk(self) -> int:
        return -(-self.chunk_frames // self.downsample)

    @property
    def encoder(self) -> EncoderConfig:
        return EncoderConfig(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            ffn=self.ffn,
            activation="gelu",
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            scan_layers=self.scan_layers,
            remat=self.remat,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuTDecoderConfig:
    """The attention decoder that AuT is pretrained with; thrown away afterwards."""

    vocab_size: int
    feature_width: int  # AuTConfig.out_width
    width: int = 1280
    layers: int = 32
    heads: int = 20
    ffn: int = 5120
    norm_eps: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        for field in ("vocab_size", "feature_width", "width", "layers", "heads", "ffn"):
            value = getattr(self, field)
            check(value >= 1, f"AuTDecoderConfig.{field} is {value}, it must be at least 1")
        check(
            self.width % self.heads == 0,
            f"AuTDecoderConfig.width {self.width} is not a multiple of heads {self.heads}",
        )
        for field in ("width", "feature_width"):
            value = getattr(self, field)
            check(
                value % 2 == 0 and value > 2,
                f"AuTDecoderConfig.{field} is {value}, sinusoidal positions need an even width "
                "above 2",
            )
        check_dtypes(self)


def qwen3_omni_8x() -> AuTConfig:
    """The released audio encoder of Qwen3-Omni-30B-A3B: 13 tokens a second."""
    return AuTConfig(chunk_frames=100, downsample=8, conv_channels=(480,) * 3)


def qwen3_5_omni_16x() -> AuTConfig:
    """The described 16x encoder at 6.25 Hz; widths, which are unpublished, as in the 8x one."""
    return AuTConfig()


def nano() -> AuTConfig:
    """Trains on two CPU cores; the early convolutions, which see the most frames, are narrow."""
    return AuTConfig(
        chunk_frames=80,
        conv_channels=(16, 32, 48, 64),
        width=192,
        layers=4,
        heads=4,
        ffn=512,
        out_width=192,
    )


def nano_decoder(vocab_size: int = 1024) -> AuTDecoderConfig:
    """The pretraining decoder of `nano`."""
    return AuTDecoderConfig(
        vocab_size=vocab_size, feature_width=192, width=192, layers=2, heads=4, ffn=512
    )
