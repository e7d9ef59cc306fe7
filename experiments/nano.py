"""Trains nano from scratch and prints its score table; the same command resumes.

    python experiments/nano.py            (make nano)

Runs the stages of configs/nano.py from first to last on OmniWorld, made as it is read, writes the
weights to runs/nano/weights and scores them on the held-out splits.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments._main import launch  # noqa: E402
from experiments.configs.nano import LAST  # noqa: E402

RUNS = flags.DEFINE_string("runs", "runs/nano", "Where the stages run.")
EXPORT = flags.DEFINE_string("export", None, "Where the weights go; by default RUNS/weights.")
HERE = Path(__file__).resolve().parent


def run(script: str, *arguments: str) -> None:
    """Each part in a process of its own, so that it leaves no memory behind.

    A signal that stops this process stops the part, which saves a checkpoint first.
    """
    part = subprocess.Popen([sys.executable, str(HERE / script), *arguments])
    signal.signal(signal.SIGTERM, lambda *_: part.terminate())
    while True:
        try:
            code = part.wait()
            break
        except KeyboardInterrupt:  # The terminal has told the part as well.
            continue
    if code:
        sys.exit(code if code > 0 else 128 - code)


def main() -> int:
    began = time.monotonic()
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
    run(
        "evaluate.py",
        f"--weights={weights}",
        f"--out={runs / 'scores.json'}",
    )
    print(f"This call took {(time.monotonic() - began) / 60:.0f} minutes.")
    return 0


if __name__ == "__main__":
    launch(main)
