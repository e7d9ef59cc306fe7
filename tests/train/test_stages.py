"""Stages are data that comes from files and flags: what is wrong is said by name."""

import pytest
from jax.sharding import AbstractMesh

from omnijax.errors import UserError
from omnijax.models.thinker import ThinkerConfig
from omnijax.sharding import MESH_AXES
from omnijax.train.recipe import check_rows
from omnijax.train.stages import (
    AugmentConfig,
    OptimizerConfig,
    RunConfig,
    Stage,
    from_dict,
    to_dict,
)


def test_every_config_survives_the_way_to_plain_values_and_back():
    from omnijax.models import presets

    for config in (presets.nano(), presets.qwen3_omni_30b_a3b()):
        assert from_dict(ThinkerConfig, to_dict(config)) == config
    stage = Stage(name="x", trains=("^audio/", "b$"), window_chunks=(1, 2))
    assert from_dict(Stage, to_dict(stage)) == stage


def test_a_pattern_given_as_one_word_or_with_commas_is_a_tuple():
    stage = from_dict(Stage, {"name": "x", "trains": "^a, ^b", "window_chunks": "1,2"})
    assert stage.trains == ("^a", "^b") and stage.window_chunks == (1, 2)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"optimizer": {"learning_rat": 1}}, r"no config field stage\.optimizer\.learning_rat;"),
        ({"steps": "many"}, r"config field stage\.steps: 'many' is no int"),
        ({"steps": 0}, "steps must be positive"),
        ({"batch": 6, "accumulate": 4}, "batch 6 is not a multiple of accumulate 4"),
        ({"objective": "rl"}, r"no objective 'rl' \(lm, aed, codec, talker\)"),
        ({"trains": ("[",)}, r"trains '\['"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(values, message):
    with pytest.raises(UserError, match=message):
        from_dict(Stage, {"name": "x", **values}, "stage.")


@pytest.mark.parametrize("values", [{"warp": -0.1}, {"frequency_masks": -2}, {"gain_db": -1.0}])
def test_an_augmentation_below_nothing_is_refused(values):
    ((name, value),) = values.items()
    with pytest.raises(UserError, match=f"augment {name} is {value}, it must be 0 or more"):
        AugmentConfig(**values)


def test_mixtures_and_starts_are_read_from_their_entries():
    stage = Stage(
        name="x",
        mixture=("omniworld/caption=2", "folder:/a=b=0.5"),
        starts_from=("lm", "audio=aut"),
    )
    assert stage.weights() == (("omniworld/caption", 2.0), ("folder:/a=b", 0.5))
    assert stage.sources() == [("", "lm"), ("audio", "aut")]
    odd = Stage(name="x", starts_from=("weights:a=b", "audio=weights:c=d"))
    assert odd.sources() == [("", "weights:a=b"), ("audio", "weights:c=d")]
    with pytest.raises(UserError, match="router_z must not be negative"):
        Stage(name="x", router_z=-1.0)
    with pytest.raises(UserError, match="'omniworld' is not source=weight"):
        Stage(name="x", mixture=("omniworld",)).weights()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"schedule": "linear"}, "schedule must be cosine, wsd or constant"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"b1": 1.0}, r"b1 must be in \[0, 1\)"),
        ({"clip": -1.0}, "optimizer clip is -1.0, it must be 0 or more"),
        ({"weight_decay": -0.1}, "optimizer weight_decay is -0.1"),
        ({"warmup_steps": -5}, "optimizer warmup_steps is -5"),
        ({"end_fraction": 1.5}, "optimizer end_fraction is 1.5, it must be 0 to 1"),
        ({"eps": 0.0}, "optimizer eps is 0.0, it must be positive"),
        ({"rate_factors": ("audio:0.1",)}, "'audio:0.1' is not pattern=factor"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        OptimizerConfig(**values)


def test_numbers_of_a_run_may_come_as_text():
    assert from_dict(RunConfig, {"save_minutes": "2.5", "keep": 3}).save_minutes == 2.5


def test_rows_that_the_devices_cannot_share_are_refused():
    mesh = AbstractMesh((2, 2, 1, 1, 2), MESH_AXES)
    check_rows(Stage(name="s", batch=16), mesh)
    with pytest.raises(UserError, match=r"is 12 rows, which 8 devices .* a multiple of 8"):
        check_rows(Stage(name="s", batch=24, accumulate=2), mesh)
