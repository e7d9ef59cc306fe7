"""What Gated DeltaNet buys over attention: quality on small tasks, and cost against length.

    python experiments/gdn_vs_attention.py                        # runs/gdn_vs_attention/index.html
    python experiments/gdn_vs_attention.py --match=flops --tasks=recall,needle --seeds=3

Decoders of pure GDN, three GDN layers to one of attention, one to one, and pure attention, alike in
everything else and matched by --match (_gdn_training.py), learn each task from scratch; then the
same decoders are timed against length (_gdn_cost.py). Results are kept in results.json as they
come: the same command goes on where it stopped, more seeds or tasks are added to what is there.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments._main import compilation_cache, launch  # noqa: E402
from experiments._results import INTO, SEEDS, STEPS, Results  # noqa: E402
from omnijax.errors import UserError  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Results of other settings cannot be mixed, but for those that MAY_GROW."""

    match: str = "parameters"
    patterns: tuple[str, ...] = ("gdn", "3:1", "1:1", "attention")
    tasks: tuple[str, ...] = ("recall", "registers", "parity", "copy", "needle", "when", "text")
    seeds: int = 2
    rates: tuple[float, ...] = (3e-3,)
    steps: int = 2000
    rows: int = 16
    length: int = 32
    eval_lengths: tuple[int, ...] = (32, 128)
    eval_rows: int = 256
    width: int = 64
    layers: int = 4
    ffn: int = 128
    kinds: tuple[str, ...] = ("train", "prefill", "decode")
    cost_lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    rounds: int = 7
    sample_seconds: float = 0.05


MAY_GROW = ("patterns", "tasks", "seeds", "rates", "kinds", "cost_lengths")
_DEFAULT = Settings()
_WORDS = {k: [*map(str, v)] for k, v in vars(_DEFAULT).items() if isinstance(v, tuple)}
MATCH = flags.DEFINE_string("match", _DEFAULT.match, "parameters, flops or memory.")
PATTERNS = flags.DEFINE_list(
    "patterns",
    _WORDS["patterns"],
    "Of gdn, 3:1, 1:1, attention, bare (GDN whose convolution sees a token alone).",
)
TASKS = flags.DEFINE_list(
    "tasks",
    _WORDS["tasks"],
    "Of recall, registers, parity, copy, needle, when, text (OmniWorld's); or nothing.",
)
RATES = flags.DEFINE_list("rates", _WORDS["rates"], "Learning rates to choose from.")
ROWS = flags.DEFINE_integer("batch_rows", _DEFAULT.rows, "Of a batch in training.")
LENGTH = flags.DEFINE_integer("length", _DEFAULT.length, "Tokens of a row in training.")
EVAL_LENGTHS = flags.DEFINE_list("eval_lengths", _WORDS["eval_lengths"], "Tokens of tested rows.")
EVAL_ROWS = flags.DEFINE_integer("eval_rows", _DEFAULT.eval_rows, "At each length.")
WIDTH = flags.DEFINE_integer("width", _DEFAULT.width, "Of the stream, a multiple of 16.")
LAYERS = flags.DEFINE_integer("layers", _DEFAULT.layers, "A multiple of 4.")
FFN = flags.DEFINE_integer("ffn", _DEFAULT.ffn, "Of pure attention; the others' is matched.")
COST_LENGTHS = flags.DEFINE_list("cost_lengths", _WORDS["cost_lengths"], "Timed; or nothing.")
ROUNDS = flags.DEFINE_integer("rounds", _DEFAULT.rounds, "Samples of each timing.")


def _configs(settings: Settings):
    from experiments._gdn_training import PATTERNS, matched

    for pattern in settings.patterns:
        if pattern not in PATTERNS:
            raise UserError(f"no pattern is called {pattern!r}; there are {', '.join(PATTERNS)}")
    if settings.layers % 4:
        raise UserError(f"layers is {settings.layers}, it must be a multiple of 4 for 3:1")
    sizes = {name: getattr(settings, name) for name in ("width", "layers", "ffn", "length")}
    return matched(settings.patterns, settings.match, **sizes)


