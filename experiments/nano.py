"""Trains nano from scratch and prints its scores; the same command resumes.

    python experiments/nano.py            (make nano)

Runs the stages of configs/nano.py on OmniWorld, made as it is read, writes the weights to
runs/nano/weights and scores them on the held-out splits; and the voice, by configs/nano_codec.py
and configs/nano_talker.py, into the same folder. --novoice leaves it out. On CPU cores two parts
that need nothing of each other run side by side (--lanes).
Exit status 3: all is trained, but a task is solved by a shortcut (see evaluate.py).
"""

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments._main import SHORTCUT, launch  # noqa: E402
from experiments._parts import HERE, Part, Parts  # noqa: E402
from experiments.configs import nano_codec, nano_talker  # noqa: E402
from experiments.configs.nano import DECODER_ALONE, ENCODERS, LAST  # noqa: E402

RUNS = flags.DEFINE_string("runs", "runs/nano", "Where the stages run.")
EXPORT = flags.DEFINE_string("export", None, "Where the weights go; by default RUNS/weights.")
VOICE = flags.DEFINE_boolean("voice", True, "Train codec and Talker as well.")
LANES = flags.DEFINE_integer(
    "lanes",
    None,
    "Parts at once; by default 2 on two CPU cores or more, 1 on one or with an accelerator.",
    lower_bound=1,
)


def config(file: str, stage: str) -> str:
    return f"--config={HERE / 'configs' / file}:{stage}"


def thinker(runs: Path, weights: Path) -> list[Part]:
    """The encoders and the decoder from text alone, then the rest."""

    def stage(script: str, name: str, *needs: str) -> Part:
        where = f"--workdir={runs / name}"
        return Part(name, (script, config("nano.py", name), where), needs)

    return [
        *(stage("aut.py", name) for name in ENCODERS),
        stage("thinker.py", DECODER_ALONE),
        stage("thinker.py", LAST, *ENCODERS, DECODER_ALONE),
        Part("export", ("thinker.py", "export", str(runs / LAST), str(weights)), (LAST,)),
    ]


def scores(runs: Path, weights: Path) -> Part:
    """The Thinker's: last where there is a choice, for nothing waits for them."""
    command = "evaluate.py", f"--weights={weights}", f"--out={runs / 'scores.json'}"
    return Part("evaluate", command, ("export",), tolerated=SHORTCUT)


def voice(runs: Path, weights: Path) -> list[Part]:
    """Codec, codes, Talker, and their scores."""

    def stage(script: str, file: str, name: str, needs: tuple[str, ...], *changes: str) -> Part:
        where = f"--workdir={runs / name}"
        return Part(name, (script, "train", config(file, name), where, *changes), needs)

    def export(script: str, name: str, kind: str) -> Part:
        command = script, "export", str(runs / name), str(weights / kind)
        return Part(f"export {kind}", command, (name,))

    def score(script: str, folder: Path, *beside: str, needs: tuple[str, ...]) -> Part:
        command = script, "score", f"--weights={folder}", f"--recogniser={weights}", *beside
        return Part(f"{script} score", command, ("export", *needs))

    teacher, asks = f"--config.training.teacher=weights:{runs / 'aut'}", f"--thinker={weights}"
    coded = nano_codec.CODED
    parts = [stage("codec.py", "nano_codec.py", coded, ("aut",), teacher)]
    for task, codes in nano_talker.CODES.items():
        options = f"--codec={runs / coded}", f"--task={task}", f"--out={runs / codes.folder}"
        asked = (asks,) if task == "say_reply" else ()
        needs = (coded, "export") if asked else (coded,)
        parts.append(Part(codes.folder, ("talker.py", "codes", *options, *asked), needs))
    codes_in = f"--config.training.codes={runs}"
    read = tuple(codes.folder for codes in nano_talker.CODES.values())
    return [
        *parts,
        stage("talker.py", "nano_talker.py", nano_talker.LAST, read, codes_in),
        stage("codec.py", "nano_codec.py", nano_codec.LAST, (coded,), teacher),
        export("codec.py", nano_codec.LAST, "codec"),
        export("talker.py", nano_talker.LAST, "talker"),
        score("codec.py", weights / "codec", needs=("export codec",)),
        score("talker.py", weights, asks, needs=("export codec", "export talker")),
    ]


def lanes() -> int:
    """Two on two cores or more; one where there is an accelerator, which one process takes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if (cores or 1) < 2:
        return 1
    ask = "import jax; print(jax.default_backend())"
    backend = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    return 2 if backend.stdout.split()[-1:] == ["cpu"] else 1


def main() -> int:
    began = time.monotonic()
    runs = Path(RUNS.value)
    weights = Path(EXPORT.value or runs / "weights")
    recipe = thinker(runs, weights) + (voice(runs, weights) if VOICE.value else [])
    parts = Parts([*recipe, scores(runs, weights)], LANES.value or lanes())
    shortcut = parts.run()["evaluate"]
    print(f"This call took {(time.monotonic() - began) / 60:.0f} minutes.")
    if shortcut:
        print(f"A task is solved by a shortcut: see {runs / 'scores.json'}.", file=sys.stderr)
    return shortcut


if __name__ == "__main__":
    launch(main)
