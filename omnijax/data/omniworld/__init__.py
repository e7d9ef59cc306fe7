"""OmniWorld: a small world of coloured shapes, sounds and speech, built here, not downloaded."""

import json
from collections.abc import Iterator

from omnijax.data.omniworld.builder import SIZES, OmniWorld
from omnijax.data.omniworld.chance import chance
from omnijax.data.omniworld.corpus import LazySource, StoredSource, build, example, live, load
from omnijax.data.omniworld.splits import SPLITS
from omnijax.data.omniworld.tasks import MIXTURE, TASKS, plan, task_of

__all__ = [
    "MIXTURE",
    "SIZES",
    "SPLITS",
    "TASKS",
    "LazySource",
    "OmniWorld",
    "StoredSource",
    "build",
    "chance",
    "corpus_texts",
    "example",
    "live",
    "load",
    "plan",
    "task_of",
]


def corpus_texts(count: int = 20_000, seed: int = 0) -> Iterator[str]:
    """Every kind of text of the training split, to train a tokenizer on; nothing is rendered."""
    for index in range(count):
        made = plan(index, "train" if index % 20 else "say", seed)
        for tool in made.get("tools", ()):
            yield json.dumps(tool)
        for message in made["messages"]:
            content = message["content"]
            items = [{"text": content}] if isinstance(content, str) else content
            yield from (item["text"] for item in items if item.get("text"))
            for call in message.get("tool_calls", ()):
                yield json.dumps(call["function"])
        if made["meta"].get("question"):
            yield made["meta"]["question"]
