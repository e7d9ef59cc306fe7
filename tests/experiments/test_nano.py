import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.configs import nano_talker

ROOT = Path(__file__).parents[2]

PARENT = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from experiments import nano
signal.signal(signal.SIGTERM, nano.stop)
nano.HERE = Path(sys.argv[1])
if len(sys.argv) > 2:
    os.kill(os.getpid(), signal.SIGTERM)
status = nano.run("part.py", "--name=value", tolerated=3)
print("went on after", status)
"""
SAVES_WHEN_STOPPED = """
import signal, sys, time
def stop(*_):
    time.sleep(0.3)
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("ready", sys.argv[1:], flush=True)
time.sleep(600)
"""


def start(folder: Path, part: str, *arguments: str) -> subprocess.Popen:
    (folder / "part.py").write_text(part)
    command = [sys.executable, "-c", PARENT, str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_stop_signal_reaches_the_part_that_runs_and_waits_for_its_checkpoint(tmp_path):
    process = start(tmp_path, SAVES_WHEN_STOPPED)
    assert process.stdout.readline() == "ready ['--name=value']\n"
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=300)
    assert rest == "saved\n" and process.returncode == 143


def test_a_stop_signal_between_two_parts_begins_no_other(tmp_path):
    process = start(tmp_path, 'print("ran", flush=True)', "stopped before")
    assert process.communicate(timeout=300)[0] == "" and process.returncode == 143


def test_a_part_that_fails_ends_the_whole_with_its_status(tmp_path):
    process = start(tmp_path, "import sys; sys.exit(2)")
    assert process.communicate(timeout=300)[0] == "" and process.returncode == 2


def test_after_a_status_that_is_tolerated_it_goes_on_and_knows_it(tmp_path):
    process = start(tmp_path, "import sys; sys.exit(3)")
    assert process.communicate(timeout=300)[0] == "went on after 3\n" and process.returncode == 0


# The scores are given, and nothing is trained: what is left is who says what at the end.
EVALUATED = f"""
import sys
from types import SimpleNamespace
sys.path.insert(0, {str(ROOT)!r})
import omnijax.pretrained
from experiments import evaluate
from experiments._main import launch
from omnijax.eval import score_table
from omnijax.eval.score_table import Noisy, Row
left = Noisy(float(sys.argv.pop(1)), 0.25, 64, False)
row = Row("picture", "exact", 1.0, 0.9, True, 0.25, {{"image": left}}, 64, {{}})
score_table.evaluate = lambda *_, **__: [row]
model = SimpleNamespace(generator=lambda **_: None, tokenizer=None, processor=None)
omnijax.pretrained.load = lambda _: model
launch(evaluate.main)
"""
MADE = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import omnijax.pretrained
from experiments import nano
from experiments._main import launch
status = int(sys.argv.pop(1))
omnijax.pretrained.export = lambda run, folder: Path(__import__("os").devnull)
def run(script, *arguments, tolerated=0):
    print(script, *arguments)
    return status if script == "evaluate.py" and tolerated else 0
nano.run = run
launch(nano.main)
"""


def result(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_task_solved_without_what_it_needs_is_the_scores_status(tmp_path):
    found = result(EVALUATED, "0.9", f"--out={tmp_path / 'scores.json'}")
    assert found.returncode == 3 and "by a shortcut: picture without image" in found.stderr
    (row,) = json.loads((tmp_path / "scores.json").read_text())
    assert row["noise"]["image"]["shortcut"] is True
    honest = result(EVALUATED, "0.3", f"--out={tmp_path / 'scores.json'}")
    assert honest.returncode == 0 and "shortcut" not in honest.stderr


def test_a_shortcut_is_nano_s_status_too_and_the_voice_is_trained_all_the_same(tmp_path):
    found = result(MADE, "3", f"--runs={tmp_path}")
    assert found.returncode == 3 and f"see {tmp_path / 'scores.json'}" in found.stderr
    assert "talker.py score" in found.stdout.splitlines()[-2]
    # Each task's codes in a folder of its own, all of which the Talker's mixture names.
    lines, folders = found.stdout.splitlines(), {}
    for words in [line.split() for line in lines if line.startswith("talker.py codes")]:
        options = dict(word.removeprefix("--").split("=", 1) for word in words[2:])
        folders[options["task"]] = options["out"]
        assert ("thinker" in options) == (options["task"] == "say_reply")
    assert folders.keys() == nano_talker.CODES.keys() and len({*folders.values()}) == len(folders)
    (trained,) = [line for line in lines if line.startswith("talker.py train")]
    mixture = trained.partition("--config.stage.mixture=")[2].split(",")
    shares = dict(part.removeprefix("codes:").split("=") for part in mixture)
    assert [*shares] == [*folders.values()]
    assert sum(map(float, shares.values())) == pytest.approx(1)
    honest = result(MADE, "0", f"--runs={tmp_path}", "--novoice")
    assert honest.returncode == 0 and "talker.py" not in honest.stdout
