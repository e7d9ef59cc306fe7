"""Sizes of the codec: presets, and wrong fields named."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from omnijax.errors import UserError
from omnijax.models import codec


def shapes(config, frames=3):
    model = codec.Codec(config)
    samples = jax.ShapeDtypeStruct((1, frames * config.samples_per_frame), jnp.float32)
    out, params = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), samples)
    return {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in params["params"].items()}, out


@pytest.mark.parametrize("preset", [codec.nano, codec.qwen3_5_omni])
def test_r_frames_are_exactly_1920_r_samples_at_12_5_frames_a_second(preset):
    config = preset()
    counts, samples = shapes(config)
    assert config.frame_rate == 12.5 and config.codebooks == 16
    assert samples.shape == (1, 3 * 1920)


def test_nano_stays_small():
    counts, _ = shapes(codec.nano())
    assert 1_500_000 < sum(counts.values()) < 2_700_000


def test_the_released_code2wav_looks_ahead_and_gives_fewer_samples():
    _, samples = shapes(codec.qwen3_omni())
    # (((4 * 3 - 1) * 8 - 1) * 5 - 1) * 4 - 1) * 3; its parameters: tests/parity.
    assert samples.shape == (1, 5205)


NANO = codec.nano()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (NANO.code2wav, {"channels": 100}, "channels is 100, not a multiple of 16"),
        (NANO.code2wav, {"rates": (8, 0)}, r"rates is \(8, 0\), it must name numbers"),
        (NANO.code2wav, {"trim": "left"}, "trim is 'left', it must be one of"),
        (NANO.code2wav, {"lookup": "sum"}, "lookup is 'sum', it must be one of"),
        (NANO.encoder, {"filters": 7}, "filters is 7, not a multiple of compress 2"),
        (NANO.encoder, {"strides": ()}, r"strides is \(\), it must name numbers"),
        (NANO.encoder.spectrum, {"hop": 12}, "hop is 12: it must be a multiple of periods.pool, 8"),
        (NANO.encoder.spectrum, {"hop": 1032}, "hop is 1032: .* at most half of periods.window"),
        (NANO.encoder.spectrum, {"envelope": codec.EnvelopeConfig()}, "envelope.steps is 8"),
        (NANO.encoder.transformer, {"head_dim": 5}, "head_dim is 5, rotary positions need"),
        (NANO.encoder.transformer, {"window": 0}, "window is 0, it must be at least 1"),
        (NANO.encoder.transformer, {"norm": "batch"}, "norm is 'batch', it must be one of"),
        (NANO.quantiser, {"semantic": 16}, "semantic is 16, it must be 1 to codebooks - 1 = 15"),
        (NANO.quantiser, {"decay": 1.5}, "decay is 1.5, it must lie between 0 and 1"),
        (NANO, {"quantiser": None}, "quantiser is None"),
        (
            NANO,
            {"code2wav": dataclasses.replace(NANO.code2wav, rates=(8, 5, 4, 4))},
            "takes 1920 samples a frame, Code2Wav gives 2560",
        ),
        (
            NANO,
            {"code2wav": dataclasses.replace(NANO.code2wav, codes=128)},
            r"\(codebooks, codes\) are \(16, 256\) in the quantiser and \(16, 128\)",
        ),
        (NANO.encoder, {"dtype": "bfloat16"}, "SeanetConfig.dtype is bfloat16, its transformer"),
        (NANO.code2wav, {"dtype": "bfloat16"}, "Code2WavConfig.dtype is bfloat16, its transf"),
        (
            NANO,
            {"code2wav": dataclasses.replace(NANO.code2wav, features=64)},
            "gives features of 128, Code2Wav takes 64",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_value(part, change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(part, **change)
