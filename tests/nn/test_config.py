"""A decoder's configuration says what is wrong with it."""

import dataclasses

import pytest

from omnijax.errors import UserError
from omnijax.models import presets

CONFIG = presets.tiny().decoder


@pytest.mark.parametrize(
    "text, pattern",
    [("full", ("full",)), ("gdn,full", ("gdn", "full")), ("gdn, full", ("gdn", "full"))],
)
def test_a_pattern_may_be_written_as_one_string(text, pattern):
    config = dataclasses.replace(CONFIG, pattern=text)
    assert config.pattern == pattern
    assert config == dataclasses.replace(CONFIG, pattern=pattern)
    assert hash(config) == hash(dataclasses.replace(CONFIG, pattern=pattern))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"pattern": "gdn,mamba"}, ("pattern", "mamba")),
        ({"pattern": ""}, ("pattern",)),
        ({"layers": 5}, ("layers", "5", "2")),
        ({"width": 0}, ("width", "0")),
        ({"kv_heads": 3}, ("heads", "4", "3")),
        ({"gdn_value_heads": 3}, ("gdn_value_heads", "3", "2")),
        ({"partial_rotary": 0.2}, ("partial_rotary", "0.2", "3 of 16")),
        ({"partial_rotary": 1.5}, ("partial_rotary", "1.5", "24")),
        ({"mrope_sections": (2, 2, 2)}, ("mrope_sections", "(2, 2, 2)", "4")),
        ({"mrope_sections": (1, 2, 1)}, ("mrope sections", "(1, 2, 1)", "4")),
        ({"experts_per_token": 9}, ("experts_per_token", "9", "4")),
        ({"experts": 0}, ("ffn", "None")),
        ({"expert_ffn": 0}, ("expert_ffn", "0")),
        ({"dtype": "float16"}, ("dtype", "float16")),
        ({"remat": "some"}, ("remat", "some")),
        ({"accept_hidden_layer": 5}, ("accept_hidden_layer", "5", "4")),
        ({"attention_window": -1}, ("attention_window", "-1")),
        ({"attention_window": 4, "pattern": "gdn"}, ("attention_window", "4", "gdn")),
        ({"gdn_chunk": 0}, ("gdn_chunk", "0")),
    ],
)
def test_what_is_wrong_is_named_with_its_number(change, words):
    with pytest.raises(UserError) as error:
        dataclasses.replace(CONFIG, **change)
    for word in words:
        assert word in str(error.value)


def test_attention_alone_needs_no_sizes_of_the_delta_net():
    dataclasses.replace(CONFIG, pattern="full", gdn_key_heads=0, gdn_value_heads=0)
