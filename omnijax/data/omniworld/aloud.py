"""What a Talker is taught beside sentences in its own voices.

`reply`: what the other tasks are answered with, said aloud, so that it meets the answers it will
speak. `said_by_many`: sentences in drawn voices, so that it copies the voice that it is shown.
`said_words`: words in no order, so that it reads what it says: of a sentence it can guess much.

A reply is one line or sentence of an answer: "purple circle", "1.5 seconds",
"<1.2 seconds> the green square moves down with a splash". Where it has a time in brackets, the
brackets are not spoken.
"""

import re
import zlib

import numpy as np

from omnijax.data.omniworld import media
from omnijax.data.omniworld.drawing import spoken
from omnijax.data.omniworld.records import make_example
from omnijax.data.omniworld.scenes import pick
from omnijax.data.omniworld.tasks import plan
from omnijax.data.omniworld.voices import DRAWN, drawn_voice, voice_of

LANGUAGE = "en"
SAMPLE_RATE = 24_000
IN_DRAWN_VOICES = ("say_by_many", "say_words")
_DRAWN_FROM = 100_000  # examples of a split whose answers or sentences are said
_NOISE = {"say_reply": 1, "say_by_many": 2, "say_words": 3}  # keeps the tasks' noise apart
_END = re.compile(r"\n|(?<=[.?!]) ")
_TIME = re.compile(r"<([^<>]*)>")


def replies_of(made: dict) -> list[tuple[str, int]]:
    """The lines and sentences that answer a plan's questions, each with the number of the message
    that it is of; calls and transcripts are none."""
    if made["task"] == "transcribe":
        return []
    return [
        (part.strip(), number)
        for number, message in enumerate(made["messages"])
        if message["role"] == "assistant" and isinstance(message["content"], str)
        for part in _END.split(message["content"])
        if part.strip()
    ]


def reply(index: int, split: str, seed: int = 0) -> dict:
    """An example: {"id", "task", "chat", "meta"}, with the speech in "meta" as `say` has it.

    ``meta["asked"]`` is for `question_of`.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"reply {split}".encode()), index])
    found: list[tuple[str, int]] = []
    while not found:
        of = int(rng.integers(_DRAWN_FROM))
        found = replies_of(plan(of, split, seed))
    text, message = pick(rng, found)
    aloud = _TIME.sub(r"\1,", text)
    example = _spoken("say_reply", index, split, seed, text, spoken(rng, aloud, LANGUAGE, split))
    example["meta"]["asked"] = {"index": of, "split": split, "seed": seed, "message": message}
    return example


def question_of(reply: dict) -> dict:
    """The chat that a `reply` answers, with its media, up to the answer."""
    asked = reply["meta"]["asked"]
    chat = make_example(asked["index"], asked["split"], asked["seed"])["chat"]
    return {**chat, "messages": chat["messages"][: asked["message"]]}


def said_by_many(index: int, split: str, seed: int = 0) -> dict:
    """The same of a sentence of `say`, in one of the drawn voices."""
    rng = np.random.default_rng([seed, zlib.crc32(f"many {split}".encode()), index])
    part, other = {"validation": ("say", 1), "test": ("say_test", 0)}.get(split, ("say", 0))
    meta = plan(int(rng.integers(_DRAWN_FROM)), part, seed + other)["meta"]
    voice = _drawn(rng)
    speech = spoken(rng, meta["answer"], meta["language"], split) | {"voice": voice}
    return _spoken("say_by_many", index, split, seed, meta["answer"], speech)


def said_words(index: int, split: str, seed: int = 0) -> dict:
    """The same of words and short phrases in no order, nine in ten of them not English, half of
    them in drawn voices.

    No split of it has a held-out combination: test has other words than training, no harder ones.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"words {split}".encode()), index])
    other = {"validation": 1, "test": 2}.get(split, 0)
    meta = plan(int(rng.integers(_DRAWN_FROM)), "words", seed + other)["meta"]
    speech = spoken(rng, meta["answer"], meta["language"], split)
    if rng.integers(2):
        speech |= {"voice": _drawn(rng)}
    return _spoken("say_words", index, split, seed, meta["answer"], speech)


def _drawn(rng: np.random.Generator) -> str:
    return drawn_voice(int(rng.integers(DRAWN))).name


def _spoken(task: str, index: int, split: str, seed: int, text: str, speech: dict) -> dict:
    speech = speech | {"sample_rate": SAMPLE_RATE, "hiss": False}
    where = [seed, zlib.crc32(split.encode()), index, _NOISE[task]]
    return {
        "id": f"{task}-{split}-{index:06d}",
        "task": task,
        "chat": {"messages": [{"role": "assistant", "content": text}]},
        "meta": {
            "answer": text,
            "language": speech["language"],
            "voice": speech["voice"],
            "voice_description": voice_of(speech["voice"]).description,
            "speech": media.render(speech | {"seed": where}),
            "split": split,
        },
    }
