"""Presets have the sizes that they are named after; shapes only, nothing is allocated."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import omnijax
from omnijax.errors import UserError
from omnijax.media import ProcessorConfig, nano_processor
from omnijax.models import presets
from omnijax.models.thinker import Thinker, check_media, text_inputs
from omnijax.text.tokenizer import Tokenizer


def count(config, *roots) -> int:
    shapes = jax.eval_shape(
        Thinker(config).init, jax.random.key(0), text_inputs(jnp.zeros((1, 16), jnp.int32))
    )["params"]
    leaves = jax.tree.leaves({root: shapes[root] for root in roots or shapes if root in shapes})
    return sum(math.prod(leaf.shape) for leaf in leaves)


@pytest.mark.parametrize(
    "name, billions",
    [
        ("qwen3_5_397b_a17b", 397),
        ("qwen3_5_122b_a10b", 122),
        ("qwen3_5_35b_a3b", 35),
        ("qwen3_5_27b", 27),
        ("qwen3_5_9b", 9),
        ("qwen3_5_4b", 4),
        ("qwen3_5_2b", 2),
        ("qwen3_5_0_8b", 0.8),
        ("qwen3_omni_30b_a3b", 30.5),
    ],
)
def test_a_released_decoder_has_as_many_parameters_as_its_name_says(name, billions):
    config = getattr(presets, name)()
    found = count(config, "embed", "decoder", "lm_head") / 1e9
    assert found == pytest.approx(billions, rel=0.07), found


def test_the_described_system_hears_at_16x():
    config = presets.qwen3_5_omni_35b_a3b()
    assert config.aut.downsample == 16
    assert count(config, "audio") > 500e6


def test_a_processors_defaults_are_the_described_systems_and_no_other():
    check_media(presets.qwen3_5_omni_35b_a3b(), ProcessorConfig())
    check_media(presets.nano(), nano_processor())
    with pytest.raises(UserError, match="audio_chunk_frames is 160, the model's encoder has 100"):
        check_media(presets.qwen3_omni_30b_a3b(), ProcessorConfig())


def test_nano_is_small_enough_to_ship():
    assert count(presets.nano()) * 2 < 20e6  # bytes in bfloat16


def test_nano_s_token_ids_are_those_of_its_tokenizer():
    config = presets.nano()
    path = Path(omnijax.__file__).parent / "assets" / "nano" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(path)
    assert tokenizer.vocab_size <= config.vocab_size
    for name, own in (("audio", "audio_pad"), ("image", "image_pad"), ("video", "video_pad")):
        assert getattr(config, f"{name}_token_id") == tokenizer.special(own)
