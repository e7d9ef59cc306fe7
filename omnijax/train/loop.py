"""The training loop: batches in, checkpoints and metrics out, stoppable and resumable."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from omnijax.errors import UserError
from omnijax.files import whole
from omnijax.sharding import flatten, make_mesh, partition_spec, unflatten
from omnijax.train.checkpoint import Checkpointer, abstract
from omnijax.train.metrics import MetricWriter, Report
from omnijax.train.optimizer import check_rate_factors
from omnijax.train.processes import (
    ALONE,
    Share,
    in_any,
    is_first,
    place,
    place_rows,
    share_of,
    summed,
)
from omnijax.train.stages import RunConfig, Stage
from omnijax.train.state import (
    Objective,
    Params,
    TrainState,
    eval_params,
    init_params,
    init_state,
    make_eval_step,
    make_train_step,
    optimizer_of,
    split_params,
    state_shardings,
)


class Result(NamedTuple):
    """How a run ended."""

    finished: bool  # False: stopped by a signal or the time limit, to be resumed
    step: int
    state: TrainState
    metrics: dict[str, float]  # the last report, with `eval_` values
    signal: int | None = None  # that stopped it, in this process


class Diverged(UserError):
    """The loss or a gradient is no longer finite."""


def place_batch(batch: Any, mesh: Mesh, share: Share = ALONE) -> Any:
    """Host arrays (this process's share of the rows) -> device arrays, spread over the mesh."""

    def place(path: tuple, x: np.ndarray) -> jax.Array:
        x = np.asarray(x)
        rows = 1 if getattr(path[-1], "name", "") == "positions" else 0
        shape, axes = list(x.shape), [None] * x.ndim
        shape[rows], axes[rows] = share.count * x.shape[rows], "batch"
        where = NamedSharding(mesh, partition_spec(shape, axes, mesh))
        return place_rows(x, where, rows, share)

    return jax.tree_util.tree_map_with_path(place, batch)


class _Stop:
    """Notes SIGTERM and SIGINT, so that the step under way ends before the checkpoint."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "_Stop":
        def note(number: int, frame: Any) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt  # the second Ctrl-C means now
            self.signal = number

        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._old[number] = signal.signal(number, note)
            except ValueError:
                pass  # not in the main thread
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _counts(batch: Any) -> tuple[int, int]:
    """(tokens that are no padding, targets) of a host batch, which may count for itself."""
    if hasattr(batch, "counts"):
        return batch.counts()
    targets = int(np.count_nonzero(batch.loss_weights))
    inputs = getattr(batch, "inputs", None)
    tokens = int(np.count_nonzero(inputs.segment_ids)) if inputs is not None else targets
    return tokens, targets


def evaluate(
    step: Callable[[Params, Any], Any],
    params: Params,
    batches: Iterator[Any],
    count: int,
    mesh: Any,
    share: Share = ALONE,
) -> dict[str, float]:
    """Mean loss and metrics over up to `count` batches."""
    sums: dict[str, float] = {}
    weight = 0.0
    for _, batch in zip(range(count), batches, strict=False):
        losses = step(params, place_batch(batch, mesh, share))
        weight += float(losses.weight)
        for name, value in {"loss": losses.total, **losses.metrics}.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {f"eval_{name}": value / max(weight, 1.0) for name, value in sums.items()}


def fit(
    stage: Stage,
    objective: Objective,
    data: Any,
    *,
    workdir: str | Path,
    config: Mapping[str, Any],
    run: RunConfig | None = None,
    mesh: Mesh | None = None,
    start: Callable[[], Params | None] | None = None,
    compare: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    eval_data: Callable[[], Iterator[Any]] | None = None,
) -> Result:
    """Trains `stage` to its end, or from its last checkpoint in `workdir` on.

    A run that had ended, but whose last evaluation is not written, is evaluated.

    data: an iterator of host batches with `get_state()` and `set_state(state)`.
    config: the resolved config, as plain values; it is written to `workdir`, and a checkpoint
    resumes only under one whose `compare(config)` is the same.
    start: gives parameters that replace the fresh ones, by path (a stage starts from another's).
    """
    run = run or RunConfig()
    mesh = mesh or make_mesh(data=1, devices=jax.devices()[:1])
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the workdir {workdir}: {error.strerror}") from None
    with jax.set_mesh(mesh), _Stop() as stop:
        optimizer = optimizer_of(objective, stage.optimizer, stage.steps)

        def around(params: Params) -> TrainState:
            ema = stage.optimizer.ema > 0
            return init_state(params, stage.trains, optimizer, seed=stage.seed, ema=ema)

        def fresh() -> Params:
            return init_params(objective, stage.seed)

        shapes = jax.eval_shape(lambda: around(fresh()))
        trained, _ = split_params(shapes.params, stage.trains)
        check_rate_factors(stage.optimizer, flatten(trained))
        where = state_shardings(shapes, mesh)
        checkpoints = Checkpointer(workdir / "checkpoints", config, keep=run.keep, compare=compare)
        restored = checkpoints.restore(abstract(shapes, where))
        if restored is not None:
            state, data_state, _ = restored
            if data_state is not None:
                data.set_state(data_state)
        else:
            params = _first_params(stage, fresh, shapes.params, where.params, start)
            state = jax.jit(around, out_shardings=where)(params)
        if is_first():
            with whole(workdir / "config.json") as partial:
                partial.write_text(json.dumps(config, indent=2) + "\n")
        step = int(state.step)
        writer = MetricWriter(workdir, resume_step=step, write=is_first())
        report = Report(stage.name, stage.steps, done=step, show=run.progress and is_first())
        try:
            return _run(
                stage, objective, data, state, where, optimizer, checkpoints, writer, report,
                stop, run, mesh, eval_data,
            )  # fmt: skip
        finally:
            report.close()
            writer.close()
            checkpoints.close()


def _first_params(
    stage: Stage,
    fresh: Callable[[], Params],
    shapes: Params,
    where: Params,
    start: Callable[[], Params | None] | None,
) -> Params:
    """Those of earlier stages; random ones (slow to compile) only where they leave some out."""
    given = flatten((start() if start else None) or {})
    needed, places = flatten(shapes), flatten(where)
    named = sorted(given)
    given = {path: leaf for path, leaf in given.items() if path in needed}
    if named and not given:
        raise UserError(
            f"stage {stage.name} has none of the parameters that it starts from: {named[0]} is one "
            f"of theirs, {min(needed)} one of its own"
        )
    for path, leaf in given.items():
        if leaf.shape != needed[path].shape:
            raise UserError(
                f"parameter {path} has shape {leaf.shape} where {stage.name} starts from, "
                f"{needed[path].shape} in this config"
            )
    flat = {} if set(given) == set(needed) else flatten(jax.jit(fresh, out_shardings=where)())
    for path, leaf in given.items():
        flat[path] = place(leaf.astype(needed[path].dtype), places[path])
    return unflatten(flat)


def _run(
    stage: Stage,
    objective: Objective,
    data: Any,
    state: TrainState,
    where: TrainState,
    optimizer: Any,
    checkpoints: Checkpointer,
    writer: MetricWriter,
    report: Report,
    stop: _Stop,
    run: RunConfig,
    mesh: Mesh,
    eval_data: Callable[[], Iterator[Any]] | None,
) -> Result:
    train_step = make_train_step(
        objective,
        stage.trains,
        optimizer,
        stage.optimizer,
        steps=stage.steps,
        accumulate=stage.accumulate,
        shardings=where,
    )
    eval_step = make_eval_step(objective)
    share = share_of(mesh, stage.batch)
    step = int(state.step)
    last: dict[str, float] = {}
    started = saved_at = now = time.monotonic()
    window = {"start": now, "steps": 0, "tokens": 0, "targets": 0, "wait": 0.0}
    pending: dict[str, jax.Array] | None = None

    def evaluation() -> dict[str, float]:
        if eval_data is None:
            return {}
        return evaluate(eval_step, eval_params(state), eval_data(), run.eval_batches, mesh, share)

    def check(values: Mapping[str, Any]) -> None:
        loss, norm = float(values["loss"]), float(values["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"stage {stage.name}, step {step}: loss {loss}, gradient norm {norm}; the last "
                f"good checkpoint is in {checkpoints.directory}, a lower learning rate may help"
            )

    def save() -> None:
        nonlocal saved_at
        if pending is not None:
            check(pending)
        checkpoints.save(state, data.get_state())
        saved_at = time.monotonic()

    def score() -> None:
        nonlocal last
        values = evaluation()
        if values:
            last |= values
            writer.write(step, values)
            report.say(f"{stage.name} {step}: " + _words(values))

    (unscored,) = in_any(step == stage.steps and not writer.evaluated(step))
    if unscored:  # it ended, but in its last evaluation
        score()
    (stopping,) = in_any(stop.signal is not None)
    while step < stage.steps and not stopping:
        asked = time.monotonic()
        try:
            batch = next(data)
        except StopIteration:
            raise UserError(
                f"the data of stage {stage.name} ended at step {step} of {stage.steps}"
            ) from None
        if pending is None or pending["loss"].is_ready():  # else the device was at work meanwhile
            window["wait"] += time.monotonic() - asked
        tokens, targets = _counts(batch)
        placed = place_batch(batch, mesh, share)
        if pending is not None:
            jax.block_until_ready(pending)  # at most one step ahead of the device
        state, pending = train_step(state, placed)
        step += 1
        window["steps"] += 1
        window["tokens"] += tokens
        window["targets"] += targets
        report.step(step)
        ends = step == stage.steps
        told = step % run.log_every == 0 or ends
        if told:
            values = {name: float(value) for name, value in pending.items()}
            now = time.monotonic()
            taken = max(now - window["start"], 1e-9)
            tokens, targets = summed(share, window["tokens"], window["targets"])
            speed = {
                "step_seconds": taken / window["steps"],
                "tokens_per_second": tokens / taken,
                "targets_per_second": targets / taken,
                "data_wait_share": window["wait"] / taken,
            }
            if dropped := getattr(data, "dropped", 0):
                speed["dropped_examples"] = dropped
            check(values)
            last = {**last, **values, **speed}
            writer.write(step, {**values, **speed})
            right = values.get("accuracy", values.get("semantic_accuracy"))
            report.numbers(
                step,
                {
                    "loss": values["loss"],
                    **({} if right is None else {"acc": right}),
                    "tok/s": speed["tokens_per_second"],
                    "s/step": speed["step_seconds"],
                    "wait": speed["data_wait_share"],
                },
            )
            window = {"start": now, "steps": 0, "tokens": 0, "targets": 0, "wait": 0.0}
        due = bool(run.save_every) and step % run.save_every == 0
        # Several processes look at their signals and clocks where they wait for the device anyway.
        if told or jax.process_count() == 1:
            now = time.monotonic()
            late = bool(run.save_minutes) and now - saved_at > 60 * run.save_minutes
            limit = bool(run.time_limit_minutes) and now - started > 60 * run.time_limit_minutes
            late, stopping = in_any(late, limit or stop.signal is not None)
            due = due or late
        evaluates = ends or (bool(run.eval_every) and step % run.eval_every == 0)
        if due or evaluates:
            jax.block_until_ready(pending)  # the step under way is no pause
        paused = time.monotonic()
        if due or ends:
            save()  # first: an evaluation that fails loses nothing
        if evaluates:
            score()
        window["start"] += time.monotonic() - paused  # what is no step counts for no step
    if step < stage.steps:
        save()
        report.say(f"{stage.name}: stopped at step {step} of {stage.steps} with a checkpoint")
    return Result(step >= stage.steps, step, state, last, stop.signal)


def _words(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
