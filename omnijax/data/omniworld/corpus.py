"""OmniWorld as random-access sources: read from its files, or made on the fly."""

import contextlib
import fcntl
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from omnijax.data.omniworld.aloud import reply, said_by_many, said_words
from omnijax.data.omniworld.builder import (
    SIZES,
    OmniWorld,
    folder_name,
    is_built,
)
from omnijax.data.omniworld.records import make_example, read_record
from omnijax.data.omniworld.splits import SPLITS
from omnijax.data.omniworld.tasks import PRACTICE, TASKS, task_of
from omnijax.errors import UserError


def example(index: int, split: str = "train", seed: int = 0) -> dict:
    """Example ``index`` of a split, made on the fly: {"id", "task", "chat", "meta"}."""
    return make_example(index, split, seed)


class _Indexed:
    """Random access to the examples of some tasks; ``tasks`` names each one's without reading."""

    def __init__(self, split: str, size: int, tasks: Sequence[str] | None):
        self.split = split
        unknown = sorted(set(tasks or ()) - set(TASKS))
        if unknown:
            raise UserError(f"OmniWorld has no task {unknown[0]!r}, it has {', '.join(TASKS)}")
        own = [task_of(i, split) for i in range(size)]
        self._indices = [i for i in range(size) if tasks is None or own[i] in tasks]
        self.tasks = tuple(own[i] for i in self._indices)

    def __len__(self) -> int:
        return len(self._indices)

    def _index(self, place: int) -> int:
        if not -len(self) <= place < len(self):
            raise IndexError(f"example {place} of {len(self)} in split {self.split!r}")
        return self._indices[place]


class LazySource(_Indexed):
    """Examples made when asked for: any size, nothing on disk, 5-40 ms each."""

    ever_new = True  # more of them than are read twice

    def __init__(self, split: str, size: int, *, seed: int = 0, tasks: Sequence[str] | None = None):
        super().__init__(_check_split(split), size, tasks)
        self._seed = seed

    def __getitem__(self, place: int) -> dict:
        return example(self._index(place), self.split, self._seed)


class StoredSource(_Indexed):
    """Examples of a built split; picklable, opens its files where it is first used."""

    def __init__(self, split: str, folder: str, size: int, tasks: Sequence[str] | None = None):
        super().__init__(split, size, tasks)
        self._folder = folder
        self._records = None

    def __getitem__(self, place: int) -> dict:
        index = self._index(place)
        if self._records is None:
            builder = OmniWorld(data_dir=self._folder)
            self._records = builder.as_data_source(split=self.split)
        return read_record(self._records[index])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_records": None}


LIVE_TRAIN = 400_000  # more than nano sees
LIVE_PRACTICE = {"train": 100_000, "validation": 500}
LIVE_ALOUD = {"train": 100_000, "validation": 500, "test": 500}
ALOUD = {"say_reply": reply, "say_by_many": said_by_many, "say_words": said_words}
LIVE_SAY = {"train": ("say", 100_000), "validation": ("say", 500), "test": ("say_test", 500)}


class Aloud:
    """What is said for a Talker alone, one task of `ALOUD`, made when asked for."""

    ever_new = True

    def __init__(self, task: str, split: str, size: int, *, seed: int = 0):
        self.split, self._size, self._seed = _check_split(split), size, seed
        self._task = task

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int) -> dict:
        if not 0 <= place < self._size:
            raise IndexError(f"example {place} of {self._size} in split {self.split!r}")
        return ALOUD[self._task](place, self.split, self._seed)


