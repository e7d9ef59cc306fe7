"""The page of gdn_vs_attention.py: quality with spreads, cost with slopes and crossovers."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._gdn_cost import KINDS, crossover, slope
from experiments._results import spread
from omnijax.eval import page

COLOURS = {"gdn": "#0b6e4f", "3:1": "#1a73e8", "1:1": "#b26a00", "attention": "#b42318"}
TITLES = {
    "train": "training: loss and gradients of one row",
    "prefill": "prefill: one row into an empty cache",
    "decode": "decode: one token behind so many",
}


def chosen_rates(runs: dict[str, dict]) -> dict[tuple[str, str], str]:
    """(task, pattern) -> the learning rate with the best mean validation score over seeds."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for key, result in runs.items():
        task, pattern, rate, _ = key.split("/")
        found.setdefault((task, pattern), {}).setdefault(rate, []).append(result["validation"])
    return {key: max(rates, key=lambda r: np.mean(rates[r])) for key, rates in found.items()}


def scores(runs: dict[str, dict], task: str, pattern: str, rate: str) -> list[dict]:
    """``scores`` of each seed, in the seeds' order."""
    prefix = f"{task}/{pattern}/{rate}/"
    keys = sorted(key for key in runs if key.startswith(prefix))
    return [runs[key]["scores"] for key in keys]


def quality(result: dict[str, Any]) -> list[str]:
    """A section a task: a row a pattern, a column a level and length."""
    runs, about = result["runs"], result["tasks"]
    rates = chosen_rates(runs)
    parts = []
    for task in dict.fromkeys(key.split("/")[0] for key in runs):
        patterns = [p for p in result["models"] if (task, p) in rates]
        each = {p: scores(runs, task, p, rates[task, p]) for p in patterns}
        columns = [
            (length, level)
            for length, levels in next(iter(each.values()))[0].items()
            for level in levels
        ]
        rows = [
            [p, rates[task, p], str(len(each[p]))]
            + [spread([s[n][level] for s in each[p] if level in s[n]]) for n, level in columns]
            for p in patterns
        ]
        header = ["pattern", "rate", "seeds", *(f"{level}, T {n}" for n, level in columns)]
        parts.append(
            page.section(
                f"{task}: {about[task]['about']}",
                page.note(f"Share right; chance {about[task]['chance']:.3f}."),
                page.table(header, rows),
                _levels_plot(task, each, about[task]["chance"]),
            )
        )
    return parts


def _axes(columns: int, title: str):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, columns, figsize=(4.2 * columns, 3.2), dpi=90, layout="constrained", squeeze=False
    )
    figure.suptitle(title, fontsize=10)
    return figure, axes[0]


def _levels_plot(task: str, each: dict[str, list[dict]], chance: float) -> str:
    lengths = list(next(iter(each.values()))[0])
    figure, axes = _axes(len(lengths), f"{task}: each seed a line")
    for axis, length in zip(axes, lengths, strict=True):
        for pattern, seeds in each.items():
            for i, levels in enumerate(s[length] for s in seeds):
                named = {name: share for name, share in levels.items() if name != "all"}
                label = pattern if i == 0 else None
                axis.plot(list(named), named.values(), "o-", lw=1, ms=3, color=COLOURS[pattern],
                          label=label)  # fmt: skip
        axis.axhline(chance, color="#888", ls=":", lw=1)
        axis.set(ylim=(-0.03, 1.03), title=f"rows of {length} tokens")
        axis.tick_params(axis="x", labelsize=7, rotation=20)
    axes[0].legend(fontsize=7)
    return page.plot(figure, alt=f"share right by level on {task}")


def series(cost: dict[str, list[dict]], kind: str) -> tuple[list[int], dict[str, list[dict]]]:
    """Lengths that were measured, and of each pattern its rows at them."""
    keys = [key for key in cost if key.startswith(f"{kind}/")]
    lengths = sorted(int(key.split("/")[1]) for key in keys)
    rows: dict[str, list[dict]] = {}
    for length in lengths:
        for row in cost[f"{kind}/{length}"]:
            rows.setdefault(row["pattern"], []).append(row)
    return lengths, rows


def crossovers(cost: dict[str, list[dict]], kind: str) -> dict[str, str]:
    """From which length on each pattern is faster than pure attention."""
    lengths, rows = series(cost, kind)
    theirs = [row["milliseconds"] for row in rows.get("attention", [])]
    return {
        pattern: str(crossover(lengths, [row["milliseconds"] for row in own], theirs))
        for pattern, own in rows.items()
        if pattern != "attention" and theirs
    }


def _cell(row: dict) -> str:
    """Median and quartiles; a star where every sample was rejected."""
    ms = row["milliseconds"]
    text = f"{ms['median']:.3g} ({ms['quarter']:.3g} to {ms['three_quarters']:.3g})"
    return text if row["kept"] else text + " *"


def _growth(lengths: list[int], values: list[float]) -> str:
    exponent = slope(lengths, values)
    return "" if exponent is None else f"{exponent:.2f}"


