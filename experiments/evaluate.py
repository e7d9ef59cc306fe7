"""Scores a model on OmniWorld's held-out examples, and again with each modality made noise.

    python experiments/evaluate.py --weights=nano
    python experiments/evaluate.py --parts --nonoise     # and by language, kind of question, ...

Held out means unseen combinations of shape, colour, place, motion, sound and wording
(omnijax/data/omniworld/splits.py). Beside each figure stand its chance level, the figure that is
aimed at, and what is left when the modality that the task needs is replaced by noise, with the
chance level without it in brackets. A figure better than chance by more than three standard errors
means a shortcut: it is marked, and the exit status is 3.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments._main import SHORTCUT, check_output, compilation_cache, launch  # noqa: E402

WEIGHTS = flags.DEFINE_string("weights", "nano", "nano, a folder of weights, or a training run.")
SPLIT = flags.DEFINE_enum(
    "split", "test", ["test", "validation"], "validation: combinations that training has met."
)
EXAMPLES = flags.DEFINE_integer("examples", 0, "At most so many of each task; 0 is all.")
NOISE = flags.DEFINE_boolean("noise", True, "Also score with each needed modality made noise.")
PARTS = flags.DEFINE_boolean(
    "parts",
    False,
    "Show the parts by language, kind of question, objects and events; --out has them.",
)
MAX_LEN = flags.DEFINE_integer(
    "max_len", 768, "Longest question with its answer, tokens.", lower_bound=1
)
OUT = flags.DEFINE_string("out", None, "Write the table here too, as JSON.")


def main() -> int:
    if OUT.value:  # Not found out after an hour.
        check_output(OUT.value, make_folder=True)
    compilation_cache()
    from rich.console import Console
    from rich.table import Table

    from omnijax.eval.score_table import evaluate
    from omnijax.pretrained import load

    loaded = load(WEIGHTS.value)
    rows = evaluate(
        loaded.generator(max_len=MAX_LEN.value),
        loaded.tokenizer,
        loaded.processor,
        split=SPLIT.value,
        limit=EXAMPLES.value or None,
        noise=NOISE.value,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    table = Table(title=f"{WEIGHTS.value} on OmniWorld, {SPLIT.value}")
    for column in ("task", "figure", "score", "aim", "met", "chance", "with noise", "n"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row.cells())
    Console(width=120).print(table)
    if PARTS.value:
        parts = Table(title="the same, in parts")
        for column in ("task", "by", "score (n)"):
            parts.add_column(column)
        for row in rows:
            for cells in row.part_cells():
                parts.add_row(*cells)
        Console(width=120).print(parts)
    if OUT.value:
        table = [row._asdict() for row in rows]
        for row in table:
            row["noise"] = {
                name: {**noisy._asdict(), "shortcut": noisy.shortcut}
                for name, noisy in row["noise"].items()
            }
        Path(OUT.value).write_text(json.dumps(table, indent=2) + "\n")
    shortcuts = [f"{row.title} without {name}" for row in rows for name in row.shortcuts]
    if shortcuts:
        print(f"solved by a shortcut: {', '.join(shortcuts)}", file=sys.stderr)
    return SHORTCUT if shortcuts else 0


if __name__ == "__main__":
    launch(main)
