"""The codec's and the Talker's stages from config to checkpoint, at the least size."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from omnijax.data.codes import CodesSource, ThinkerStream, Utterance, fingerprint, write_codes
from omnijax.errors import UserError
from omnijax.generate.speech import SpeechConfig
from omnijax.media import nano_processor
from omnijax.models import presets
from omnijax.models.codec import Codec, EnvelopeConfig
from omnijax.models.codec.discriminators import DiscriminatorConfig
from omnijax.models.codec.losses import MelLossConfig
from omnijax.models.talker import presets as talkers
from omnijax.models.talker.context import Context
from omnijax.pretrained import export_talker, load_speaker
from omnijax.sharding import flatten
from omnijax.text import nano_tokenizer
from omnijax.train import talker as talker_stage
from omnijax.train.checkpoint import read_params, save_weights
from omnijax.train.codec import CodecTraining, export_codec, load_codec
from omnijax.train.objectives.codec import ENCODER, GENERATOR, JUDGES, PITCH, CodecLossConfig
from omnijax.train.recipe import resolve, run_stage, starting_params
from omnijax.train.stages import OptimizerConfig, RunConfig, Stage, from_dict, to_dict
from omnijax.train.talker import TalkerTraining

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "codec"))
import tiny_codec as tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compile")
THINKER = ThinkerStream("a thinker", talkers.tiny().accept_hidden_layer)
MESH = {"data": 1, "fsdp": 1, "context": 1, "tensor": 1, "expert": 1}
RUN = to_dict(RunConfig(progress=False, eval_batches=1, log_every=1, threads=0))
# Least squares: within its margins the hinge's gradient of a score's bias is exactly zero.
LOSSES = CodecLossConfig(
    kind="least_squares",
    envelope=1.0,
    mel_scales=MelLossConfig(windows=(64, 128), bins=(8, 12)),
    envelopes=EnvelopeConfig(steps=2, bins=4),
)
JUDGE = DiscriminatorConfig(
    periods=(2,), period_channels=(2, 3), windows=(32,), spectrum_channels=(2,), time_stride=2
)


def codec_config(steps, trains, **training):
    return {
        "name": "tiny",
        "codec": to_dict(tiny.config()),
        "training": to_dict(
            CodecTraining(frames=20, teacher="", losses=LOSSES, judges=JUDGE, **training)
        ),
        "model": to_dict(presets.nano()),
        "processor": to_dict(nano_processor()),
        "stage": to_dict(
            Stage(
                name="codec",
                objective="codec",
                trains=trains,
                mixture=("omniworld_live/say=1",),
                steps=steps,
                batch=2,
                optimizer=OptimizerConfig(schedule="constant", warmup_steps=1, weight_decay=0.0),
            )
        ),
        "mesh": MESH,
        "run": RUN,
    }


def talker_config(codes, steps):
    talker = dataclasses.replace(
        talkers.tiny(),
        codebook_size=11,
        text_vocab_size=nano_tokenizer().vocab_size,
        languages=tuple((name, 12 + i) for i, name in enumerate(("de", "en", "es", "fr"))),
    )
    return {
        "name": "tiny",
        "tokenizer": "nano",
        "talker": to_dict(talker),
        "training": to_dict(TalkerTraining(mtp_frames=16, frame_noise=0.2)),
        "stage": to_dict(
            Stage(
                name="talker",
                objective="talker",
                trains=(r"^(?!hidden_projection/)",),
                mixture=(f"codes:{codes}=1",),
                steps=steps,
                batch=1,
                tokens=160,
                optimizer=OptimizerConfig(schedule="constant", warmup_steps=1, weight_decay=0.0),
            )
        ),
        "mesh": MESH,
        "run": RUN,
    }


def params_of(run):
    return flatten(read_params(run / "checkpoints")[0])


def still(before, after):
    return {path for path in before if np.array_equal(before[path], after[path])}


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 24)).astype(np.float32)
    asked = Context(np.arange(20, 25), np.arange(5) < 3, hidden, np.zeros((5, 3), np.int32))
    mark = fingerprint(codec_params()["quantiser"]["codebooks"])
    for split in ("train", "validation"):
        made = (
            Utterance(f"a bell {i}", "en", "ab"[i % 2], "a man", rng.integers(0, 11, (9, 4)), asked)
            for i in range(8)
        )
        write_codes(folder, split, made, mark, THINKER)
    return folder


def codec_params():
    return tiny.params(Codec(tiny.config()))["params"]


@pytest.mark.slow
def test_a_codec_stage_moves_every_parameter_and_a_resumed_run_is_one_never_stopped(tmp_path):
    trains = (*GENERATOR, *JUDGES)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run_stage(codec_config(4, trains, judged=True), whole, Path)
    first = codec_config(4, trains, judged=True)
    first["run"] = {**RUN, "time_limit_minutes": 1e-9}  # a checkpoint after the first step
    assert not run_stage(first, halves, Path).finished
    begun = params_of(halves)
    assert run_stage(codec_config(4, trains, judged=True), halves, Path).finished
    ended = params_of(whole)
    assert not still(begun, ended)
    for path, leaf in params_of(halves).items():
        np.testing.assert_array_equal(leaf, ended[path], err_msg=path)

    export_codec(whole, tmp_path / "codec")
    codec, params = load_codec(tmp_path / "codec")
    assert codec.config == tiny.config()
    np.testing.assert_allclose(params["code2wav"]["conv_in"]["kernel"],
                               ended["codec/code2wav/conv_in/kernel"], atol=1e-2)  # fmt: skip


@pytest.mark.slow
def test_an_encoder_alone_learns_and_code2wav_stands_still(tmp_path):
    result = run_stage(codec_config(3, ENCODER, decoded=False), tmp_path, Path)
    assert "mel" not in result.metrics and result.metrics["envelope"] > 0
    one = run_stage(codec_config(1, ENCODER, decoded=False), tmp_path / "one", Path)
    assert one.finished
    same = still(params_of(tmp_path / "one"), params_of(tmp_path))
    assert same and all(path.startswith("codec/code2wav/") for path in same)


def test_a_talker_stage_trains_every_parameter_and_its_voice_is_packed(codes, tmp_path):
    config = talker_config(codes, 3)
    config["stage"]["trains"] = (".*",)
    config["training"] |= {"contexts": 1.0, "max_hidden": 16}  # what reads them learns too
    first = {**config, "run": {**RUN, "time_limit_minutes": 1e-9}}
    assert not run_stage(first, tmp_path / "run", Path).finished
    begun = params_of(tmp_path / "run")
    result = run_stage(config, tmp_path / "run", Path)
    assert result.finished
    for name in ("semantic", "end", "residual", "codec_chance", "residual_chance", "residual_3"):
        assert np.isfinite(result.metrics[name]), name
    assert run_stage(config, tmp_path / "whole", Path).finished  # as if it had never stopped
    ended = params_of(tmp_path / "run")
    for path, leaf in params_of(tmp_path / "whole").items():
        np.testing.assert_array_equal(leaf, ended[path], err_msg=path)
    assert not still(begun, ended)

    config = resolve(config)
    onward = from_dict(Stage, {**config["stage"], "starts_from": ("run",)})
    assert starting_params(onward, config, tmp_path.joinpath)
    with pytest.raises(UserError, match=r"learned codes of codec .*, the mixture's are of others"):
        starting_params(onward, {**config, "codec": "others"}, tmp_path.joinpath)

    export_talker(tmp_path / "run", tmp_path / "voice" / "talker", SpeechConfig(context=True))
    with np.load(tmp_path / "voice" / "talker" / "voices.npz") as file:
        assert file["a"].shape == (9, 4)
    with pytest.raises(UserError, match="lacks talker/ or codec/"):
        load_speaker(str(tmp_path / "voice"))

    params = codec_params()
    save_weights(tmp_path / "voice" / "codec", {"codec": params}, {"codec": to_dict(tiny.config())})
    speaker = load_speaker(str(tmp_path / "voice"))
    assert list(speaker.voices) == ["a", "b"] and speaker.pace[""] > 0
    assert speaker.thinker == THINKER and speaker.generator.config.context
    assert load_speaker(str(tmp_path / "voice"), max_len=99).generator.max_len == 99
    (said,) = speaker.say(["a bell"], [speaker.voice("b")], languages=["en"])
    assert len(said) % tiny.config().samples_per_frame == 0 and np.isfinite(said).all()

    params["quantiser"]["codebooks"] = params["quantiser"]["codebooks"] + 1
    save_weights(tmp_path / "voice" / "codec", {"codec": params}, {"codec": to_dict(tiny.config())})
    with pytest.raises(UserError, match="speaks codes of codec .*, beside it lies"):
        load_speaker(str(tmp_path / "voice"))


def test_attention_takes_gdns_place_in_the_talker_by_one_field(codes, tmp_path):
    config = talker_config(codes, 1)
    assert any("A_log" in path for path in params_shapes(config))
    config["talker"]["decoder"]["pattern"] = "full"
    paths = params_shapes(config)
    assert paths and not any("A_log" in path for path in paths)
    assert run_stage(config, tmp_path, Path).finished


def params_shapes(config):
    """What a stage of this config would train, by path."""
    config = resolve(config)
    stage = from_dict(Stage, config["stage"])
    batches = talker_stage.data(config, stage, RunConfig(threads=0), "train")
    objective = talker_stage.objective(config, stage, next(batches))
    batches.close()
    return flatten(jax.eval_shape(objective.init, jax.random.key(0)))


def test_whose_stream_contexts_hold_is_of_the_run(codes):
    config = talker_config(codes, 1)
    assert resolve(config)["thinker"] is None  # it reads none
    config["training"] |= {"contexts": 0.5, "max_hidden": 16}
    assert resolve(config)["thinker"] == [*THINKER]
    config["speech"] = {"context": True}
    assert resolve(config)["speech"]["context"]
    unread = {**config, "training": to_dict(TalkerTraining())}
    with pytest.raises(UserError, match="speech.context is set, .*training.contexts is 0"):
        resolve(unread)
    config["training"]["max_hidden"] = 0
    with pytest.raises(UserError, match="contexts is 0.5 and max_hidden 0"):
        resolve(config)
    config["training"]["max_hidden"] = 16
    config["talker"]["accept_hidden_layer"] = 3
    with pytest.raises(UserError, match="after 2 layers, accept_hidden_layer is 3"):
        resolve(config)


def test_codes_of_another_codec_are_another_run(codes, tmp_path):
    assert resolve(talker_config(codes, 1))["codec"] == CodesSource(codes).codec
    said = CodesSource(codes)[0]._replace(context=None)
    write_codes(tmp_path, "train", [said], CodesSource(codes).codec)
    write_codes(tmp_path, "validation", [said], "of another")
    config = talker_config(tmp_path, 1)
    with pytest.raises(UserError, match="has a train split by .*a validation split by .*another"):
        resolve(config)
    write_codes(tmp_path, "train", [said], "of another")
    config = talker_config(codes, 1)
    config["stage"]["mixture"] = f"codes:{codes}=1,codes:{tmp_path}=1"
    with pytest.raises(UserError, match="mixture has codes of several codecs"):
        resolve(config)
    config["stage"]["mixture"] = "omniworld=1"
    with pytest.raises(UserError, match="the Talker trains on codes:FOLDER"):
        resolve(config)


@pytest.mark.parametrize(
    "field, value",
    [("on_too_long", "drop"), ("loss_weighting", "sqrt"), ("window_chunks", (2, 3))],
)
def test_what_a_voices_stage_does_not_read_is_refused(codes, field, value):
    for config in (talker_config(codes, 1), codec_config(1, ENCODER)):
        config["stage"][field] = value
        with pytest.raises(UserError, match=f"config.stage.{field} is .* does not read it"):
            resolve(config)


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"described": 1.5}, "described is 1.5"),
        ({"reference_frames": (3,)}, "reference_frames"),
        ({"joined": (0.0,)}, "joined"),
        ({"schedules": ("chunked=x",)}, "'chunked=x' is not NAME=SHARE"),
        ({"mtp_frames": -1}, "mtp_frames is -1"),
        ({"frame_noise": 1.0}, "frame_noise is 1.0, it must be in"),
    ],
)
def test_a_talkers_training_is_checked(fields, named):
    with pytest.raises(UserError, match=named):
        TalkerTraining(**fields)


def test_the_pitchs_head_trains_where_it_has_a_loss_and_else_the_config_is_as_before():
    config = codec_config(1, ENCODER)
    assert from_dict(Stage, resolve(config)["stage"]).trains == ENCODER
    config["training"]["losses"]["pitch"] = 1.0
    resolved = resolve(config)
    assert from_dict(Stage, resolved["stage"]).trains == (*ENCODER, PITCH)
    assert resolve(resolved) == resolved


def test_what_does_not_fit_together_is_said_before_anything_runs(codes):
    config = codec_config(1, ENCODER)
    config["training"]["teacher"] = "weights:nano"
    with pytest.raises(UserError, match="must be whole"):
        resolve(config)
    config = talker_config(codes, 1)
    config["talker"]["text_vocab_size"] = 100
    with pytest.raises(UserError, match="text_vocab_size|tts_pad_id"):
        resolve(config)
    config = talker_config(codes, 1)
    config["talker"]["codebooks"] = 8
    with pytest.raises(UserError, match="has 4 codebooks, config.talker.codebooks is 8"):
        run_stage(config, codes / "never", Path)
