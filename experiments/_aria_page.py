"""The page of aria_ablation.py: what is heard of each way to interleave text and speech."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._results import spread
from omnijax.eval import page

MEASURES = ("wer", "skipped", "repeated", "pauses")


def seeds_of(data: dict[str, Any]) -> dict[str, list[dict]]:
    """Variant -> what each of its seeds has."""
    found: dict[str, list[dict]] = {}
    for key, run in data["runs"].items():
        found.setdefault(key.split("/")[0], []).append(run)
    return found


def values(
    runs: Sequence[dict],
    measure: str,
    *,
    prefix: int | None = None,
    language: str | None = None,
    sentences: int | None = None,
) -> list[float]:
    """A mean over what is not fixed, one value a seed; a prefix that a variant lacks: none."""
    out = []
    for run in runs:
        cells = [
            cell[measure]
            for p, languages in run["cells"].items()
            for name, lengths in languages.items()
            for count, cell in lengths.items()
            if prefix in (None, int(p))
            and language in (None, name)
            and sentences in (None, int(count))
        ]
        if cells:
            out.append(float(np.mean(cells)))
    return out


def summary(data: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): a variant a row, at the first prefix."""
    settings, rows = data["settings"], []
    first, longest = settings["prefixes"][0], settings["sentences"][-1]
    header = ["variant", "seeds", *MEASURES, f"wer, {longest} sentences", "wer of the source",
              f"wer of the source, {longest} sentences"]  # fmt: skip
    header += ["text tokens before sound", "seconds before sound", "semantic loss"]
    for name, runs in seeds_of(data).items():
        one = {"prefix": first, "sentences": settings["sentences"][0]}
        begin = [run["first sound"][f"{first}"] for run in runs]
        rows.append(
            [name, f"{len(runs)}"]
            + [spread(values(runs, measure, **one)) for measure in MEASURES]
            + [spread(values(runs, "wer", prefix=first, sentences=longest))]
            + [spread(values(runs, "wer source", **one))]
            + [spread(values(runs, "wer source", prefix=first, sentences=longest))]
            + [spread([b[unit] for b in begin if unit in b]) for unit in ("tokens", "seconds")]
            + [spread([run["losses"]["semantic"] for run in runs])]
        )
    return header, rows


def summary_text(data: dict[str, Any]) -> str:
    """The summary as a table of Markdown."""
    header, rows = summary(data)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plot(data: dict[str, Any]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings, seeds = data["settings"], seeds_of(data)
    first = settings["prefixes"][0]  # which every variant has
    axes_of = {
        "sentences in an answer": ("sentences", settings["sentences"]),
        "language": ("language", settings["languages"]),
        "text tokens before the first frame": ("prefix", settings["prefixes"]),
    }
    figure, axes = plt.subplots(
        1, len(axes_of), figsize=(4.4 * len(axes_of), 3.4), dpi=90, layout="constrained"
    )
    for axis, (title, (field, points)) in zip(axes, axes_of.items(), strict=True):
        for i, (name, runs) in enumerate(seeds.items()):
            each = [values(runs, "wer", **({"prefix": first} | {field: point})) for point in points]
            places = [n for n, found in enumerate(each) if found]
            means = [np.mean(each[n]) for n in places]
            reach = [
                [max(mean - min(each[n]), 0) for n, mean in zip(places, means, strict=True)],
                [max(max(each[n]) - mean, 0) for n, mean in zip(places, means, strict=True)],
            ]
            shift = 0.04 * (i - len(seeds) / 2)
            axis.errorbar([n + shift for n in places], means, reach, fmt="o-", ms=3, lw=1,
                          capsize=2, label=name)  # fmt: skip
        axis.set_xticks(range(len(points)), [str(point) for point in points])
        axis.set(xlabel=title, ylabel="WER", ylim=(0, None))
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:  # none while no run is whole
        figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    return page.plot(figure, alt="word error rate by length, language and prefix")


def write(data: dict[str, Any], path: Path) -> Path:
    """The page of what there is so far."""
    settings = data["settings"]
    first, tables = settings["prefixes"][0], []
    for measure in (*MEASURES, "wer source", "seconds", "seconds source"):
        columns = [(s, n) for s in settings["sentences"] for n in settings["languages"]]
        rows = [
            [name]
            + [
                spread(values(runs, measure, prefix=first, sentences=s, language=n))
                for s, n in columns
            ]
            for name, runs in seeds_of(data).items()
        ]
        header = ["variant", *(f"{language}, {count}" for count, language in columns)]
        tables.append(page.section(measure, page.table(header, rows)))
    start = settings["starts_from"] or "random weights"
    if settings["starts_from"]:
        start += " (what it was trained under, schedules and window, has a head start)"
    return page.write(
        path,
        "How text and speech are interleaved",
        page.note(
            f"{time.strftime('%Y-%m-%d %H:%M')}. Each Talker learned for {settings['steps']} "
            f"steps from {start}; {settings['answers']} answers of each language and length are "
            "scored. Means, and in brackets the least and the most of the seeds. Columns below: "
            "language, and sentences in an answer; training joins at most three."
        ),
        page.section("In short", page.table(*summary(data))),
        page.section("Word error rate", _plot(data)),
        *tables,
    )