def live(
    split: str = "train", *, tasks: Sequence[str] | None = None, seed: int = 0
) -> LazySource | Aloud:
    """A split that is never stored: in training the corpus and on beyond its end.

    tasks: only these. Sources of their own are ``words`` and ``recall_...``, which are for
    training alone, and ``say``, ``say_reply`` (what the other tasks are answered
    with), ``say_by_many`` (sentences in drawn voices) and ``say_words`` (words in no order), which
    have speech in their "meta".
    """
    for task in ALOUD:
        if tasks is not None and task in tasks:
            if len(tasks) > 1 or split not in LIVE_ALOUD:
                allowed = ", ".join(LIVE_ALOUD)
                raise UserError(f"{task} is a source of its own in {allowed}: {split} {tasks}")
            return Aloud(task, split, LIVE_ALOUD[split], seed=seed)
    if tasks is not None and "say" in tasks:
        if len(tasks) > 1 or split not in LIVE_SAY:
            raise UserError(f"say is a source of its own in {', '.join(LIVE_SAY)}: {split} {tasks}")
        part, size = LIVE_SAY[split]
        # Voice, pitch, rate and loudness are drawn anew. But of validation's sentences four of five
        # are among 20,000 to train on, of test's none.
        return LazySource(part, size, seed=seed + (split == "validation"))
    for task in PRACTICE:
        if tasks is not None and task in tasks:
            if len(tasks) > 1 or split not in LIVE_PRACTICE:
                raise UserError(f"{task} is a source of its own, for training, not {split} {tasks}")
            return LazySource(task, LIVE_PRACTICE[split], seed=seed + (split == "validation"))
    size = LIVE_TRAIN if split == "train" else SIZES[_check_split(split)]
    return LazySource(split, size, seed=seed, tasks=tasks)


def load(
    split: str = "train",
    data_dir: str | os.PathLike | None = None,
    *,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    processes: int = 2,
    **sizes: int,
) -> StoredSource:
    """The examples of a split, built first where ``data_dir`` (default ``data``) lacks them.

    ``sizes`` are examples a split, as in ``load("train", train=2_000, test=100)``; a corpus of
    other sizes or another seed lies in another folder. Splits not named keep the default size,
    unless any is named: then only those exist.
    """
    _check_split(split)
    chosen = {_check_split(name): int(size) for name, size in sizes.items()} or dict(SIZES)
    for name, size in chosen.items():
        if size < 1:
            raise UserError(f"size of split {name!r} is {size}, must be at least 1")
    if split not in chosen:
        raise UserError(f"split {split!r} has no size, there are {', '.join(chosen)}")
    folder = build(data_dir, sizes=chosen, seed=seed, processes=processes)
    return StoredSource(split, str(folder), chosen[split], tasks)


def build(
    data_dir: str | os.PathLike | None = None,
    *,
    sizes: dict[str, int] | None = None,
    seed: int = 0,
    processes: int = 2,
) -> Path:
    """Builds the corpus unless it is there, with a progress bar; returns its folder."""
    sizes = dict(SIZES) if sizes is None else sizes
    folder = Path(data_dir or "data") / "omniworld" / folder_name(sizes, seed)
    if is_built(OmniWorld(data_dir=str(folder), sizes=sizes)):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the data folder {folder}: {error.strerror}") from None
    with _one_at_a_time(folder), _progress_bar(sum(sizes.values())) as progress:
        builder = OmniWorld(
            data_dir=str(folder), sizes=sizes, seed=seed, processes=processes, progress=progress
        )
        if is_built(builder):  # another process built it meanwhile
            return folder
        sweep(folder)
        try:
            with _quiet():
                builder.download_and_prepare()
        except OSError as error:
            raise UserError(f"cannot write the corpus to {folder}: {error.strerror}") from None
    return folder


def sweep(folder: Path) -> None:
    """Removes what builds that were killed left behind."""
    for left in list(folder.rglob("incomplete.*")):
        shutil.rmtree(left, ignore_errors=True)


def _check_split(split: str) -> str:
    if split not in SPLITS:
        raise UserError(f"OmniWorld has no split {split!r}, it has {', '.join(SPLITS)}")
    return split


@contextlib.contextmanager
def _one_at_a_time(folder: Path):
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _progress_bar(total: int):
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("building OmniWorld"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} examples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def _quiet():
    """TFDS's own bars and lines would run through ours."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
