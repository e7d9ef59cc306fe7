"""Logical axes, the parameter table, and `shard`."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from omnijax.errors import UserError
from omnijax.models import presets
from omnijax.models.aut import AuTDecoder, nano_decoder
from omnijax.models.codec import Codec
from omnijax.models.codec import nano as nano_codec
from omnijax.models.talker import Talker, speech_inputs
from omnijax.models.talker import presets as talker_presets
from omnijax.models.thinker import Thinker, text_inputs
from omnijax.sharding import (
    MESH_AXES,
    flatten,
    make_mesh,
    param_axes,
    param_shardings,
    partition_spec,
    shard,
    unflatten,
)


def abstract_mesh(**sizes):
    axes = tuple(sizes.get(name, 1) for name in MESH_AXES)
    return jax.sharding.AbstractMesh(
        axes, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(axes)
    )


def shapes_of(config):
    inputs = text_inputs(jnp.zeros((1, 8), jnp.int32))
    model = Thinker(config)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))["params"]


def aed_shapes():
    features = jnp.zeros((1, 10, 192)), jnp.ones((1, 10), bool), jnp.zeros((1, 8), jnp.int32)
    decoder = AuTDecoder(nano_decoder())
    return {"aed": jax.eval_shape(lambda: decoder.init(jax.random.key(0), *features))["params"]}


def codec_shapes():
    codec, samples = Codec(nano_codec()), jnp.zeros((1, 1920))
    return {"codec": jax.eval_shape(lambda: codec.init(jax.random.key(0), samples))["params"]}


def talker_shapes(config):
    inputs = speech_inputs(jnp.zeros((1, 4, config.codebooks), jnp.int32))
    talker = Talker(config)
    return jax.eval_shape(lambda: talker.init(jax.random.key(0), inputs))["params"]


def all_shapes():
    yield from flatten(shapes_of(presets.nano())).items()
    yield from flatten(shapes_of(presets.qwen3_5_omni_35b_a3b())).items()
    yield from flatten(shapes_of(presets.qwen3_5_9b())).items()
    yield from flatten(aed_shapes()).items()
    yield from flatten(codec_shapes()).items()
    yield from flatten(talker_shapes(talker_presets.nano())).items()
    yield from flatten(talker_shapes(talker_presets.qwen3_5_omni())).items()
    yield from flatten(talker_shapes(talker_presets.qwen3_omni_30b_a3b())).items()


def test_every_parameter_has_a_line_in_the_table_with_no_more_axes_than_dimensions():
    for path, leaf in all_shapes():
        axes = param_axes(path)
        assert axes is not None, path
        assert len(axes) <= len(leaf.shape), (path, axes, leaf.shape)


def test_every_matrix_of_a_big_model_is_split_over_fsdp_and_its_heads_over_tensor():
    config = presets.qwen3_5_omni_35b_a3b()
    shapes = shapes_of(config)
    shardings = flatten(param_shardings(shapes, abstract_mesh(fsdp=4, tensor=2, expert=8)))
    total = {True: 0, False: 0}
    for path, leaf in flatten(shapes).items():
        total["fsdp" in str(shardings[path].spec)] += leaf.size
    assert total[False] < 0.01 * total[True]
    spec = shardings["decoder/periods/layer_3/attention/q/w"].spec
    assert spec == PartitionSpec(None, ("fsdp",), ("tensor",), None)
    spec = shardings["decoder/periods/layer_0/moe/experts_up"].spec
    assert spec == PartitionSpec(None, ("expert",), ("fsdp",), ("tensor",))


def test_an_axis_that_the_mesh_does_not_divide_stays_whole():
    mesh = abstract_mesh(data=4, tensor=4)
    assert partition_spec((6, 8), ("batch", "heads"), mesh) == PartitionSpec(None, ("tensor",))


def test_a_mesh_axis_is_used_once_in_an_array():
    mesh = abstract_mesh(tensor=2)
    spec = partition_spec((4, 4), ("heads", "ffn"), mesh)
    assert spec == PartitionSpec(("tensor",), None)


def test_shard_without_a_mesh_does_nothing():
    x = jnp.ones((2, 3))
    assert shard(x, "batch", "time") is x


def test_shard_in_a_manual_region_leaves_its_axes_alone():
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        spec = PartitionSpec("data")
        double = jax.shard_map(
            lambda x: 2 * shard(x, "batch", "width"), in_specs=spec, out_specs=spec
        )
        assert jax.jit(double)(jnp.ones((2, 2))).sum() == 8


def test_an_unknown_logical_axis_is_named():
    with pytest.raises(ValueError, match="no logical axis 'wdith'"):
        partition_spec((2,), ("wdith",), abstract_mesh(data=2))


def test_a_mesh_that_does_not_fit_the_devices_is_a_user_error():
    with pytest.raises(UserError, match="needs 3 devices, 1 are there"):
        make_mesh(data=3, devices=jax.devices()[:1])
    with pytest.raises(UserError, match="at most one of them -1"):
        make_mesh(data=-1, fsdp=-1)
    with pytest.raises(UserError, match="positive"):
        make_mesh(data=0)


def test_flatten_and_unflatten_are_inverse():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree
