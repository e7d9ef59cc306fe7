"""The loop: reports, evaluation, signals, limits, and what a run leaves behind."""

import gc
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.train import Diverged, Objective, OptimizerConfig, loop
from omnijax.train.metrics import MetricWriter

sys.path.insert(0, str(Path(__file__).parent))
import toy_run  # noqa: E402


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_config_metrics_events_and_checkpoints(tmp_path):
    result = toy_run.run(tmp_path)
    assert result.finished and result.step == 12
    assert json.loads((tmp_path / "config.json").read_text())["name"] == "toy"
    written = lines(tmp_path)
    assert [line["step"] for line in written if "loss" in line] == list(range(1, 13))
    assert {"grad_norm", "learning_rate", "tokens_per_second", "data_wait_share"} <= set(written[0])
    assert "eval_loss" in written[-1] and result.metrics["eval_loss"] > 0
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["12", "9"]


def test_the_loss_falls(tmp_path):
    toy_run.run(tmp_path, of=toy_run.stage(steps=150), save_every=0)
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])


class Interrupting(toy_run.Data):
    """Sends a signal to this process while it makes batch 5."""

    def __next__(self):
        if self.number == 4:
            os.kill(os.getpid(), self.signal)
        return super().__next__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_under_way_and_saves(tmp_path, number):
    data = Interrupting()
    data.signal = number
    result = toy_run.run(tmp_path, data=data)
    assert not result.finished and result.step == 5
    assert (tmp_path / "checkpoints" / "5").is_dir()
    assert toy_run.run(tmp_path).finished


def test_a_stopped_run_goes_on_to_the_same_end_bit_for_bit(tmp_path):
    straight = toy_run.run(tmp_path / "straight")
    data = Interrupting()
    data.signal = signal.SIGTERM
    toy_run.run(tmp_path / "stopped", data=data)
    resumed = toy_run.run(tmp_path / "stopped")
    assert toy_run.same(straight.state, resumed.state)
    values = [
        [(line["step"], line["loss"]) for line in lines(tmp_path / name) if "loss" in line]
        for name in ("straight", "stopped")
    ]
    assert values[0] == values[1]


def test_a_time_limit_stops_with_a_checkpoint(tmp_path):
    result = toy_run.run(tmp_path, time_limit_minutes=1e-9)
    assert not result.finished and (tmp_path / "checkpoints" / str(result.step)).is_dir()


def test_a_finished_run_is_left_as_it_is(tmp_path):
    toy_run.run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert toy_run.run(tmp_path).finished
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_run_of_another_config_is_refused(tmp_path):
    toy_run.run(tmp_path)
    with pytest.raises(UserError, match="another config: seed: 0 in the checkpoint, 1 here"):
        toy_run.run(tmp_path, of=toy_run.stage(seed=1))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    broken = Objective(
        toy_run.init,
        lambda p, b, k: toy_run.loss(p, b, k)._replace(total=jnp.sum(p["head"]["w"]) / 0),
    )
    with pytest.raises(Diverged, match="step 1: loss"):
        toy_run.run(tmp_path, objective=broken)


class Poisoned(toy_run.Data):
    """NaN in batch 5."""

    def __next__(self):
        batch = super().__next__()
        return batch._replace(y=batch.y * np.nan) if self.number == 5 else batch


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    with pytest.raises(Diverged, match=r"step 5: loss nan.*last good checkpoint"):
        toy_run.run(tmp_path, data=Poisoned(), save_every=1, log_every=100)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


def test_metrics_that_cannot_be_written_are_a_user_error_and_the_checkpoint_stays(tmp_path):
    class Full(toy_run.Data):
        """The disk is full from batch 5 on."""

        def __next__(self):
            if self.number == 4:
                # Not by isinstance, which raises at a weak proxy of something gone.
                file = next(f for f in gc.get_objects() if type(f) is MetricWriter)._file
                full = os.open("/dev/full", os.O_WRONLY)
                os.dup2(full, file.fileno())
                os.close(full)
            return super().__next__()

    with pytest.raises(UserError, match=r"metrics.jsonl: No space left.*checkpoint is still there"):
        toy_run.run(tmp_path, data=Full())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_data_that_ends_too_early_is_a_user_error(tmp_path):
    class Short(toy_run.Data):
        def __next__(self):
            if self.number == 2:
                raise StopIteration
            return super().__next__()

    with pytest.raises(UserError, match="data of stage toy ended at step 2 of 12"):
        toy_run.run(tmp_path, data=Short())


def test_an_evaluation_that_fails_at_the_end_loses_no_step(tmp_path, monkeypatch):
    class Broken(toy_run.Data):
        def __next__(self):
            raise UserError("a row does not fit")

    with monkeypatch.context() as patched:
        patched.setattr(toy_run, "Data", Broken)
        with pytest.raises(UserError, match="a row does not fit"):
            toy_run.run(tmp_path, data=Broken.__bases__[0](), save_every=0)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["12"]
    again = toy_run.run(tmp_path, save_every=0)  # which evaluates what was not
    straight = toy_run.run(tmp_path / "straight", save_every=0)
    assert again.finished and again.metrics["eval_loss"] == straight.metrics["eval_loss"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    toy_run.run(tmp_path, save_every=0)  # and once
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines


def test_a_rate_factor_is_of_something_that_trains(tmp_path):
    odd = toy_run.stage(optimizer=OptimizerConfig(rate_factors=("bdy=0.1",)))
    with pytest.raises(UserError, match="no parameter that is trained matches 'bdy'"):
        toy_run.run(tmp_path, of=odd)


def test_the_time_of_a_save_or_an_evaluation_counts_for_no_step_and_no_step_is_lost(
    tmp_path, monkeypatch
):
    """Steps of 0.1 s by a clock that only data and checkpoints move; a save takes 10 s."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(toy_run.Data):
        def __next__(self):
            now[0] += 0.1
            return super().__next__()

    save = loop.Checkpointer.save

    def slowly(*args):
        now[0] += 10
        save(*args)

    monkeypatch.setattr(loop.Checkpointer, "save", slowly)
    toy_run.run(tmp_path, data=Slow(), log_every=4, save_every=3)
    told = [line["step_seconds"] for line in lines(tmp_path) if "step_seconds" in line]
    assert told == pytest.approx([0.1] * 3)


def test_a_result_says_which_signal_stopped_the_run(tmp_path):
    data = Interrupting()
    data.signal = signal.SIGINT
    assert toy_run.run(tmp_path, data=data).signal == signal.SIGINT
    assert toy_run.run(tmp_path).signal is None


def test_a_stage_starts_from_the_parameters_it_is_given(tmp_path):
    head = {"head": {"w": np.full((16, 1), 3.0, np.float32)}}
    frozen = toy_run.stage(trains=("body",), steps=1)
    result = toy_run.run(tmp_path / "a", of=frozen, start=lambda: head)
    assert np.array_equal(result.state.params["head"]["w"], head["head"]["w"])
    with pytest.raises(UserError, match=r"head/w has shape \(2,\) .* \(16, 1\) in this config"):
        toy_run.run(tmp_path / "b", start=lambda: {"head": {"w": np.zeros(2)}})


def test_examples_that_fitted_nowhere_are_counted_in_the_metrics(tmp_path):
    class Dropping(toy_run.Data):
        dropped = 3

    toy_run.run(tmp_path, data=Dropping(), log_every=4)
    told = {line["dropped_examples"] for line in lines(tmp_path) if "step_seconds" in line}
    assert told == {3}
