"""Scores of answers against the truth: pure functions of strings, and one table row a task.

| task | figure |
|---|---|
| transcribe | word error rate |
| picture and text questions | exact share |
| sound_time | mean error in seconds |
| caption | event F1 at 0.5 s |
| tool_call | share of calls with the right name and arguments |
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.text.tools import ToolCall, parse_tool_calls

MATCH_SECONDS = 0.5
_SECONDS = re.compile(r"(-?\d+(?:\.\d+)?)\s*s(?:ec(?:ond)?s?)?\b")
_EVENT = re.compile(
    r"^<\s*(\d+(?:\.\d+)?)\s*seconds?\s*>\s*the\s+(\w+\s+\w+)\s+(.+?)\s+with\s+an?\s+(.+?)\s*\.?$"
)


class Event(NamedTuple):
    """One line of a caption: when, which object does what, and the sound that goes with it."""

    seconds: float
    thing: str
    action: str
    sound: str


class Score(NamedTuple):
    """A task's figure over its examples; ``lower_is_better`` for errors."""

    figure: str
    value: float
    count: int
    lower_is_better: bool


def plain(text: str) -> str:
    """Lower-case words without punctuation: letters with accents, digits, apostrophes, decimal
    points and the sign of a negative number stay."""
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    text = re.sub(r"(?<=\d)\.(?=\d)", "\0", text)
    text = re.sub(r"(?<![\w.)\]])[-−](?=\d)", "\1", text)
    text = "".join(c if c.isalnum() or c in "'\0\1" else " " for c in text)
    return " ".join(text.replace("\0", ".").replace("\1", "-").split())


def word_error_rate(truths: Sequence[str], answers: Sequence[str]) -> float:
    """Edits over the words of all truths, after ``plain``."""
    import jiwer

    _same_length(truths, answers)
    references = [plain(truth) for truth in truths]
    for place, reference in enumerate(references):
        if not reference:
            raise UserError(f"truth {place} has no words: {truths[place]!r}")
    return float(jiwer.wer(references, [plain(answer) for answer in answers]))


def exact_share(truths: Sequence[str], answers: Sequence[str]) -> float:
    """The share of answers that are the truth, after ``plain``."""
    _same_length(truths, answers)
    pairs = zip(truths, answers, strict=True)
    return float(np.mean([plain(truth) == plain(answer) for truth, answer in pairs]))


def seconds_in(text: str) -> float | None:
    """The first time that a text names ("1.4 seconds"), or None."""
    found = _SECONDS.search(text.lower())
    return float(found[1]) if found else None


def mean_seconds_error(
    truths: Sequence[float], answers: Sequence[str], durations: Sequence[float]
) -> float:
    """Mean absolute error; an answer without a time, or far off, counts as the clip's length."""
    _same_length(truths, answers)
    errors = []
    for truth, answer, duration in zip(truths, answers, durations, strict=True):
        said = seconds_in(answer)
        errors.append(duration if said is None else min(abs(said - truth), duration))
    return float(np.mean(errors))


def parse_events(text: str) -> list[Event]:
    """The lines of a caption that can be read; others are left out."""
    found = (_EVENT.match(line.strip().lower()) for line in text.splitlines())
    return [Event(float(m[1]), *(" ".join(part.split()) for part in m.groups()[1:]))
            for m in found if m]  # fmt: skip


def matches(truth: Sequence[Event], answer: Sequence[Event], tolerance: float = 0.5) -> int:
    """The most pairs, one to one, of the same object, action and sound within the tolerance."""
    kinds = {event[1:] for event in truth}
    return sum(
        _greedy(
            sorted(event.seconds for event in truth if event[1:] == kind),
            sorted(event.seconds for event in answer if event[1:] == kind),
            tolerance,
        )
        for kind in kinds
    )


def _greedy(truth: list[float], answer: list[float], tolerance: float) -> int:
    """Sorted times matched from the earliest on: the most pairs there can be on a line."""
    hits = i = j = 0
    while i < len(truth) and j < len(answer):
        if abs(truth[i] - answer[j]) <= tolerance + 1e-9:
            hits, i, j = hits + 1, i + 1, j + 1
        elif truth[i] < answer[j]:
            i += 1
        else:
            j += 1
    return hits


def event_f1(
    truths: Sequence[Sequence[Event]], answers: Sequence[str], tolerance: float = 0.5
) -> float:
    """F1 over the events of all clips; a line that cannot be read counts as a wrong event."""
    _same_length(truths, answers)
    hits = said = true = 0
    for truth, answer in zip(truths, answers, strict=True):
        hits += matches(truth, parse_events(answer), tolerance)
        said += sum(1 for line in answer.splitlines() if line.strip())
        true += len(truth)
    return 2 * hits / (said + true) if said + true else 1.0


def tool_call_is_right(truth: Mapping, answer: str, tools: Sequence[Mapping] | None = None) -> bool:
    """Whether the answer holds exactly one call, with the true name and arguments."""
    calls = parse_tool_calls(answer, tools)
    return len(calls) == 1 and _comparable(calls[0]) == _comparable(
        ToolCall(truth["name"], dict(truth["arguments"]))
    )


def _comparable(call: ToolCall) -> tuple:
    return call.name, {key: plain(str(value)) for key, value in call.arguments.items()}


def true_events(meta: Mapping) -> list[Event]:
    """The events of an OmniWorld clip."""
    things = [f"{thing['colour']} {thing['shape']}" for thing in meta["objects"]]
    return [
        Event(event["time"], things[event["object"]], event["motion"], event["sound"])
        for event in meta["events"]
    ]


def score(task: str, examples: Sequence[Mapping], answers: Sequence[str]) -> Score:
    """A task's figure from OmniWorld examples (or plans; ``meta`` is read) and the answers."""
    _same_length(examples, answers)
    if not len(examples):
        raise UserError(f"no examples of task {task!r} to score")
    metas = [example["meta"] for example in examples]
    truths = [meta["answer"] for meta in metas]
    match task:
        case "transcribe":
            row = ("WER", word_error_rate(truths, answers), True)
        case "picture_question_written" | "picture_question_spoken" | "describe" | "text_question":
            row = ("exact", exact_share(truths, answers), False)
        case "sound_time":
            seconds, durations = ([m[key] for m in metas] for key in ("seconds", "duration"))
            row = ("mean error, s", mean_seconds_error(seconds, answers, durations), True)
        case "caption":
            row = ("event F1", event_f1([true_events(m) for m in metas], answers), False)
        case "tool_call" | "tool_call_written":
            tools = [(e.get("chat") or e).get("tools") for e in examples]
            right = [tool_call_is_right(m["call"], answer, offered)
                     for m, answer, offered in zip(metas, answers, tools, strict=True)]  # fmt: skip
            row = ("exact call", float(np.mean(right)), False)
        case _:
            raise UserError(f"task {task!r} has no score")
    return Score(row[0], row[1], len(metas), row[2])


def is_right(task: str, example: Mapping, answer: str) -> bool:
    """Whether one answer is fully right: a transcript or call exact, a time or event in 0.5 s."""
    result = score(task, [example], [answer])
    if task == "sound_time":
        return result.value <= MATCH_SECONDS
    return result.value == 0 if result.lower_is_better else result.value == 1


def _same_length(truths: Sequence, answers: Sequence) -> None:
    if len(truths) != len(answers):
        raise UserError(f"{len(answers)} answers for {len(truths)} truths")
