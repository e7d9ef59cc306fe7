"""Timing that can be compared: sides alternate in one run, with a control beside every sample.

The control is a matrix product of fixed size. A sample is rejected where the control before or
after it took over REJECT times its fastest of the run: somebody else had the machine. The rule is
fixed here, before any run, and rejected samples are counted in the table. What is reported is the
median of the samples that are left, with their quartiles and extremes; making a case and its first
call, which compile, stand apart.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

REJECT = 1.5
CONTROL_SIDE = 768
COPY_MB = 64


class Case(NamedTuple):
    """One side of a comparison.

    make: builds everything and returns the call to time. per: units of work in a call, for the
    rate. gflop, gbyte: what the mathematics needs at least, for the share of the limit.
    """

    name: str
    make: Callable[[], Callable[[], Any]]
    per: int = 1
    unit: str = "call"
    gflop: float = 0.0
    gbyte: float = 0.0


class Spread(NamedTuple):
    """Of the samples that count, in their own unit."""

    median: float
    quarter: float
    three_quarters: float
    least: float
    most: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        return cls(*(float(x) for x in np.quantile(samples, (0.5, 0.25, 0.75, 0.0, 1.0))))


class Timed(NamedTuple):
    """A case's row: milliseconds a call, and what was left out."""

    name: str
    milliseconds: Spread
    first_call_seconds: float
    kept: int
    rejected: int
    per_second: float  # units of work
    unit: str
    share_of_limit: float | None
    per: int = 1  # units of work in a call
    temporary_bytes: int | None = None  # of a `Program`


class Program(NamedTuple):
    """A compiled program as a call; ``temporary``: what it needs beside its arguments, bytes."""

    call: Callable[[], Any]
    temporary: int | None

    def __call__(self):
        return self.call()

    @classmethod
    def of(cls, f: Callable, *arrays) -> "Program":
        """``f`` compiled for these arrays, which each call is given."""
        compiled = jax.jit(f).lower(*arrays).compile()
        return cls(lambda: compiled(*arrays), temporary_bytes(compiled))


def temporary_bytes(compiled) -> int | None:
    """What XLA says that a compiled program needs; None where the backend does not say."""
    analysis = compiled.memory_analysis()
    return int(analysis.temp_size_in_bytes) if analysis else None


def normal(*shape):
    """Numbers to compute with, float32, the same each time."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def forms(name, f, *arrays, gflop=0.0, gbyte=0.0, per=1, unit="call") -> list[Case]:
    """A function's forward, and its forward with backward."""

    def scalar(*xs):
        return jnp.sum(jnp.square(f(*xs).astype(jnp.float32)))

    back = jax.grad(scalar, argnums=tuple(range(len(arrays))))
    made = lambda g: lambda: Program.of(g, *arrays)  # noqa: E731
    return [
        Case(f"{name}, forward", made(f), per, unit, gflop, gbyte),
        Case(f"{name}, with backward", made(back), per, unit, 3 * gflop, 3 * gbyte),
    ]


class Machine:
    """What this process can reach at most, measured again between all samples."""

    def __init__(self):
        a = jnp.full((CONTROL_SIDE, CONTROL_SIDE), 0.5, jnp.float32)
        self._product = jax.jit(lambda a: a @ a)
        self._a = a
        copied = jnp.ones((COPY_MB * 1_000_000 // 4,), jnp.float32)
        copy = jax.jit(lambda x: x + 1)
        jax.block_until_ready((self._product(a), copy(copied)))
        times = [_seconds(lambda: copy(copied)) for _ in range(7)]
        self.gbytes_per_second = 2 * COPY_MB / 1000 / min(times)
        self.controls = [_seconds(self._control) for _ in range(10)]

    def _control(self):
        return self._product(self._a)

    def control(self) -> float:
        """Seconds of one more control."""
        self.controls.append(_seconds(self._control))
        return self.controls[-1]

    @property
    def gflop_per_second(self) -> float:
        """The best that was seen: the limit."""
        return 2 * CONTROL_SIDE**3 / 1e9 / min(self.controls)

    def least_seconds(self, case: Case) -> float:
        return max(case.gflop / self.gflop_per_second, case.gbyte / self.gbytes_per_second)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def measure(
    cases: Sequence[Case], machine: Machine, *, rounds: int, sample_seconds: float
) -> list[Timed]:
    """Times the cases in turn, ``rounds`` times; short calls are repeated within a sample."""
    calls, first = [], []
    for case in cases:
        begin = time.perf_counter()
        calls.append(case.make())
        jax.block_until_ready(calls[-1]())
        first.append(time.perf_counter() - begin)
    repeats = [1 + int(sample_seconds / max(_seconds(call), 1e-6)) for call in calls]
    samples: list[list[tuple[float, float]]] = [[] for _ in cases]
    before = machine.control()
    for _ in range(rounds):
        for call, repeat, taken in zip(calls, repeats, samples, strict=True):
            begin = time.perf_counter()
            for _ in range(repeat):
                out = call()
            jax.block_until_ready(out)
            seconds = (time.perf_counter() - begin) / repeat
            after = machine.control()
            taken.append((seconds, max(before, after)))
            before = after
    limit = REJECT * min(machine.controls)
    rows = []
    for case, call, first_call, taken in zip(cases, calls, first, samples, strict=True):
        kept = [seconds for seconds, control in taken if control <= limit]
        rejected = len(taken) - len(kept)
        # With all rejected the numbers are shown, and `kept` says 0: do not quote them.
        spread = Spread.of([1000 * s for s in kept or [s for s, _ in taken]])
        least = machine.least_seconds(case)
        rows.append(
            Timed(
                name=case.name,
                milliseconds=spread,
                first_call_seconds=first_call,
                kept=len(kept),
                rejected=rejected,
                per_second=1000 * case.per / spread.median,
                unit=case.unit,
                share_of_limit=1000 * least / spread.median if least else None,
                per=case.per,
                temporary_bytes=getattr(call, "temporary", None),
            )
        )
    return rows


def environment() -> dict[str, Any]:
    """What a number means nothing without."""
    model = platform.processor()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": model,
        "cores": cores,
        "niceness": os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "devices": [device.device_kind for device in jax.devices()],
        "python": sys.version.split()[0],
        "jax": jax.__version__,
        "matmul_precision": jax.config.jax_default_matmul_precision,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
    }