def costs(result: dict[str, Any]) -> list[str]:
    """Time and memory of each kind of work against length; state against cache."""
    cost, parts = result["cost"], []
    for kind in KINDS:
        lengths, rows = series(cost, kind)
        if not lengths:
            continue
        over = crossovers(cost, kind)
        header = ["pattern", *(f"T {n:,}" for n in lengths), "slope"]
        times, memory = [], []
        for pattern, own in rows.items():
            ms = [row["milliseconds"] for row in own]
            cells = [_cell(row) for row in own]
            growth = _growth(lengths, [m["median"] for m in ms])
            times.append([pattern, *cells, growth, over.get(pattern, "")])
            temporary = [row["temporary_bytes"] for row in own]
            cells = [f"{count / 2**20:.2f}" for count in temporary]
            memory.append([pattern, *cells, _growth(lengths, temporary)])
        all_rows = [row for own in rows.values() for row in own]
        left_out, taken = (
            sum(row["rejected"] + more * row["kept"] for row in all_rows) for more in (0, 1)
        )
        shown = [
            page.note("Milliseconds, median (quartiles). Faster than attention from, in tokens "
                      "(with the quartiles for and against): last column. "
                      f"{left_out} of {taken} samples were rejected because somebody else had "
                      "the machine; *: all of them, and the median is of those: it compares "
                      "the patterns, which alternate, and is no figure of its own."),
            page.table([*header, "faster from T"], times),
            page.note("Temporary memory of the compiled program, MiB."),
            page.table(header, memory),
        ]  # fmt: skip
        figure, axes = _axes(2, TITLES[kind])
        for pattern, own in rows.items():
            ms = [row["milliseconds"]["median"] for row in own]
            low = [row["milliseconds"]["quarter"] for row in own]
            high = [row["milliseconds"]["three_quarters"] for row in own]
            label = f"{pattern}, slope {_growth(lengths, ms)}"
            axes[0].plot(lengths, ms, "o-", ms=3, lw=1, color=COLOURS[pattern], label=label)
            axes[0].fill_between(lengths, low, high, color=COLOURS[pattern], alpha=0.2)
            temporary = [max(row["temporary_bytes"], 1) for row in own]
            axes[1].plot(lengths, temporary, "o-", ms=3, lw=1, color=COLOURS[pattern])
        _log(axes, ("milliseconds", "temporary bytes"))
        axes[0].legend(fontsize=7)
        parts.append(page.section(TITLES[kind], *shown, page.plot(figure, alt=TITLES[kind])))
    if any(key.startswith("decode/") for key in cost):
        parts.append(_state_section(cost))
    return parts


def _log(axes, names: Sequence[str]) -> None:
    for axis, name in zip(axes, names, strict=True):
        axis.set(yscale="log", xlabel="tokens", ylabel=name)
        axis.set_xscale("log", base=2)
        axis.grid(which="both", alpha=0.2)


def _state_section(cost: dict[str, list[dict]]) -> str:
    lengths, rows = series(cost, "decode")
    figure, axes = _axes(1, "what a row keeps between two tokens")
    table = []
    for pattern, own in rows.items():
        kept = [row["cache_bytes"] for row in own]
        axes[0].plot(lengths, kept, "o-", ms=3, lw=1, color=COLOURS[pattern], label=pattern)
        table.append([pattern, *(f"{count / 1024:,.0f}" for count in kept)])
    _log(axes, ("bytes",))
    axes[0].legend(fontsize=7)
    return page.section(
        "state bytes against cache bytes",
        page.note("KiB of one row, all layers, float32: keys and values of attention, state and "
                  "convolution inputs of Gated DeltaNet."),
        page.table(["pattern", *(f"T {n:,}" for n in lengths)], table),
        page.plot(figure, alt="state and cache bytes against length"),
    )  # fmt: skip


def summary(result: dict[str, Any]) -> str:
    """One table: each task's share right at the training length, each kind's crossover."""
    runs, rates = result["runs"], chosen_rates(result["runs"])
    tasks = list(dict.fromkeys(key.split("/")[0] for key in runs))
    kinds = [kind for kind in KINDS if series(result["cost"], kind)[0]]
    over = {kind: crossovers(result["cost"], kind) for kind in kinds}
    rows = []
    for pattern in result["models"]:
        cells = []
        for task in tasks:
            rate = rates.get((task, pattern))
            seeds = scores(runs, task, pattern, rate) if rate else []
            cells.append(spread([next(iter(s.values()))["all"] for s in seeds]))
        rows.append([pattern, *cells, *(over[kind].get(pattern, "") for kind in kinds)])
    header = ["pattern", *tasks, *(f"{kind}: faster than attention from T" for kind in kinds)]
    return page.table(header, rows)


def write(result: dict[str, Any], path: Path) -> Path:
    """The page of what there is so far."""
    settings, about = result["settings"], result["environment"]
    models = [
        [name, m["pattern"], f"{m['ffn']}", f"{m['parameters']:,}", f"{m['flops']:,.0f}",
         f"{m['cache_bytes']:,}", f"{m['matched']:,.0f}"]
        for name, m in result["models"].items()
    ]  # fmt: skip
    measure = settings["match"]
    return page.write(
        path,
        "Gated DeltaNet and attention",
        page.note(f"{time.strftime('%Y-%m-%d %H:%M')}. Models are matched by {measure}: "
                  f"{result['match_says']}. Each is trained for {settings['steps']} steps of "
                  f"{settings['rows']} rows of {settings['length']} tokens from scratch: a score "
                  "says what is learned in that many, not what can be. The rate is the best of "
                  f"{', '.join(map(str, settings['rates']))} on rows kept apart."),
        page.note(f"{about['processor']}, {about['cores']} cores, load average "
                  f"{about['load_average']}, devices {about['devices']}, jax {about['jax']}, "
                  f"XLA_FLAGS {about['XLA_FLAGS']!r}, GLIBC_TUNABLES {about['GLIBC_TUNABLES']!r}."),
        page.section("In short", page.note("Share right, mean over seeds (least to most)."),
                     summary(result)),
        page.section("The models",
                     page.table(["name", "pattern", "ffn", "weights", "flops a token",
                                 "bytes kept of a row", f"matched: {measure}"], models)),
        *quality(result),
        *costs(result),
    )  # fmt: skip
