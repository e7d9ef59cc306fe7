"""The held-out score table: every task beside its aim, its chance level and its noise ablations."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from omnijax.data import omniworld
from omnijax.eval.answers import answer, with_noise
from omnijax.eval.scoring import score
from omnijax.generate.text import TextGenerator
from omnijax.media import ProcessorConfig
from omnijax.text.tokenizer import Tokenizer


class Line(NamedTuple):
    """What one line of the table measures: a task's examples, what it needs, and the aim."""

    title: str
    task: str
    split: str
    needs: tuple[str, ...]  # modalities without which it must fall to chance
    aim: float | None


LINES = (
    Line("transcribe, voices seen", "transcribe", "test", ("audio",), 0.05),
    Line("transcribe, voices never seen", "transcribe", "test_voice", ("audio",), 0.15),
    Line("picture, written question", "picture_question_written", "test", ("image",), 0.95),
    Line("picture, spoken question", "picture_question_spoken", "test", ("image", "audio"), 0.90),
    Line("picture, described", "describe", "test", ("image",), None),
    Line("when did the sound happen", "sound_time", "test", ("audio",), 0.3),
    Line("caption with timestamps", "caption", "test", ("audio", "video"), 0.8),
    Line("tool call, spoken request", "tool_call", "test", ("audio",), 0.95),
    Line("question about a text", "text_question", "test", (), None),
)


class Noisy(NamedTuple):
    """A line's figure with one of its modalities made noise, beside what chance makes of it."""

    score: float
    chance: float
    count: int
    lower_is_better: bool

    @property
    def shortcut(self) -> bool:
        """Better than chance by more than three standard errors of a share as large as chance.

        No figure between 0 and 1 varies more than a share of the same mean; errors in seconds, and
        what chance does worse than 1, are taken to vary as a half does. Of 64 examples where chance
        is 0.25 that is 0.16: less goes unnoticed.
        """
        better = (self.chance - self.score) * (1 if self.lower_is_better else -1)
        part = 0.5 if self.lower_is_better else self.chance
        return better > 3 * math.sqrt(max(part * (1 - part), 1 / self.count) / self.count)


class Row(NamedTuple):
    """A measured line.

    noise: modality -> what is left with it made noise.
    parts: what examples are told apart by -> its value -> (score, count) of those alone.
    """

    title: str
    figure: str
    score: float
    aim: float | None
    met: bool | None
    chance: float
    noise: dict[str, Noisy]
    count: int
    parts: dict[str, dict[str, tuple[float, int]]]

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        met = "" if self.met is None else "yes" if self.met else "no"
        noise = ", ".join(
            f"{name} {noisy.score:.3f} ({noisy.chance:.3f}){' SHORTCUT' if noisy.shortcut else ''}"
            for name, noisy in self.noise.items()
        )
        aim = "" if self.aim is None else f"{self.aim:.2f}"
        numbers = (f"{self.score:.3f}", aim, met, f"{self.chance:.3f}", noise, str(self.count))
        return (self.title, self.figure, *numbers)

    @property
    def shortcuts(self) -> list[str]:
        """The modalities without which the task is still solved."""
        return [name for name, noisy in self.noise.items() if noisy.shortcut]

    def part_cells(self) -> list[tuple[str, str, str]]:
        """The parts as text: title, what tells them apart, each with its score and count."""
        return [
            (self.title, by, ", ".join(f"{name} {v:.3f} ({n})" for name, (v, n) in found.items()))
            for by, found in self.parts.items()
        ]


PARTS: dict[str, Callable[[Mapping], Any]] = {
    "language": lambda meta: meta.get("language"),
    "kind": lambda meta: meta.get("kind"),
    "objects": lambda meta: len(meta.get("objects", ())),
    "events": lambda meta: len(meta.get("events", ())),
}


def in_parts(
    task: str, examples: Sequence[Mapping], answers: Sequence[str]
) -> dict[str, dict[str, tuple[float, int]]]:
    """The score and count of each language, kind of question, number of objects and of events;
    what all examples have in common is left out."""
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for name, value_of in PARTS.items():
        values = [str(value_of(example["meta"])) for example in examples]
        for value in sorted({*values}) if len({*values}) > 1 else ():
            chosen = [i for i, other in enumerate(values) if other == value]
            result = score(task, [examples[i] for i in chosen], [answers[i] for i in chosen])
            found.setdefault(name, {})[value] = (result.value, result.count)
    return found


def evaluate(
    generator: TextGenerator,
    tokenizer: Tokenizer,
    processor: ProcessorConfig,
    *,
    split: str = "test",
    limit: int | None = None,
    noise: bool = True,
    noise_limit: int = 64,
    max_new_tokens: int = 96,
    progress: Callable[[str], Any] = lambda line: None,
) -> list[Row]:
    """Score a model on OmniWorld's test splits, made on the fly.

    split: "validation" scores combinations that training has met, of the tasks that it has.
    limit: at most so many examples a line; noise_limit: at most so many for the ablations.
    """
    rows = []
    for line in LINES:
        if split != "test" and line.split != "test":
            continue
        name = split if line.split == "test" else line.split
        source = omniworld.live(name, tasks=(line.task,))
        examples = [source[i] for i in range(min(len(source), limit or len(source)))]

        def answered(chats):
            return answer(generator, tokenizer, processor, chats, max_new_tokens=max_new_tokens)

        answers = answered([example["chat"] for example in examples])
        result = score(line.task, examples, answers)
        noisy = {}
        for modality in line.needs if noise else ():
            part = examples[:noise_limit]
            rng = np.random.default_rng(0)
            chats = [with_noise(example["chat"], modality, rng) for example in part]
            without = modality if len(line.needs) > 1 else None
            left = score(line.task, part, answered(chats))
            chance = omniworld.chance(line.task, part, without)
            noisy[modality] = Noisy(left.value, chance, len(part), left.lower_is_better)
        met = None
        if line.aim is not None:
            met = result.value <= line.aim if result.lower_is_better else result.value >= line.aim
        chance = omniworld.chance(line.task, examples)
        row = Row(
            line.title,
            result.figure,
            result.value,
            line.aim,
            met,
            chance,
            noisy,
            result.count,
            in_parts(line.task, examples, answers),
        )
        progress(" | ".join(row.cells()))
        rows.append(row)
    return rows
