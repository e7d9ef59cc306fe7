"""A stage that is there is taken over only if it is this recipe's."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.configs import nano, nano_codec, nano_talker
from omnijax.data.codes import ThinkerStream, Utterance, write_codes
from omnijax.data.omniworld import OmniWorld
from omnijax.data.omniworld.corpus import ALOUD
from omnijax.data.omniworld.tasks import TASKS
from omnijax.errors import UserError
from omnijax.models.codec import HarmonicsConfig
from omnijax.models.codec import nano as codec_config
from omnijax.models.talker.context import Context
from omnijax.train import recipe
from omnijax.train.checkpoint import save_weights
from omnijax.train.kinds import SHIPPED, weights_folder
from omnijax.train.recipe import is_finished, resolve, starting_params
from omnijax.train.stages import Stage, from_dict, to_dict
from omnijax.train.talker import TalkerTraining


def kept(folder, config, step):
    """What a run leaves behind, without its arrays."""
    (folder / "checkpoints" / str(step)).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(resolve(config)))


def test_a_stage_is_finished_with_the_checkpoint_of_its_last_step(tmp_path):
    config = nano.get_config("lm").to_dict()
    steps = config["stage"]["steps"]
    assert not is_finished(tmp_path / "nothing", config)
    kept(tmp_path / "half", config, steps - 1)
    assert not is_finished(tmp_path / "half", config)
    kept(tmp_path / "whole", config, steps)
    assert is_finished(tmp_path / "whole", config)
    config["run"]["log_every"] = 1  # of no consequence
    assert is_finished(tmp_path / "whole", config)


def test_a_stage_of_another_recipe_or_corpus_is_refused(tmp_path, monkeypatch):
    config = nano.get_config("lm").to_dict()
    kept(tmp_path, config, config["stage"]["steps"])
    other = nano.get_config("lm").to_dict()
    other["stage"]["batch"] = 16
    with pytest.raises(UserError, match=r"another config: stage.batch: \d+ in .*, 16 here"):
        is_finished(tmp_path, other)
    monkeypatch.setattr(OmniWorld, "VERSION", "9.9.9")
    with pytest.raises(UserError, match=r"corpus: 'omniworld .*omniworld 9.9.9' here"):
        is_finished(tmp_path, config)


def test_a_stage_that_hears_drawn_voices_is_refused_once_they_are_others(tmp_path, monkeypatch):
    of_ten = nano.get_config("aut").to_dict()
    of_many = nano_codec.get_config("codec_encoder").to_dict()
    for config in (of_ten, of_many):
        kept(tmp_path / config["name"], config, config["stage"]["steps"])
    monkeypatch.setattr(recipe, "fingerprint_of_voices", lambda: "others")
    assert is_finished(tmp_path / of_ten["name"], of_ten)
    with pytest.raises(UserError, match=r"corpus: 'omniworld .* others' here"):
        is_finished(tmp_path / of_many["name"], of_many)


def test_an_encoder_is_pretrained_once_for_every_decoder(tmp_path):
    config = nano.get_config("aut").to_dict()
    kept(tmp_path, config, config["stage"]["steps"])
    config["model"]["decoder"]["pattern"] = "full"
    assert is_finished(tmp_path, config)
    config["model"]["aut"]["layers"] = 5
    with pytest.raises(UserError, match="model.aut.layers"):
        is_finished(tmp_path, config)


def test_a_stage_may_start_from_weights_in_a_folder(tmp_path):
    config = resolve(nano.get_config("lm").to_dict())
    table = np.full((3, 2), 0.5, np.float32)
    save_weights(tmp_path / "mine", {"embed": {"table": table}}, {"model": config["model"]})

    def start(name):
        stage = dataclasses.replace(nano.STAGES["lm"], starts_from=(f"weights:{name}",))
        return starting_params(stage, config, find=Path)

    np.testing.assert_array_equal(start(tmp_path / "mine")["embed"]["table"], table)
    with pytest.raises(UserError, match="nowhere"):
        start(tmp_path / "nowhere")
    config["model"]["decoder"]["width"] = 96
    with pytest.raises(UserError, match=r"mine has another model: .*width: 192 .*96 here"):
        start(tmp_path / "mine")


def test_a_teacher_may_be_a_run_that_exported_nothing(tmp_path, monkeypatch):
    config = nano_codec.get_config("codec_encoder").to_dict()
    config["training"]["teacher"] = f"weights:{tmp_path}"
    config = resolve(config)
    (tmp_path / "checkpoints").mkdir()
    found = {"audio": {"w": np.ones(2)}, "decoder": {"w": np.zeros(2)}}
    run = nano.get_config("aut").to_dict()
    monkeypatch.setattr("omnijax.train.checkpoint.read_params", lambda folder: (found, run))
    start = starting_params(from_dict(Stage, config["stage"], "stage."), config, find=Path)
    assert start.keys() == {"audio"} and start["audio"]["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("part", "field", "other", "its"),
    [
        ("code2wav", "channels", "encoder", "filters"),
        ("encoder", "filters", "quantiser", "size"),
        ("quantiser", "width", "code2wav", "channels"),
    ],
)
def test_a_part_of_a_codec_starts_from_one_whose_other_parts_differ(
    part, field, other, its, tmp_path
):
    ours, theirs = (to_dict(codec_config()) for _ in range(2))
    theirs[other][its] *= 2
    save_weights(tmp_path, {"codec": {part: {"w": np.zeros(1, np.float32)}}}, {"codec": theirs})

    def start(prefix):
        begins = (f"{prefix}=weights:{tmp_path}",)
        stage = dataclasses.replace(nano_codec.STAGES["codec_decoder"], starts_from=begins)
        return starting_params(stage, {"codec": ours}, find=Path)

    assert start(f"codec/{part}")["codec"].keys() == {part}
    with pytest.raises(UserError, match=f"has another model: codec.{other}.{its}"):
        start("codec")
    ours[part][field] *= 2
    with pytest.raises(UserError, match=f"has another model: codec.{part}.{field}"):
        start(f"codec/{part}")


def test_code2wav_may_get_harmonics_but_not_lose_or_change_them(tmp_path):
    stage = dataclasses.replace(
        nano_codec.STAGES["codec_decoder"], starts_from=("codec=weights:" + str(tmp_path),)
    )
    params = {"codec": {"code2wav": {"conv_out": {"bias": np.zeros(1, np.float32)}}}}

    def start(saved, given):
        codecs = [to_dict(codec_config()) for _ in range(2)]
        for codec, harmonics in zip(codecs, (saved, given), strict=True):
            codec["code2wav"]["harmonics"] = harmonics and to_dict(harmonics)
        save_weights(tmp_path, params, {"codec": codecs[0]})
        return starting_params(stage, {"codec": codecs[1]}, find=Path)

    ours, other = HarmonicsConfig(), HarmonicsConfig(count=9)
    assert start(None, ours).keys() == start(ours, ours).keys() == {"codec"}
    for saved, given in ((ours, None), (other, ours)):
        with pytest.raises(UserError, match="has another model: codec.code2wav.harmonics"):
            start(saved, given)


@pytest.mark.parametrize("stage", nano.STAGES.values(), ids=lambda stage: stage.name)
def test_a_stage_of_nano_names_tasks_that_there_are_and_stages_before_it(stage):
    before = list(nano.STAGES)[: list(nano.STAGES).index(stage.name)]
    assert {name for _, name in stage.sources()} <= {*before}
    assert {source for source, _ in stage.weights()} <= {f"omniworld_live/{t}" for t in TASKS}


@pytest.mark.parametrize(
    "name, field, value, message",
    [
        ("aut", "loss_weighting", "sqrt", "'aed' does not read it"),
        ("aut", "router_z", 0.5, "'aed' does not read it"),
        ("clips", "window_chunks", "3,10", "window_chunks is of sound, stage clips trains on pic"),
        ("clips", "augment", {"warp": 0.1}, "augment is of sound, stage clips trains on pictures"),
    ],
)
def test_what_an_encoders_stage_does_not_read_is_refused(name, field, value, message):
    config = nano.get_config(name).to_dict()
    resolve(config)
    config["stage"][field] = value
    with pytest.raises(UserError, match=message):
        resolve(config)


@pytest.mark.parametrize("name", nano_codec.STAGES)
def test_a_stage_of_the_codec_resolves_and_names_tasks_that_there_are(name):
    config = resolve(nano_codec.get_config(name).to_dict())
    stage = from_dict(Stage, config["stage"], "config.stage.")
    tasks = {f"omniworld_live/{task}" for task in ("say", *ALOUD)}
    assert stage.weights() and {source for source, _ in stage.weights()} <= tasks
    assert ("^pitch/" in stage.trains) == (name in ("codec_encoder", "codec"))
    before = list(nano_codec.STAGES)[: list(nano_codec.STAGES).index(name)]
    assert {source for _, source in nano_codec.STAGES[name].sources()} <= {*before}


@pytest.mark.parametrize("stage", nano.STAGES.values(), ids=lambda stage: stage.name)
def test_no_stage_of_nano_trains_an_encoder_that_has_nothing_to_read(stage):
    encoders = {"audio": stage.audio_chunks, "vision": stage.patches}
    if stage.objective == "aed":  # the other encoder is not there
        encoders = {name: limit for name, limit in encoders.items() if limit}
    idle = [name for name, limit in encoders.items() if not limit]
    assert not [p for p in stage.trains for name in idle if p == ".*" or name in p]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_part_has_its_name(name):
    assert (weights_folder(name) / "config.json").is_file()


@pytest.mark.parametrize("name", nano_talker.STAGES)
def test_a_stage_of_the_talker_draws_and_speaks_what_there_is(name, tmp_path):
    config = nano_talker.get_config(name).to_dict()
    hidden = np.zeros((1, config["talker"]["thinker_width"]), np.float32)
    asked = Context(np.zeros(1, np.int32), np.ones(1, bool), hidden, np.zeros((1, 3), np.int32))
    said = Utterance("hi", "en", "a", "b", np.zeros((2, 16), np.int16), asked)
    thinker = ThinkerStream("a thinker", config["talker"]["accept_hidden_layer"])
    for codes in nano_talker.CODES.values():
        write_codes(tmp_path / codes.folder, "train", [said], "abc", thinker)
    config["training"]["codes"] = str(tmp_path)
    resolved = resolve(config)
    assert resolved["stage"]["name"] == name and resolve(resolved) == resolved
    shares = [part.removeprefix("codes:") for part in nano_talker.STAGES[name].mixture]
    found = resolved["stage"]["mixture"].split(",")
    assert found == [f"codes:{tmp_path / share}" for share in shares]
    assert resolved["speech"]["lead"] == nano_talker.SPEECH.lead > 0
    training = dataclasses.replace(nano_talker.TRAINING[name], codes="")  # the mixture has it
    assert from_dict(TalkerTraining, resolved["training"]) == training
    # The last stage alone learns to read what an answer answers, and only what it makes does so.
    last = name == nano_talker.LAST
    assert (resolved["thinker"] == [*thinker]) == resolved["speech"]["context"] == last
    config["training"]["codes"] = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"at .*nowhere/codes: .*codes:./codes=\S+ would be a"):
        resolve(config)
    config["stage"]["mixture"] = f"codes:{tmp_path / 'codes'}=1"
    assert resolve(config)["stage"]["mixture"] == config["stage"]["mixture"]  # to the letter


def test_a_talker_starts_from_the_shipped_one_whatever_its_streams_form_and_its_window(tmp_path):
    said = Utterance("hi", "en", "a", "b", np.zeros((2, 16), np.int16))
    write_codes(tmp_path, "train", [said], "abc")
    config = nano_talker.get_config("talker").to_dict()
    config["stage"]["mixture"] = (f"codes:{tmp_path}=1",)
    config = resolve(config)
    stage = dataclasses.replace(nano_talker.STAGES["talker"], starts_from=("weights:nano/talker",))
    table = starting_params(stage, config, find=Path)["text_embed"]
    config["talker"]["form"] = "dual_track"
    config["talker"]["decoder"]["attention_window"] += 7
    again = starting_params(stage, config, find=Path)["text_embed"]
    assert 0 < np.std(table["table"]) and np.array_equal(table["table"], again["table"])
    config["talker"]["codebooks"] = 8
    with pytest.raises(UserError, match=r"talker has another model: .*codebooks: 16 .*8 here"):
        starting_params(stage, config, find=Path)


@pytest.mark.parametrize(
    "devices, sizes, stage, used",
    [
        (4, {}, {"batch": 2}, 2),  # no more rows than two
        (4, {}, {"batch": 12, "accumulate": 3}, 4),
        (3, {}, {"batch": 8}, 2),
        (8, {"tensor": 2, "fsdp": 2}, {"batch": 2}, 4),
        (4, {"data": 1}, {"batch": 2}, 1),  # as it was asked for
    ],
)
def test_a_step_is_shared_by_as_many_devices_as_have_rows(devices, sizes, stage, used):
    axes = {"data": -1, "fsdp": 1, "context": 1, "tensor": 1, "expert": 1}
    made = recipe.mesh_sizes(axes | sizes, Stage(name="s", **stage), devices)
    assert math.prod(made.values()) == used
    assert {name: made[name] for name in sizes} == sizes
