"""What an answer is worth that knows the question's kind but not the picture, sound or clip.

Each figure is the best constant answer found on the examples themselves, so it bounds from above
what a guesser can know who was trained on other combinations.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from omnijax.data.omniworld.language import NUMBERS
from omnijax.errors import UserError

MATCH_SECONDS = 0.5  # the tolerance of event F1


def chance(task: str, examples: Iterable[dict], without: str | None = None) -> float:
    """The chance level of a task, in its own figure, from examples or plans (``meta`` is read).

    transcribe: word error rate · picture, text questions and tool calls: exact share ·
    sound_time: mean error in seconds · caption: event F1 at 0.5 s.
    ``without`` names the modality that the guesser lacks where the other tells something:
    ``"audio"`` of a caption (sees who moves when) or of a spoken picture question (sees the
    picture), ``"video"`` of a caption (hears what sounds when).
    The more examples the tighter the bound; thousands of plans cost a second.
    """
    metas = [e["meta"] for e in examples if e["meta"]["task"] == task]
    if not metas:
        raise UserError(f"no example of task {task!r} to compute its chance level from")
    if task in ("transcribe", "say"):
        return _word_errors(metas)
    if task == "sound_time":
        return _seconds_off(metas)
    if task == "caption":
        return _caption(metas, without)
    if task in ("tool_call", "tool_call_written"):
        key = [(_freeze(m["call"]["arguments"]), m["call"]["name"]) for m in metas]
        return max(Counter(key).values()) / len(metas)
    if without == "audio" and task == "picture_question_spoken":
        return sum(_guess_by_sight(m["objects"]) == m["answer"] for m in metas) / len(metas)
    by_kind = defaultdict(Counter)
    for meta in metas:
        by_kind[meta["kind"]][meta["answer"]] += 1
    return sum(max(answers.values()) for answers in by_kind.values()) / len(metas)


def _freeze(arguments: dict) -> tuple:
    return tuple(sorted((name, str(value)) for name, value in arguments.items()))


def _guess_by_sight(objects: list[dict]) -> str:
    """The likeliest answer about a picture when the question is not heard: kinds are as likely."""
    weights: Counter = Counter()

    def add(answers: list[str], kinds: int = 1):
        for answer in answers:
            weights[answer] += kinds / len(answers)

    shapes, colours = (Counter(o[key] for o in objects) for key in ("shape", "colour"))
    by_shape = [o for o in objects if shapes[o["shape"]] == 1]
    by_colour = [o for o in objects if colours[o["colour"]] == 1]
    add([o["colour"] for o in by_shape])
    add([o["place"] for o in by_shape])
    add([o["shape"] for o in by_colour])
    add([o["place"] for o in by_colour])
    add([f"{o['colour']} {o['shape']}" for o in objects])
    add([NUMBERS[count - 1] for count in shapes.values()])
    return max(sorted(weights), key=weights.__getitem__)


def _word_errors(metas: list[dict]) -> float:
    """Of the best constant among nothing and the most frequent sentences, by language."""
    import jiwer

    truths, guesses = [], []
    for language in sorted({m["language"] for m in metas}):
        own = [m["answer"] for m in metas if m["language"] == language]
        tried = [sentence for sentence, _ in Counter(own).most_common(50)]
        best = min(tried, key=lambda guess: jiwer.wer(own, [guess] * len(own)))
        truths += own
        guesses += [best] * len(own)
    return min(1.0, jiwer.wer(truths, guesses))


def _seconds_off(metas: list[dict]) -> float:
    """Of the best constant time, and of the best constant share of the clip's length."""
    seconds = np.array([m["seconds"] for m in metas])
    lengths = np.array([m["duration"] for m in metas])
    shares = np.linspace(0, 1, 101)[:, None]
    by_share = np.abs(shares * lengths - seconds).mean(1).min()
    return float(min(np.abs(seconds - np.median(seconds)).mean(), by_share))


def _caption(metas: list[dict], without: str | None) -> float:
    events = [
        [(e["time"], *_thing(m, e), e["motion"], e["sound"]) for e in m["events"]] for m in metas
    ]
    flat = [event for clip in events for event in clip]
    if without == "audio":  # objects, motions and times are seen, the sound is guessed
        return max(Counter(event[-1] for event in flat).values()) / len(flat)
    if without == "video":  # sounds and times are heard, object and motion are guessed
        return max(Counter(event[1:-1] for event in flat).values()) / len(flat)
    best = 0.0
    for guess, _ in Counter(event[1:] for event in flat).most_common(20):
        times = [event[0] for event in flat if event[1:] == guess]
        middle = float(np.median(times))
        hits = sum(
            any(e[1:] == guess and abs(e[0] - middle) <= MATCH_SECONDS for e in clip)
            for clip in events
        )
        best = max(best, 2 * hits / (len(events) + len(flat)))
    return best


def _thing(meta: dict, event: dict) -> tuple[str, str]:
    thing = meta["objects"][event["object"]]
    return thing["colour"], thing["shape"]
