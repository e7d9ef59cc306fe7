"""Trains nano from scratch and prints its score table; the same command resumes.

    python experiments/nano.py            (make nano)

Runs the stages of configs/nano.py from first to last on OmniWorld, made as it is read, writes the
weights to runs/nano/weights and scores them on the held-out splits; then the voice, by
configs/nano_codec.py and configs/nano_talker.py, into the same folder. --novoice leaves it out.
Exit status 3: all is trained, but a task is solved by a shortcut (see evaluate.py).
"""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments._main import SHORTCUT, launch  # noqa: E402
from experiments.configs import nano_codec, nano_talker  # noqa: E402
from experiments.configs.nano import LAST  # noqa: E402

RUNS = flags.DEFINE_string("runs", "runs/nano", "Where the stages run.")
EXPORT = flags.DEFINE_string("export", None, "Where the weights go; by default RUNS/weights.")
VOICE = flags.DEFINE_boolean("voice", True, "Train codec and Talker as well.")
HERE = Path(__file__).resolve().parent


_running: list[subprocess.Popen] = []
_stopped = threading.Event()


def stop(*_) -> None:
    """Stops the part that runs, which saves a checkpoint first; no other is begun."""
    _stopped.set()
    for part in _running:
        part.terminate()


def run(script: str, *arguments: str, tolerated: int = 0) -> int:
    """Each part in a process of its own, so that it leaves no memory behind.

    Returns its exit status, 0 or `tolerated`: any other ends this process too.
    """
    if _stopped.is_set():
        sys.exit(128 + signal.SIGTERM)
    _running[:] = [subprocess.Popen([sys.executable, str(HERE / script), *arguments])]
    if _stopped.is_set():  # in between
        _running[0].terminate()
    while True:
        try:
            code = _running[0].wait()
            break
        except KeyboardInterrupt:  # The terminal has told the part as well.
            continue
    if code not in (0, tolerated):
        sys.exit(code if code > 0 else 128 - code)
    return code


def train_voice(runs: Path, weights: Path) -> None:
    """Codec, codes, Talker, and their scores; each part goes on where it was stopped."""

    def stage(script: str, config: str, name: str, *changes: str) -> Path:
        workdir = runs / name
        run(script, "train", f"--config={HERE / config}:{name}", f"--workdir={workdir}", *changes)
        return workdir

    teacher = f"--config.training.teacher=weights:{weights}"
    codec = stage("codec.py", "configs/nano_codec.py", nano_codec.LAST, teacher)
    run("codec.py", "export", str(codec), str(weights / "codec"))
    for task, codes in nano_talker.CODES.items():
        reader = (f"--thinker={weights}",) if task == "say_reply" else ()
        made = (f"--codec={weights / 'codec'}", f"--task={task}", f"--out={runs / codes.folder}")
        run("talker.py", "codes", *made, *reader)
    mixture = f"--config.stage.mixture={','.join(nano_talker.mixture(str(runs)))}"
    talker = stage("talker.py", "configs/nano_talker.py", nano_talker.LAST, mixture)
    run("talker.py", "export", str(talker), str(weights / "talker"))
    run("codec.py", "score", f"--weights={weights / 'codec'}", f"--recogniser={weights}")
    beside = f"--recogniser={weights}", f"--thinker={weights}"
    run("talker.py", "score", f"--weights={weights}", *beside)


def main() -> int:
    began = time.monotonic()
    signal.signal(signal.SIGTERM, stop)
    runs = Path(RUNS.value)
    run(
        "thinker.py",
        f"--config={HERE / 'configs/nano.py'}:{LAST}",
        f"--workdir={runs / LAST}",
    )
    from omnijax.pretrained import export

    weights = Path(EXPORT.value or runs / "weights")
    file = export(runs / LAST, weights)
    print(f"weights: {file} ({file.stat().st_size / 1e6:.1f} MB)")
    # A task solved by a shortcut is said at the end as well: the voice does not hang on it.
    scored = f"--out={runs / 'scores.json'}"
    shortcut = run("evaluate.py", f"--weights={weights}", scored, tolerated=SHORTCUT)
    if VOICE.value:
        train_voice(runs, weights)
    print(f"This call took {(time.monotonic() - began) / 60:.0f} minutes.")
    if shortcut:
        print(f"A task is solved by a shortcut: see {runs / 'scores.json'}.", file=sys.stderr)
    return shortcut


if __name__ == "__main__":
    launch(main)
