"""Runs the parts of a recipe, each in a process of its own, some side by side.

A second CPU core gains a step of a model as small as nano a fifth; a second model beside it gains
nearly a core. So parts that need nothing of each other share the cores out.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PLAIN = {"TTY_COMPATIBLE": "0"}  # to rich: lines, for two progress bars would overwrite each other


class Part(NamedTuple):
    """A script and its arguments, begun when the parts that it needs are done."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    tolerated: int = 0  # an exit status besides 0 with which all goes on


class Parts:
    """Runs parts, the first in order first where there is a choice."""

    def __init__(self, parts: Sequence[Part], lanes: int = 1, folder: Path = HERE):
        """lanes: so many at once, each begun on its share of the CPU cores."""
        named: set[str] = set()
        for part in parts:
            if missing := {*part.needs} - named:
                raise ValueError(f"part {part.name} needs {min(missing)}, which is not before it")
            if part.name in named:
                raise ValueError(f"there are two parts {part.name}")
            named.add(part.name)
        self.parts = {part.name: part for part in parts}
        self._lanes, self._folder = lanes, folder
        self._running: dict[str, subprocess.Popen] = {}
        self._lane: dict[str, int] = {}
        self._statuses: dict[str, int] = {}
        self._status = 0  # what this process ends with

    def run(self) -> dict[str, int]:
        """Exit statuses by name. A part that fails ends the others, and this process.

        So do SIGTERM and Ctrl-C: no other is begun, and what trains saves a checkpoint first.
        """
        signal.signal(signal.SIGTERM, lambda *_: self._end(128 + signal.SIGTERM))
        # Of Ctrl-C the terminal has told the parts as well, and twice would mean at once.
        signal.signal(signal.SIGINT, lambda *_: self._end(128 + signal.SIGINT, told=True))
        try:
            self._begin()
            while self._running:
                time.sleep(0.1)
                for name, process in list(self._running.items()):
                    if (code := process.poll()) is not None:
                        del self._running[name]
                        self._statuses[name] = code
                        if code not in (0, self.parts[name].tolerated):
                            self._end(code if code > 0 else 128 - code)
                self._begin()
        finally:  # whatever ends this process, nothing is left behind
            self._end(1 if self._running else 0)
            for process in self._running.values():
                process.wait()
        if self._status:
            sys.exit(self._status)
        return self._statuses

    def _end(self, status: int, *, told: bool = False) -> None:
        self._status = self._status or status
        for process in [] if told else list(self._running.values()):
            process.terminate()

    def _begin(self) -> None:
        """What can be begun now."""
        ready = [
            part
            for part in self.parts.values()
            if part.name not in {*self._statuses, *self._running}
            and all(name in self._statuses for name in part.needs)
        ]
        # All that is left waits for it: it has every core, and the terminal. What is begun beside
        # another keeps to its share to its end.
        alone = not self._running and len(ready) == 1
        for part in ready[: self._lanes - len(self._running)]:
            if self._status:
                return
            lane = min({*range(self._lanes)} - {self._lane[name] for name in self._running})
            self._lane[part.name] = lane
            with _share(0, 1) if alone else _share(lane, self._lanes):
                process = subprocess.Popen(
                    [sys.executable, str(self._folder / part.command[0]), *part.command[1:]],
                    env=os.environ | ({} if alone or self._lanes == 1 else PLAIN),
                )
            self._running[part.name] = process
            if self._status:  # told to stop in between
                process.terminate()


@contextlib.contextmanager
def _share(lane: int, lanes: int) -> Iterator[None]:
    """What is begun inside keeps to one of `lanes` shares of the cores, where the system can."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if share := cores[lane::lanes]:
        os.sched_setaffinity(0, share)
    try:
        yield
    finally:
        if share:
            os.sched_setaffinity(0, cores)
