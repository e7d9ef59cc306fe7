import dataclasses

import jax
import jax.numpy as jnp
import pytest

from omnijax.errors import UserError
from omnijax.models import vision


def shapes(config, patches=16):
    inputs = (
        jax.ShapeDtypeStruct((1, patches, config.patch_dim), jnp.float32),
        jax.ShapeDtypeStruct((1, patches, 2), jnp.int32),
        jax.ShapeDtypeStruct((1, patches, 2), jnp.int32),
        jax.ShapeDtypeStruct((1, patches), jnp.int32),
    )
    model = vision.VisionEncoder(config)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    features, _, deepstack = jax.eval_shape(model.apply, params, *inputs)
    return sum(x.size for x in jax.tree.leaves(params)), [x.shape for x in (features, *deepstack)]


def test_released_encoders_have_their_released_sizes():
    # The counts are those of the released classes; see tests/parity/test_vision.py.
    assert shapes(vision.qwen3_5(2048)) == (446_571_248, [(1, 4, 2048)])
    count, features = shapes(vision.qwen3_omni())
    assert features == [(1, 4, 2048)] * 4
    assert count == 538_631_408


def test_nano_stays_small():
    count, features = shapes(vision.nano())
    assert count < 1_100_000 and features == [(1, 4, 192)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, r"width is 128, 2-D rotary positions need a multiple of 4 \* heads = 20"),
        ({"deepstack_layers": (0, 3)}, "deepstack_layers has 3, layers are 0 to 2"),
        ({"grid_side": 0}, "grid_side is 0, it must be at least 1"),
        ({"dtype": "float16"}, "dtype is 'float16', it must be one of"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(vision.nano(), **change)
