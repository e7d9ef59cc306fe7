import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.configs import nano, nano_codec, nano_talker

ROOT = Path(__file__).parents[2]

# Each argument is a part: its name, the parts that it needs after a colon; it runs NAME.py.
PARENT = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from experiments._parts import Part, Parts
folder, lanes, *given = sys.argv[1:]
stopped = given[-1:] == ["stopped before"]
recipe = []
for name, _, needs in (part.partition(":") for part in given if part != "stopped before"):
    needs = tuple(needs.split(",")) if needs else ()
    recipe.append(Part(name, (f"{{name}}.py", f"--of={{name}}"), needs, tolerated=3))
parts = Parts(recipe, int(lanes), Path(folder))
if stopped:
    begin, parts._begin = parts._begin, lambda: os.kill(os.getpid(), signal.SIGTERM) or begin()
print("went on after", *parts.run().values())
"""
SAVES_WHEN_STOPPED = """
import signal, sys, time
def stop(*_):
    time.sleep(0.3)
    print("saved\\n", end="", flush=True)  # in one piece
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print(f"ready {sys.argv[1:]}\\n", end="", flush=True)
time.sleep(600)
"""
SAYS = """
import os, sys
seen = sys.argv[1], len(os.sched_getaffinity(0)), os.environ.get("TTY_COMPATIBLE")
sys.stdout.write("{} {} {}\\n".format(*seen))  # in one piece
"""
# Ends once the others of its kind have begun: never, where they run one after another.
WAITS_FOR_ANOTHER = """
import sys, time
from pathlib import Path
here = Path(sys.argv[0]).parent
(here / f"{sys.argv[1]} begun").touch()
while len([*here.glob("*begun")]) < 2:
    time.sleep(0.02)
"""


def start(
    folder: Path, parts: dict[str, str], *given: str, lanes: int = 1, **options
) -> subprocess.Popen:
    for name, script in parts.items():
        (folder / f"{name}.py").write_text(script)
    command = [sys.executable, "-c", PARENT, str(folder), str(lanes), *(given or parts)]
    env = {name: value for name, value in os.environ.items() if name != "TTY_COMPATIBLE"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, **options)


def ends(process: subprocess.Popen) -> tuple[str, int]:
    said, _ = process.communicate(timeout=300)
    return said, process.returncode


def test_a_stop_signal_reaches_the_parts_that_run_and_waits_for_their_checkpoints(tmp_path):
    parts = {"a": SAVES_WHEN_STOPPED, "b": SAVES_WHEN_STOPPED, "c": 'print("ran")'}
    process = start(tmp_path, parts, lanes=2)
    ready = {process.stdout.readline() for _ in range(2)}
    assert ready == {"ready ['--of=a']\n", "ready ['--of=b']\n"}
    process.send_signal(signal.SIGTERM)
    assert ends(process) == ("saved\nsaved\n", 143)


def test_control_c_ends_it_as_well_once_the_parts_have_saved(tmp_path):
    parts = {"a": SAVES_WHEN_STOPPED.replace("SIGTERM", "SIGINT"), "c": 'print("ran")'}
    process = start(tmp_path, parts, process_group=0)
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert ends(process) == ("saved\n", 130)


def test_a_stop_signal_between_two_parts_begins_no_other(tmp_path):
    process = start(tmp_path, {"a": 'print("ran", flush=True)'}, "a", "stopped before")
    assert ends(process) == ("", 143)


def test_a_part_that_fails_ends_the_whole_with_its_status(tmp_path):
    parts = {"a": "import sys; sys.exit(2)", "b": 'print("ran", flush=True)'}
    assert ends(start(tmp_path, parts)) == ("", 2)


def test_a_part_that_fails_stops_what_runs_beside_it(tmp_path):
    fails = WAITS_FOR_ANOTHER + "sys.exit(2)"
    ready = f"open({str(tmp_path / 'other begun')!r}, 'w').close()\n"
    other = SAVES_WHEN_STOPPED.replace("time.sleep(600)", ready + "time.sleep(600)")
    said, status = ends(start(tmp_path, {"a": fails, "b": other}, lanes=2))
    assert status == 2 and said.endswith("saved\n")


def test_after_a_status_that_is_tolerated_it_goes_on_and_knows_it(tmp_path):
    parts = {"a": "import sys; sys.exit(3)", "b": ""}
    assert ends(start(tmp_path, parts, "a", "b:a")) == ("went on after 3 0\n", 0)


def test_what_needs_nothing_of_each_other_runs_side_by_side(tmp_path):
    parts = dict.fromkeys("ab", WAITS_FOR_ANOTHER)
    assert ends(start(tmp_path, parts, lanes=2)) == ("went on after 0 0\n", 0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be pinned here")
def test_a_part_waits_for_what_it_needs_and_has_every_core_where_all_wait_for_it(tmp_path):
    cores = len(os.sched_getaffinity(0))
    process = start(tmp_path, dict.fromkeys("abc", SAYS), "a", "b:a", "c:a", lanes=2)
    first, *others, _ = ends(process)[0].splitlines()
    assert first == f"--of=a {cores} None"
    share = {"b": (cores + 1) // 2, "c": max(cores // 2, 1)}
    assert {*others} == {f"--of={name} {size} 0" for name, size in share.items()}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("a:b", "b"), "part a needs b, which is not before it"),
        (("a", "a"), "there are two parts a"),
    ],
)
def test_a_recipe_that_could_not_end_is_refused(tmp_path, given, said):
    process = start(tmp_path, {"a": "", "b": ""}, *given, stderr=subprocess.PIPE)
    _, error = process.communicate(timeout=300)
    assert process.returncode and said in error


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
from experiments import nano
from experiments._main import launch
status = int(sys.argv.pop(1))
def run(self):
    for part in self.parts.values():
        print(*part.command)
    return {{name: status if part.tolerated else 0 for name, part in self.parts.items()}}
nano.Parts.run = run
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
    assert any(line.startswith("talker.py score") for line in found.stdout.splitlines())
    # Each task's codes in a folder of its own, in which the Talker's mixtures look.
    lines, folders = found.stdout.splitlines(), {}
    for words in [line.split() for line in lines if line.startswith("talker.py codes")]:
        options = dict(word.removeprefix("--").split("=", 1) for word in words[2:])
        folders[options["task"]] = options["out"]
        assert ("thinker" in options) == (options["task"] == "say_reply")
    assert folders.keys() == nano_talker.CODES.keys() and len({*folders.values()}) == len(folders)
    (trained,) = [line for line in lines if line.startswith("talker.py train")]
    assert trained.split()[-1] == f"--config.training.codes={tmp_path}"
    read = set()
    for stage in nano_talker.STAGES.values():
        first, *_ = names = [where.removeprefix("codes:") for where, _ in stage.weights()]
        assert first == nano_talker.CODES["say"].folder  # a stored utterance of each is kept
        assert sum(share for _, share in stage.weights()) == pytest.approx(1)
        read |= {str(tmp_path / name) for name in names}
    assert read == {*folders.values()}
    honest = result(MADE, "0", f"--runs={tmp_path}", "--novoice")
    assert honest.returncode == 0 and "talker.py" not in honest.stdout


# In a process of its own: two experiments of one process may not have a flag of one name.
PARTS = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from experiments import nano
runs, weights = Path("R"), Path("R/weights")
recipe = [*nano.thinker(runs, weights), *nano.voice(runs, weights), nano.scores(runs, weights)]
print(json.dumps({{part.name: part for part in recipe}}))
"""


