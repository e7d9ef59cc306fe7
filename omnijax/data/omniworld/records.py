"""Examples as records of bytes, and back; and the processes that make them for the builder."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from omnijax.data.omniworld import media
from omnijax.data.omniworld.tasks import plan

_BLOCK = 25  # examples that a process makes at a time
Block = tuple[str, int, int, int]  # split, seed, start, stop


def make_all(sizes: dict[str, int], seed: int, processes: int) -> Iterator[tuple[str, list[dict]]]:
    """(split, records) of every block in order; each process makes every n-th block.

    The processes are fresh interpreters that write to pipes: a fork of a process that runs JAX's
    threads can hang, and they end by themselves where their reader is gone.
    """
    if processes <= 1:
        for block in _blocks(sizes, seed):
            yield block[0], make_records(block)
        return
    workers = [_start(sizes, seed, part, processes) for part in range(processes)]
    try:
        for number, block in enumerate(_blocks(sizes, seed)):
            try:
                yield block[0], pickle.load(workers[number % processes].stdout)
            except EOFError:
                code = workers[number % processes].wait()
                raise RuntimeError(
                    f"the process that makes {block[0]}[{block[2]}:{block[3]}] ended ({code})"
                ) from None
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            worker.stdout.close()


def _blocks(sizes: dict[str, int], seed: int) -> list[Block]:
    return [
        (split, seed, start, min(start + _BLOCK, size))
        for split, size in sizes.items()
        for start in range(0, size, _BLOCK)
    ]


def _start(sizes: dict[str, int], seed: int, part: int, parts: int) -> subprocess.Popen:
    package_root = str(Path(__file__).parents[3])
    paths = [package_root, os.environ.get("PYTHONPATH", "")]
    job = {"sizes": sizes, "seed": seed, "part": part, "parts": parts}
    return subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import work; work()", json.dumps(job)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        # Two workers on two cores gain nothing from threads inside numpy.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)),
                          "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def work() -> None:
    """What a process does: the blocks of its part, pickled, to standard output."""
    job = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between the records
    try:
        for block in _blocks(job["sizes"], job["seed"])[job["part"] :: job["parts"]]:
            pickle.dump(make_records(block), out)
            out.flush()
    except BrokenPipeError:
        os._exit(1)
    out.close()


def make_records(block: Block) -> list[dict]:
    """The records of examples start..stop of a split."""
    split, seed, start, stop = block
    return [make_record(index, split, seed) for index in range(start, stop)]


def make_record(index: int, split: str, seed: int = 0) -> dict:
    """An example as it is stored."""
    texts, values = _make(index, split, seed)
    return texts | {"media": [media.encode(value) for value in values]}


def make_example(index: int, split: str, seed: int = 0) -> dict:
    """What `read_record` gives of `make_record`, without the way over bytes."""
    return _with_media(*_make(index, split, seed))


def read_record(record: dict) -> dict:
    """An example with its media as arrays: {"id", "task", "chat", "meta"}.

    Media that no message holds (the speech to be said) is ``meta["speech"]``.
    """
    return _with_media(record, [media.decode(bytes(data)) for data in record["media"]])


def _make(index: int, split: str, seed: int) -> tuple[dict, list[media.Media]]:
    made = plan(index, split, seed)
    chat = {"messages": made["messages"]}
    if "tools" in made:
        chat["tools"] = made["tools"]
    texts = {
        "id": made["id"],
        "task": made["task"],
        "chat": json.dumps(chat, ensure_ascii=False),
        "meta": json.dumps(made["meta"], ensure_ascii=False),
    }
    return texts, [media.render(item) for item in made["media"]]


def _with_media(record: dict, values: list[media.Media]) -> dict:
    chat, meta = json.loads(record["chat"]), json.loads(record["meta"])
    used = set()
    for message in chat["messages"]:
        if isinstance(message["content"], list):
            for item in message["content"]:
                if item["type"] != "text":
                    used.add(item[item["type"]])
                    item[item["type"]] = values[item[item["type"]]]
    for place, value in enumerate(values):
        if place not in used:
            meta["speech"] = value
    return {"id": _str(record["id"]), "task": _str(record["task"]), "chat": chat, "meta": meta}


def _str(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
