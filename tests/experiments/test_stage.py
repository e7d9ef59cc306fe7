"""thinker.py and aut.py as their user meets them: flags, errors, the chain of stages."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from experiments.configs import nano
from experiments.configs.nano_talker import STAGES, TRAINING

ROOT = Path(__file__).parents[2]
NANO = "experiments/configs/nano.py"
CODEC = "experiments/configs/nano_codec.py"
TALKER = "experiments/configs/nano_talker.py"

# What a case with the flag shows of these stages: an expression of `recipe`, `stage`, `config`.
SHOWN = {
    "--own": (
        "talker",
        ("talker", "talker_speakers"),
        "(config.training.contexts, config.training.max_hidden, config.training.frame_noise,"
        " config.speech.context, config.stage.mixture, config.training.shown,"
        " config.training.codes)",
    ),
    "--losses": (
        "codec",
        ("codec_encoder", "codec_decoder"),
        "(config.training.losses.periodicity, config.training.frames)",
    ),
    "--chain": ("s2", ("s2",), "recipe._chain(stage)"),
    "--show": (
        "s2",
        ("aut", "s2"),
        "(recipe.workdir(stage), config.model.decoder.pattern, config.model.decoder.layers)",
    ),
}
# Calls `thinker.py` for each list of arguments on stdin, each in a fork: imports cost seconds.
DRIVER = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
import jax, omnijax.models.presets, omnijax.train.recipe
from experiments.configs import nano, nano_codec, nano_talker
from experiments import _stage
from experiments._main import launch
for number, argv in enumerate(json.load(sys.stdin)):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        out = os.open(f"{{sys.argv[1]}}/{{number}}", os.O_CREAT | os.O_WRONLY)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.argv = ["thinker.py", *argv]
        objective = "codec" if {CODEC!r} in "".join(argv) else "lm"
        for flag, (first, stages, shown) in {SHOWN!r}.items():
            if flag in argv:
                sys.argv.remove(flag)
                def main():
                    recipe = _stage.from_flags(first)
                    for stage in stages:
                        config = recipe.stage_config(stage)
                        print(stage, *eval(shown))
                launch(main)
        launch(lambda: _stage.main_of(objective, "s2"))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
CASES = {
    "unknown field": [f"--config={NANO}:s2", "--config.model.decoder.wdith=3"],
    "unknown section": [f"--config={NANO}:s2", "--config.zzz=3"],
    "below a field": [f"--config={NANO}:s2", "--config.stage.steps.more=3"],
    "wrong type": [f"--config={NANO}:s2", "--config.stage.steps=many"],
    "wrong value": [f"--config={NANO}:s2", "--config.stage.steps=0"],
    "unknown mixer": [f"--config={NANO}:s2", "--config.model.decoder.pattern=mamba"],
    "unknown stage": [f"--config={NANO}:s9"],
    "no file": ["--config=nowhere.py:s2"],
    "no config": [],
    "unknown flag": [f"--config={NANO}:s2", "--wrkdir=x"],
    "argument": [f"--config={NANO}:s2", "s2"],
    "other experiment": [f"--config={NANO}:aut"],
    "other mesh": [f"--config={NANO}:lm", "--config.mesh.data=3"],
    "other processor": [f"--config={NANO}:lm", "--config.processor.patch_size=8"],
    "chain's mesh": [
        f"--config={NANO}:s2",
        "--workdir=/nowhere/s2",
        "--config.mesh.fsdp=2",
        "--chain",
    ],
    "chain's data": [
        f"--config={NANO}:s2",
        "--workdir=/nowhere/s2",
        "--config.stage.mixture=folder:/no/such/folder=1",
        "--chain",
    ],
    "chain's weights": [
        f"--config={NANO}:s2",
        "--workdir=/nowhere/s2",
        "--config.stage.starts_from=s2_sounds,vision=weights:/no/such/weights",
        "--chain",
    ],
    "no checkpoint kept": [f"--config={NANO}:s2", "--config.run.keep=0"],
    "bucket": [f"--config={NANO}:s2", "--workdir=gs://bucket/s2"],
    "processes": [f"--config={NANO}:s2", "--distributed=here"],
    "misplaced loss": [f"--config={CODEC}:codec_decoder", "--config.training.losses.pitch=10"],
    "losses": [
        f"--config={CODEC}:codec_decoder",
        "--config.training.losses.periodicity=3",
        "--config.training.frames=40",
        "--losses",
    ],
    "contexts": [
        f"--config={TALKER}:talker_speakers",
        "--config.speech.context=True",
        "--config.training.contexts=0.5",
        "--config.training.max_hidden=64",
        "--config.training.frame_noise=0.3",
        "--config.stage.mixture=codes:./mine=1",
        "--config.training.shown=0.6",
        "--config.training.codes=elsewhere",
        "--own",
    ],
    "chain": [f"--config={NANO}:s2", "--workdir=/nowhere/s2", "--chain"],
    "broken chain": [
        f"--config={NANO}:s2",
        "--workdir=/nowhere/s2",
        "--config.processor.patch_size=8",
        "--chain",
    ],
    "pattern": [f"--config={NANO}:s2", "--config.model.decoder.pattern=full", "--show"],
    "workdir": [f"--config={NANO}:s2", "--workdir=/runs/mine/s2", "--show"],
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(exit status, what was printed) of each case."""
    folder = tmp_path_factory.mktemp("answers")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder)],
        input=json.dumps(list(CASES.values())),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    codes = [int(line) for line in done.stdout.split()]
    return {
        name: (code, (folder / str(number)).read_text())
        for number, (name, code) in enumerate(zip(CASES, codes, strict=True))
    }


