"""Numbers of a run: a jsonl line and TensorBoard scalars for each report, and a progress bar."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from omnijax.errors import UserError
from omnijax.files import whole


@contextlib.contextmanager
def writing(what: Path) -> Iterator[None]:
    """A full or read-only disk becomes an error that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {what}: {error.strerror}; the last checkpoint is still there"
        ) from None


class MetricWriter:
    """Writes `metrics.jsonl` and TensorBoard events under a run's directory.

    resume_step: lines of later steps are dropped, so a run that was killed and resumed has each
    step once. write: False in all processes of a run but one.
    """

    def __init__(self, workdir: str | Path, *, resume_step: int = 0, write: bool = True):
        from tensorboardX import SummaryWriter

        self._write = write
        self._evaluated: set[int] = set()
        if not write:
            return
        self._path = Path(workdir) / "metrics.jsonl"
        if self._path.exists():
            kept = []
            for line in self._path.read_text().splitlines():
                try:
                    values = json.loads(line)
                    if values["step"] <= resume_step:
                        kept.append(line + "\n")
                        self._note(values["step"], values)
                except (ValueError, KeyError):
                    continue  # the half line of a kill
            with whole(self._path) as partial:
                partial.write_text("".join(kept))
        with writing(self._path):
            self._file = self._path.open("a")
            board = str(Path(workdir) / "tensorboard")
            self._board = SummaryWriter(board, purge_step=resume_step + 1)

    def _note(self, step: int, names: Iterable[str]) -> None:
        if any(name.startswith("eval_") for name in names):
            self._evaluated.add(step)

    def evaluated(self, step: int) -> bool:
        """Whether an evaluation at this step is written, as far as this process writes."""
        return not self._write or step in self._evaluated

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if not self._write:
            return
        rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **rounded}) + "\n")
            self._file.flush()
        self._note(step, values)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        for file in (self._file, self._board) if self._write else ():
            with contextlib.suppress(OSError):  # a full disk has been told of already
                file.close()


class Report:
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, steps: int, *, done: int = 0, show: bool = True):
        self._name, self._steps, self._show = name, steps, show
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._started, self._first = time.monotonic(), done
        if show and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task(name, total=steps, completed=done, numbers="")

    def step(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar:
            self._bar.update(self._task, completed=step, numbers=text)
        elif self._show:
            taken = max(step - self._first, 1)
            left = (time.monotonic() - self._started) / taken * (self._steps - step)
            line = f"{self._name} {step}/{self._steps}  {text}  left {left / 60:.1f} min"
            print(line, flush=True)

    def say(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(text, highlight=False)
        elif self._show:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
