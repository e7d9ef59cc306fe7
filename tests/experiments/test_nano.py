import signal
import subprocess
import sys
from pathlib import Path

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