@pytest.mark.parametrize(
    "case, says",
    [
        ("unknown field", "wdith: config.model.decoder has no 'wdith'; it has "),
        ("unknown section", "--config.zzz: config has no 'zzz'; it has aed, mesh, model, name"),
        ("below a field", "config.stage.steps has no 'more'; it has no fields"),
        ("wrong type", "steps"),
        ("wrong value", "steps must be positive"),
        ("unknown mixer", "mamba"),
        ("unknown stage", "nano has no stage 's9', it has aut, pictures"),
        ("no file", "config file 'nowhere.py' does not exist"),
        ("no config", "give --config=FILE:STAGE"),
        ("unknown flag", "wrkdir"),
        ("argument", "cannot read the argument 's2'"),
        ("other experiment", "objective 'aed'"),
        ("other mesh", "needs 3 devices"),
        ("other processor", "config.processor.patch_size is 8"),
        ("chain's mesh", "needs 2 devices, 1 are there"),
        ("chain's data", "/no/such/folder"),
        ("chain's weights", "starts from weights:/no/such/weights: there is no folder"),
        ("no checkpoint kept", "run.keep is 0, it must be at least 1"),
        ("bucket", "--workdir is gs://bucket/s2: runs lie on a disk, local or mounted"),
        ("processes", "distributed is 'here': give auto, or HOST:PORT,INDEX,COUNT"),
        ("misplaced loss", "nothing to learn from a teacher, the envelope or the pitch"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_status_2(answers, case, says):
    code, printed = answers[case]
    lines = [line for line in printed.splitlines() if line]
    assert code == 2 and says in lines[-1], printed
    assert "Traceback" not in printed
    assert sum(line.startswith("error:") for line in lines) == 1


def test_what_cannot_be_trained_is_refused_before_the_stages_that_come_first(answers):
    assert "first" not in answers["misplaced loss"][1]


def test_losses_are_a_stage_s_own_and_other_changes_reach_the_stages_before(answers):
    code, printed = answers["losses"]
    assert code == 0
    assert printed.split() == ["codec_encoder", "0.0", "40", "codec_decoder", "3.0", "40"]
    code, printed = answers["contexts"]
    assert code == 0
    first, second = printed.splitlines()
    noise, few = TRAINING["talker"].frame_noise, ",".join(STAGES["talker"].mixture)
    assert first == f"talker 0.0 0 {noise} False {few} 0.6 elsewhere"
    assert second == "talker_speakers 0.5 64 0.3 True codes:./mine=1 0.6 elsewhere"


def test_what_a_stage_starts_from_comes_before_it_once(answers):
    code, printed = answers["chain"]
    name, *chain = re.findall(r"\w+", printed)
    assert code == 0 and name == chain[-1] == "s2" and len({*chain}) == len(chain) > 5
    for number, stage in enumerate(chain):
        assert {before for _, before in nano.STAGES[stage].sources()} <= {*chain[:number]}
    code, printed = answers["broken chain"]
    assert code == 2 and "config.processor.patch_size is 8" in printed


def test_attention_in_place_of_gdn_is_one_flag_and_has_its_own_folder(answers):
    code, printed = answers["pattern"]
    aut, s2 = printed.splitlines()
    assert code == 0 and " full " in aut and " full " in s2
    assert s2.startswith("s2 runs/nano+decoder.pattern-full/s2")


def test_the_stages_of_a_workdir_lie_beside_each_other(answers):
    aut, s2 = answers["workdir"][1].splitlines()
    assert aut.startswith("aut /runs/mine/aut ") and s2.startswith("s2 /runs/mine/s2 ")


TINY = f"""
import dataclasses, sys
sys.path.insert(0, {str(ROOT / "tests/laws")!r})
import ml_collections
from experiments.configs import nano
from tiny import tiny
from omnijax.models.aut import AuTDecoderConfig
from omnijax.train.stages import OptimizerConfig, Stage, to_dict

DATA = ("folder:{{folder}}=1",)
SIZES = dict(mixture=DATA, steps=3, batch=2, tokens=64, audio_chunks=4, patches=0,
             optimizer=OptimizerConfig(warmup_steps=1))
STAGES = dict(
    hear=Stage(name="hear", objective="aed", **SIZES),
    talk=Stage(name="talk", starts_from=("audio=hear",), **SIZES),
)

def get_config(stage):
    model = dataclasses.replace(tiny(), vocab_size=1024, vision=None)
    model = dataclasses.replace(model, aut=dataclasses.replace(model.aut, mel_bins=128))
    aed = AuTDecoderConfig(vocab_size=1024, feature_width=32, width=16, layers=1, heads=2, ffn=32)
    config = nano.get_config("aut")
    config.name = "tiny"
    config.model = to_dict(model)
    config.aed = to_dict(aed)
    config.stage = to_dict(STAGES[stage])
    config.processor.audio_chunk_frames = 32
    config.run.log_every = 1
    config.run.eval_split = ""
    return config
"""


@pytest.fixture
def world(tmp_path):
    """A folder of four spoken noises and a config of two stages for it."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(4):
        sound = 0.1 * rng.normal(size=8000).astype(np.float32)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16_000)
        question = [{"type": "audio", "audio": f"{number}.wav"}, {"type": "text", "text": "Write."}]
        chat = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"It is {number}."},
        ]
        lines.append(json.dumps({"task": "transcribe", "chat": {"messages": chat}}))
    (tmp_path / "all.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "tiny.py").write_text(TINY.replace("{folder}", str(tmp_path)))
    return tmp_path


def start(script, world, stage, *more, devices=1):
    config = f"--config={world / 'tiny.py'}:{stage}"
    return subprocess.Popen(
        [sys.executable, f"experiments/{script}", config, f"--workdir={world}/runs/{stage}", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0 "
            f"--xla_force_host_platform_device_count={devices}",
            "XDG_CACHE_HOME": str(world / "cache"),
        },
    )


@pytest.mark.slow
def test_a_stage_trains_what_it_starts_from_stops_on_sigterm_and_resumes(world):
    process = start("thinker.py", world, "talk", "--config.stage.steps=2000")
    for line in process.stdout:
        if line.startswith("talk 1/"):
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143, err[-2000:]
    assert "stopped at step" in out and "Traceback" not in err
    assert [p.name for p in (world / "runs/hear/checkpoints").iterdir()] == ["3"]
    stopped = max(int(p.name) for p in (world / "runs/talk/checkpoints").iterdir())
    again = start("thinker.py", world, "talk", "--config.stage.steps=2000")
    for line in again.stdout:
        if line.startswith("talk ") and "/" in line:
            assert int(line.split()[1].split("/")[0]) == stopped + 1
            break
    again.kill()
    again.communicate()
    other = start("thinker.py", world, "talk")
    out, err = other.communicate(timeout=300)
    assert other.returncode == 2
    assert "another config: stage.steps: 2000 in the checkpoint, 3 here" in err


@pytest.mark.slow
def test_two_processes_train_a_stage_and_what_it_starts_from_as_one_does(world):
    config = world / "tiny.py"
    config.write_text(config.read_text().replace("batch=2", "batch=4"))
    mesh = ["--config.mesh.data=2", "--config.mesh.fsdp=2"]
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    pair = [
        start(
            "thinker.py", world, "talk", *mesh, f"--distributed=localhost:{port},{i},2", devices=2
        )
        for i in range(2)
    ]
    assert [run.communicate(timeout=600)[0].count("talk 3/3") for run in pair] == [1, 0]
    assert [run.returncode for run in pair] == [0, 0]
    (world / "runs").rename(world / "two")
    alone = start("thinker.py", world, "talk", *mesh, devices=4)
    out, err = alone.communicate(timeout=600)
    assert alone.returncode == 0, err[-2000:]
    ours, theirs = (
        [json.loads(line) for line in (world / name / "talk/metrics.jsonl").open()]
        for name in ("runs", "two")
    )
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [1, 2, 3]
    for name in ("loss", "grad_norm", "accuracy"):
        np.testing.assert_allclose(
            [line[name] for line in ours], [line[name] for line in theirs], rtol=1e-4
        )