def test_a_part_needs_all_whose_output_it_reads():
    parts = json.loads(result(PARTS).stdout)
    commands = {name: command for name, (_, command, _, _) in parts.items()}
    writes = {}
    for name, words in commands.items():
        flags = dict(w.removeprefix("--").split("=", 1) for w in words if w.startswith("--"))
        out = words[-1] if "export" in words else flags.get("workdir") or flags.get("out", "")
        writes[out] = name

    def before(name: str) -> set[str]:
        needs = parts[name][2]
        return {*needs}.union(*map(before, needs))

    for name, words in commands.items():
        read = {place for word in words for place in re.findall(r"R/[\w/.]+", word)}
        made_by = {writes[place] for place in read} - {name}
        assert made_by <= before(name), name
    assert writes.keys() >= {"R/weights", "R/weights/codec", "R/weights/talker", "R/scores.json"}
    # All that the encoder teaches by the same encoder, so that no stage is begun anew.
    taught = [word for words in commands.values() for word in words if "training.teacher" in word]
    assert taught == ["--config.training.teacher=weights:R/aut"] * 2
    # What the joined stages start from are parts of their own.
    sources = nano.STAGES["s1_adapters"].sources()
    assert {name for _, name in sources} == {*nano.ENCODERS, nano.DECODER_ALONE} <= {*parts}
    # The Talker's frames are in the codes that Code2Wav learns to decode.
    sources = nano_codec.STAGES[nano_codec.LAST].sources()
    assert {name for _, name in sources} == {nano_codec.CODED} <= {*parts}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "nowhere", "weights"), "there is no checkpoint directory"),
        (("export", "nowhere"), "give nothing, or export RUN FOLDER; got export nowhere"),
        (("s2",), "give nothing, or export RUN FOLDER; got s2"),
    ],
)
def test_a_thinker_that_cannot_be_exported_is_said_in_a_line(arguments, said, tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "thinker.py"), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert found.returncode == 2 and found.stderr.startswith("error: ") and said in found.stderr