def _about(settings: Settings, configs, tasks) -> dict[str, Any]:
    """What the page says of the models, the tasks and the machine."""
    from experiments import _gdn_training as training
    from experiments._timing import environment

    length = settings.length
    return {
        "match_says": training.MATCHES[settings.match],
        "environment": environment(),
        "tasks": {n: {"about": task.about, "chance": task.chance} for n, task in tasks.items()},
        "models": {
            name: {
                "pattern": ", ".join(config.pattern),
                "ffn": config.ffn,
                "parameters": training.parameters(config),
                "flops": training.flops(config, length),
                "cache_bytes": training.cache_bytes(config, length),
                "matched": training.measured(config, settings.match, length),
            }
            for name, config in configs.items()
        },
    }


def run(settings: Settings, folder: Path, show: Callable[[str], None] = print) -> Path:
    """Trains and times what results.json lacks; returns the page."""
    from experiments import _gdn_page
    from experiments._gdn_cost import cost
    from experiments._gdn_training import Plan, open_task, train_one
    from experiments._timing import Machine

    tasks = {name: open_task(name) for name in settings.tasks}
    configs = _configs(settings)
    plan = Plan(
        settings.steps, settings.rows, settings.length, settings.eval_lengths, settings.eval_rows
    )
    results = Results(
        folder,
        settings,
        may_grow=MAY_GROW,
        parts=("runs", "cost"),
        fresh=_about(settings, configs, tasks),
    )
    runs, costs = results.data["runs"], results.data["cost"]
    # Seeds outermost: stopped early, every pattern has been trained as often as the others.
    wanted = itertools.product(range(settings.seeds), tasks, settings.rates, configs)
    wanted = [(f"{t}/{p}/{rate:g}/{seed}", t, p, rate, seed) for seed, t, rate, p in wanted]
    missing = [job for job in wanted if job[0] not in runs]
    if len(missing) < len(wanted):
        show(f"{len(wanted) - len(missing)} of {len(wanted)} models are in {results.path}")
    begin = time.monotonic()
    for number, (key, name, pattern, rate, seed) in enumerate(missing):

        def progress(step: int, loss: float, key=key, number=number):
            done = number + step / plan.steps
            left = (time.monotonic() - begin) * (len(missing) - done) / done / 60
            show(
                f"model {number + 1} of {len(missing)}: {key}, step {step} of {plan.steps}, "
                f"loss {loss:.3f}, {left:.0f} min left"
            )

        runs[key] = train_one(
            configs[pattern],
            tasks[name],
            plan,
            seed=seed,
            rate=rate,
            held_out=open_task(name, held_out=True),
            progress=progress,
        )
        results.save()
    machine = None
    for kind, length in itertools.product(settings.kinds, settings.cost_lengths):
        key = f"{kind}/{length}"
        if {row["pattern"] for row in costs.get(key, [])} >= {*configs}:
            continue
        show(f"timing {kind} at {length} tokens")
        machine = machine or Machine()
        timing = {"rounds": settings.rounds, "sample_seconds": settings.sample_seconds}
        costs[key] = cost(configs, kind, length, machine, **timing)
        results.save()
    results.save()
    return _gdn_page.write(results.data, results.page)


def _numbers(flag, kind: type) -> tuple:
    try:
        return tuple(kind(x) for x in flag.value or () if str(x).strip())
    except ValueError:
        raise UserError(f"--{flag.name} is {flag.value}, it must be numbers") from None


def main() -> int:
    settings = Settings(
        match=MATCH.value,
        patterns=tuple(PATTERNS.value),
        tasks=tuple(name for name in TASKS.value if name),
        seeds=SEEDS.value or _DEFAULT.seeds,
        rates=_numbers(RATES, float),
        steps=STEPS.value or _DEFAULT.steps,
        rows=ROWS.value,
        length=LENGTH.value,
        eval_lengths=_numbers(EVAL_LENGTHS, int),
        eval_rows=EVAL_ROWS.value,
        width=WIDTH.value,
        layers=LAYERS.value,
        ffn=FFN.value,
        cost_lengths=_numbers(COST_LENGTHS, int),
        rounds=ROUNDS.value,
    )
    for name in ("rows", "eval_rows", "rounds"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name} is {getattr(settings, name)}, it must be at least 1")
    compilation_cache()
    on_screen = sys.stderr.isatty()

    def show(line: str) -> None:
        print(f"\r\x1b[K{line}" if on_screen else line, end="" if on_screen else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    page = run(settings, Path(INTO.value or "runs/gdn_vs_attention"), show)
    print(f"\nThe page is {page}.")
    return 0


if __name__ == "__main__":
    launch(main)
