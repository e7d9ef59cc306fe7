"""Plans of examples: everything but the pixels and samples, from (index, split, seed) alone.

A plan is JSON: ``messages`` whose media items hold an index into ``media``, the list of what to
draw, play and speak; ``meta`` is the truth for scoring and for the split rule. The answer is drawn
first and uniformly, then the rest is drawn until the split rule holds, so that answers stay
balanced and cannot be guessed from the words of the question.
"""

import functools
import zlib

import numpy as np

from omnijax.data.omniworld import calls, clips, pictures, recall, sentences
from omnijax.data.omniworld.splits import RECALL, SPLITS
from omnijax.errors import UserError

# Of 100 examples; each block of 100 has exactly these.
MIXTURE = {
    "transcribe": 18,
    "picture_question_written": 9,
    "picture_question_spoken": 10,
    "describe": 12,
    "sound_time": 9,
    "caption": 12,
    "tool_call": 8,
    "tool_call_written": 4,
    "text_question": 18,
}
_MAKERS = {
    "transcribe": sentences.transcribe,
    "picture_question_written": functools.partial(pictures.question, form="written"),
    "picture_question_spoken": functools.partial(pictures.question, form="spoken"),
    "describe": pictures.describe,
    "sound_time": clips.sound_time,
    "caption": clips.caption,
    "tool_call": functools.partial(calls.tool_call, by_voice=True),
    "tool_call_written": functools.partial(calls.tool_call, by_voice=False),
    "text_question": functools.partial(pictures.question, form="text"),
    "words": sentences.words,
    "recall_scenes": recall.scenes,
    "recall_pictures": recall.pictures,
    "recall_sounds": recall.sounds,
    "recall_clips": recall.clips,
    "say": sentences.say,
}
BLOCK = sum(MIXTURE.values())
# For training alone; each is a split of its own, called like the task.
PRACTICE = ("words", *RECALL)
TASKS = (*MIXTURE, *PRACTICE, "say")
# Splits of one task only; the others hold the mixture.
OWN_TASK = {"say": "say", "say_test": "say", "test_voice": "transcribe"} | {
    task: task for task in PRACTICE
}


def task_of(index: int, split: str) -> str:
    """The task of an example: the mixture, exactly, in every block of 100."""
    if split in OWN_TASK:
        return OWN_TASK[split]
    block, place = divmod(index, BLOCK)
    return _tasks_of_block(block)[place]


@functools.lru_cache(maxsize=4096)
def _tasks_of_block(block: int) -> tuple[str, ...]:
    pool = [task for task, count in MIXTURE.items() for _ in range(count)]
    order = np.random.default_rng([17, block]).permutation(BLOCK)
    return tuple(pool[place] for place in order.tolist())


def plan(index: int, split: str = "train", seed: int = 0) -> dict:
    """The example without its media, deterministic by (index, split, seed)."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if index < 0:
        raise UserError(f"index {index} of split {split!r} is below 0")
    task = task_of(index, split)
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    made = _MAKERS[task](rng, split)
    made["meta"] |= {"task": task, "split": split}
    # Of a name of their own: numpy pads a seed with zeros, so [..., index, 0] would draw again what
    # the plan was drawn by, and the first thing rendered (a background) would tell the answer.
    drawn = zlib.crc32(f"media {split}".encode())
    media = [item | {"seed": [seed, drawn, index, k]}
             for k, item in enumerate(made.get("media", ()))]  # fmt: skip
    return {"id": f"{split}-{index:06d}", "task": task} | made | {"media": media}
