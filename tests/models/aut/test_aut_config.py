import dataclasses

import jax
import jax.numpy as jnp
import pytest

from omnijax.errors import UserError
from omnijax.models import aut


def shapes(config, chunks=2):
    inputs = (
        jax.ShapeDtypeStruct((1, chunks, config.chunk_frames, config.mel_bins), jnp.float32),
        jax.ShapeDtypeStruct((1, chunks), jnp.int32),
        jax.ShapeDtypeStruct((1, chunks), jnp.int32),
    )
    model = aut.AuT(config)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    features, valid = jax.eval_shape(model.apply, params, *inputs)
    return sum(x.size for x in jax.tree.leaves(params)), features.shape, valid.shape


def test_the_released_8x_encoder_has_its_released_size_and_rate():
    count, features, valid = shapes(aut.qwen3_omni_8x(), chunks=8)
    # 104 tokens for a window of 8 s. The count is that of Qwen3OmniMoeAudioEncoder at its
    # released config, output_dim 2048; see tests/parity/test_aut.py.
    assert features == (1, 104, 2048) and valid == (1, 104)
    assert count == 647_927_168


def test_the_16x_encoder_gives_a_token_for_160_ms():
    _, features, _ = shapes(aut.qwen3_5_omni_16x(), chunks=5)
    assert features == (1, 5 * 160 // 16, 2048)


def test_nano_stays_small():
    count, features, _ = shapes(aut.nano(), chunks=3)
    assert count < 1_700_000 and features == (1, 3 * aut.nano().tokens_per_chunk, 192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsample": 12}, "downsample is 12, it must be a power of two"),
        ({"downsample": 8}, "conv_channels has 4 entries, downsample 8 needs 3"),
        ({"heads": 7}, "width 192 is not a multiple of heads 7"),
        ({"layers": 0}, "layers is 0, it must be at least 1"),
        ({"conv_channels": (8, 16, 0, 64)}, r"conv_channels is \(8, 16, 0, 64\)"),
        ({"width": 195, "heads": 5}, "width is 195, sinusoidal positions need an even width"),
        ({"dtype": "float16"}, "dtype is 'float16', it must be one of"),
    ],
)
def test_a_wrong_encoder_field_is_named_with_its_value(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(aut.nano(), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is 0, it must be at least 1"),
        ({"heads": 7}, "width 192 is not a multiple of heads 7"),
        ({"feature_width": 3}, "feature_width is 3, sinusoidal positions need an even width"),
    ],
)
def test_a_wrong_decoder_field_is_named_with_its_value(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(aut.nano_decoder(), **change)
