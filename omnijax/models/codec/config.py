"""Sizes of the speech codec: encoder, quantiser, Code2Wav."""

import dataclasses
import math

import numpy as np

from omnijax.nn.encoder import check, check_dtypes

SAMPLE_RATE = 24_000  # samples a second, of every codec here
NORMS = ("rms", "layer")
LOOKUPS = ("rvq", "table")
TRIMS = ("right", "both")


def check_positive(config, *fields: str) -> None:
    for field in fields:
        value = getattr(config, field)
        check(value >= 1, f"{type(config).__name__}.{field} is {value}, it must be at least 1")


def check_each_positive(config, *fields: str) -> None:
    for field in fields:
        value = tuple(getattr(config, field))
        object.__setattr__(config, field, value)
        check(
            len(value) > 0 and min(value) >= 1,
            f"{type(config).__name__}.{field} is {value}, it must name numbers of at least 1",
        )


def check_same_dtype(config) -> None:
    """What a transformer reads has its dtype: its layers are scanned."""
    name, inner = type(config).__name__, config.transformer.dtype
    check(
        config.dtype == inner,
        f"{name}.dtype is {config.dtype}, its transformer's is {inner}: they must be equal",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Causal attention over the last `window` positions, RoPE, LayerScale; no bias anywhere.

    norm: "rms" with a gated feed-forward and a norm at the end (Code2Wav), or "layer" with a plain
    GELU feed-forward and none (Mimi).
    """

    width: int
    layers: int
    heads: int
    head_dim: int
    ffn: int
    window: int  # a position sees itself and window - 1 before it
    norm: str = "rms"
    norm_eps: float = 1e-5
    layer_scale: float = 0.01  # where each branch's scale starts
    rope_theta: float = 10_000.0
    scan_layers: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_positive(self, "width", "layers", "heads", "head_dim", "ffn", "window")
        check(
            self.head_dim % 2 == 0,
            f"TransformerConfig.head_dim is {self.head_dim}, rotary positions need an even one",
        )
        check(
            self.norm in NORMS,
            f"TransformerConfig.norm is {self.norm!r}, it must be one of {NORMS}",
        )
        check_dtypes(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantiserConfig:
    """Split residual quantiser: `semantic` codebooks on one projection, the rest on another."""

    features: int  # width of what is quantised and of what comes back
    codebooks: int = 16
    semantic: int = 1
    size: int = 2048  # codes of a codebook
    width: int = 256  # of a code
    # Training only.
    decay: float = 0.99  # of the moving averages that the codes follow
    dead_below: float = 0.1  # a code used less than this share of the mean moves beside another
    dropout: float = 0.5  # share of clips that keep only a random prefix of the codebooks
    # Share of clips that are not quantised at all (Moshi, arXiv 2410.00037): encoder and Code2Wav
    # learn from these while codes are still far from what they stand for.
    plain: float = 0.5
    kmeans_steps: int = 10
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_positive(self, "features", "codebooks", "size", "width", "kmeans_steps")
        check(
            0 < self.semantic < self.codebooks,
            f"QuantiserConfig.semantic is {self.semantic}, it must be 1 to codebooks - 1 = "
            f"{self.codebooks - 1}",
        )
        for field, limit in (("decay", 1.0), ("dead_below", 1.0), ("dropout", 1.0), ("plain", 1.0)):
            value = getattr(self, field)
            check(
                0 <= value <= limit,
                f"QuantiserConfig.{field} is {value}, it must lie between 0 and {limit:g}",
            )
        check_dtypes(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvelopeConfig:
    """A frame's own spectrum in `steps` equal parts of `bins` mel bins each."""

    steps: int = 8
    bins: int = 64
    floor_log10: float | int = -5.0  # as in losses.MelLossConfig

    def __post_init__(self):
        check_positive(self, "steps", "bins")

    @property
    def middle(self) -> float:
        """Where what is said of it begins: between silence and full power."""
        return self.floor_log10 / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeriodicityConfig:
    """How alike a sound is to itself a moment earlier, `steps` times a frame, at `lags` lags.

    window: samples that are compared, ending where the step does. pool: so many samples are
    averaged first, so that the first harmonics decide. lowest, highest: Hz, of the lags' inverses,
    evenly on a log scale. noise: mean square of the averaged samples, of full scale 1, at which a
    period counts half: what is quieter has hardly any.
    """

    steps: int = 4
    lags: int = 40
    window: int = 2048
    pool: int = 8
    lowest: float | int = 65.0
    highest: float | int = 450.0
    noise: float = 1e-5

    def __post_init__(self):
        check_positive(self, "steps", "lags", "window", "pool", "lowest")
        check(self.noise > 0, f"PeriodicityConfig.noise is {self.noise}, it must be positive")
        check(
            self.window % self.pool == 0,
            f"PeriodicityConfig.window is {self.window}, not a multiple of pool {self.pool}",
        )
        half = SAMPLE_RATE / self.pool / 2
        check(
            self.lowest < self.highest <= half,
            f"PeriodicityConfig.highest is {self.highest}: it must lie between lowest, "
            f"{self.lowest}, and half the averaged samples' rate, {half:g}",
        )
        longest = SAMPLE_RATE / self.lowest
        check(
            self.window >= 2 * longest,
            f"PeriodicityConfig.window is {self.window}: two periods of {self.lowest} Hz are "
            f"{2 * longest:.0f} samples",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectrumConfig:
    """What an encoder hears in place of samples, every `hop` of them: their `envelope` and, so that
    it hears a pitch, their `periodicity`. Both are taken once a hop."""

    hop: int = 240
    envelope: EnvelopeConfig = EnvelopeConfig(steps=1)
    periods: PeriodicityConfig = PeriodicityConfig(steps=1)

    def __post_init__(self):
        check_positive(self, "hop")
        for name in ("envelope", "periods"):
            steps = getattr(self, name).steps
            check(steps == 1, f"SpectrumConfig.{name}.steps is {steps}, it must be 1")
        pool, window = self.periods.pool, self.periods.window
        check(
            self.hop % pool == 0 and 2 * self.hop <= window,
            f"SpectrumConfig.hop is {self.hop}: it must be a multiple of periods.pool, {pool}, and "
            f"at most half of periods.window, {window}",
        )

    @property
    def features(self) -> int:
        return self.envelope.bins + self.periods.lags

    @property
    def reach(self) -> int:
        """Samples before a hop that it still hears."""
        return self.periods.window - self.hop


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeanetConfig:
    """Samples to frames: SEANet, windowed transformer, one more strided convolution (Mimi).

    spectrum: what the first convolution reads in place of samples, which the released classes do
    not have; the strides are then of its hops.
    """

    transformer: TransformerConfig
    spectrum: SpectrumConfig | None = None
    filters: int = 64  # doubled by every stride
    strides: tuple[int, ...] = (4, 5, 6, 8)  # in the order in which the samples meet them
    downsample: int = 2  # after the transformer
    compress: int = 2  # a residual block's inner channels are so many times fewer
    kernel: int = 7
    residual_kernel: int = 3
    last_kernel: int = 3
    # Of the first convolution's initial kernel. Speech has an RMS under 0.1, where ELU is as good
    # as linear: a large start makes it bend, so that envelopes can be read from the first step on.
    input_scale: float | int = 1.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_each_positive(self, "strides")
        check_positive(self, "filters", "downsample", "compress", "kernel")
        check_positive(self, "residual_kernel", "last_kernel")
        check(
            self.filters % self.compress == 0,
            f"SeanetConfig.filters is {self.filters}, not a multiple of compress {self.compress}",
        )
        check_dtypes(self)
        check_same_dtype(self)

    @property
    def samples_per_frame(self) -> int:
        hop = self.spectrum.hop if self.spectrum is not None else 1
        return hop * math.prod(self.strides) * self.downsample


@dataclasses.dataclass(frozen=True, kw_only=True)
class HarmonicsConfig:
    """A voice's source in Code2Wav: `count` harmonics of a pitch, as loud as an envelope says.

    The envelope has `bands`, evenly on the mel scale from 0 to `top` Hz; a harmonic above it is
    silent. The pitch lies between `lowest` and `highest` Hz, in `grid` parts of an octave.
    """

    count: int = 40
    bands: int = 40
    lowest: float | int = 65.0
    highest: float | int = 450.0
    top: float | int = 8000.0
    grid: int = 96

    def __post_init__(self):
        check_positive(self, "count", "lowest", "grid")
        check(self.bands >= 2, f"HarmonicsConfig.bands is {self.bands}, it must be at least 2")
        check(
            self.lowest < self.highest <= self.top <= SAMPLE_RATE / 2,
            "HarmonicsConfig: lowest < highest <= top <= half the sample rate must hold, they are "
            f"{self.lowest}, {self.highest}, {self.top} and {SAMPLE_RATE / 2:g}",
        )

    @property
    def octaves(self) -> float:
        """From the lowest pitch to the highest."""
        return math.log2(self.highest / self.lowest)

    @property
    def notes(self) -> int:
        """Pitches on the grid."""
        return math.floor(self.octaves * self.grid) + 1

    def turns(self) -> np.ndarray:
        """[notes] uint32: what each note adds to the phase with a sample, 2^32 to a period."""
        hertz = self.lowest * 2 ** (np.arange(self.notes) / self.grid)
        return np.round(hertz / SAMPLE_RATE * 2**32).astype(np.uint32)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """[notes, count] twice: each harmonic's place among the bands, and whether it is heard."""
        hertz = self.lowest * 2 ** (np.arange(self.notes) / self.grid)
        hertz = hertz[:, None] * np.arange(1, self.count + 1)
        mels = np.log1p(np.minimum(hertz, self.top) / 700) / np.log1p(self.top / 700)
        return (mels * (self.bands - 1)).astype(np.float32), hertz <= self.top


@dataclasses.dataclass(frozen=True, kw_only=True)
class Code2WavConfig:
    """Frames to samples: transformer, transposed convolutions with ConvNeXt, SnakeBeta blocks.

    lookup: "rvq" takes the quantiser's features through a causal convolution of `pre_kernel` taps;
    "table" means the embeddings of all codebooks from one table and needs no quantiser (released
    Qwen3-Omni).
    trim: "right" keeps transposed convolutions causal, `samples_per_frame` samples for each frame.
    "both" is the released form, which trims as much on the left: it sees one step ahead at each
    of them and gives fewer samples.
    harmonics: a source for voices beside the convolutions, which the released classes do not have.
    """

    transformer: TransformerConfig
    upsample: tuple[int, ...] = (2, 2)  # each with a ConvNeXt block
    rates: tuple[int, ...] = (8, 5, 4, 3)  # each halves the channels
    channels: int = 1536  # before the first of `rates`
    lookup: str = "rvq"
    codebooks: int = 16
    codes: int = 2048  # of a codebook
    features: int = 512  # rvq: width of what the quantiser gives
    pre_kernel: int = 3
    trim: str = "right"
    convnext_scale: float = 1e-6  # where the ConvNeXt branch's scale starts
    harmonics: HarmonicsConfig | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_each_positive(self, "upsample", "rates")
        check_positive(self, "channels", "codebooks", "codes", "features", "pre_kernel")
        halvings = 2 ** len(self.rates)
        check(
            self.channels % halvings == 0,
            f"Code2WavConfig.channels is {self.channels}, not a multiple of {halvings}: each of "
            f"the {len(self.rates)} rates halves it",
        )
        for field, known in (("lookup", LOOKUPS), ("trim", TRIMS)):
            value = getattr(self, field)
            check(value in known, f"Code2WavConfig.{field} is {value!r}, it must be one of {known}")
        check(
            self.harmonics is None or self.trim == "right",
            f"Code2WavConfig.trim is {self.trim!r}: harmonics keep time with the causal form, "
            "'right', alone",
        )
        check_dtypes(self)
        check_same_dtype(self)

    @property
    def samples_per_frame(self) -> int:
        return math.prod(self.upsample) * math.prod(self.rates)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """The whole codec; without `encoder` and `quantiser` it only decodes, from its own table."""

    code2wav: Code2WavConfig
    encoder: SeanetConfig | None = None
    quantiser: QuantiserConfig | None = None

    def __post_init__(self):
        code2wav, encoder, quantiser = self.code2wav, self.encoder, self.quantiser
        check(
            code2wav.lookup == "table" or quantiser is not None,
            "CodecConfig.quantiser is None, Code2WavConfig.lookup 'rvq' needs one",
        )
        check(
            encoder is None or quantiser is not None,
            "CodecConfig.quantiser is None, an encoder needs one",
        )
        if encoder is not None:
            check(
                encoder.samples_per_frame == code2wav.samples_per_frame,
                f"CodecConfig: the encoder takes {encoder.samples_per_frame} samples a frame, "
                f"Code2Wav gives {code2wav.samples_per_frame}",
            )
            check(
                encoder.transformer.width == quantiser.features,
                f"CodecConfig: the encoder's width is {encoder.transformer.width}, the quantiser "
                f"takes {quantiser.features}",
            )
        if quantiser is not None:
            ours = (quantiser.codebooks, quantiser.size)
            theirs = (code2wav.codebooks, code2wav.codes)
            check(
                ours == theirs,
                f"CodecConfig: (codebooks, codes) are {ours} in the quantiser and {theirs} in "
                "Code2Wav",
            )
            check(
                code2wav.lookup == "table" or quantiser.features == code2wav.features,
                f"CodecConfig: the quantiser gives features of {quantiser.features}, Code2Wav "
                f"takes {code2wav.features}",
            )

    @property
    def samples_per_frame(self) -> int:
        return self.code2wav.samples_per_frame

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return SAMPLE_RATE / self.samples_per_frame

    @property
    def codebooks(self) -> int:
        return self.code2wav.codebooks

    @property
    def codes(self) -> int:
        """Codes of a codebook."""
        return self.code2wav.codes


def qwen3_omni_code2wav() -> Code2WavConfig:
    """The released Code2Wav of Qwen3-Omni (`Qwen3OmniMoeCode2Wav`): it looks ahead."""
    transformer = TransformerConfig(
        width=1024, layers=8, heads=16, head_dim=64, ffn=3072, window=72
    )
    return Code2WavConfig(transformer=transformer, lookup="table", trim="both")


def mimi_encoder() -> SeanetConfig:
    """The released encoder of Mimi (`MimiModel`), 12.5 frames a second at 24 kHz."""
    transformer = TransformerConfig(
        width=512, layers=8, heads=8, head_dim=64, ffn=2048, window=250, norm="layer"
    )
    return SeanetConfig(transformer=transformer)


def qwen3_omni() -> CodecConfig:
    """Mimi's encoder with the first 16 of its codebooks, and the released Code2Wav."""
    return CodecConfig(
        encoder=mimi_encoder(),
        quantiser=QuantiserConfig(features=512),
        code2wav=qwen3_omni_code2wav(),
    )


def qwen3_5_omni() -> CodecConfig:
    """The described codec: causal throughout, Code2Wav on the quantiser's own codes."""
    code2wav = dataclasses.replace(qwen3_omni_code2wav(), lookup="rvq", trim="right")
    return dataclasses.replace(qwen3_omni(), code2wav=code2wav)


def nano() -> CodecConfig:
    """About 2.6 M parameters, for two CPU cores: few channels where the rate is high.

    The branches' scales start large: it has hours to learn in, not weeks.
    """
    transformer = TransformerConfig(
        width=128, layers=2, heads=4, head_dim=32, ffn=256, window=72, layer_scale=0.3
    )
    encoder = SeanetConfig(
        transformer=dataclasses.replace(transformer, norm="layer", window=100, ffn=384),
        # [C] From samples a voice's mean spectrum was 0.41 off after 600 steps, in a near form of
        # this encoder 0.28 (experiments/README.md).
        spectrum=SpectrumConfig(),
        filters=128,
        strides=(4,),
        kernel=3,
    )
    code2wav = Code2WavConfig(
        transformer=transformer,
        channels=192,
        codes=256,
        features=128,
        convnext_scale=0.3,
        harmonics=HarmonicsConfig(),
    )
    return CodecConfig(
        encoder=encoder,
        # A batch has few frames: averages follow soon, unused codes are soon put beside used ones.
        quantiser=QuantiserConfig(features=128, size=256, width=52, decay=0.95, dropout=0.25),
        code2wav=code2wav,
    )
