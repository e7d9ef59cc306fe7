"""Training in several processes: whose rows are whose, and that two of them train what one does."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.sharding import flatten
from omnijax.train import read_params
from omnijax.train.processes import Share, equal_run, join

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("read", "shares"),
    [
        ({0: {0, 1}, 1: {2, 3}}, [(0, 2), (1, 2)]),
        ({0: {0, 1, 2, 3}, 1: {0, 1, 2, 3}}, [(0, 1), (0, 1)]),  # split by tensor alone
        ({0: {0, 1}, 1: {0, 1}, 2: {2, 3}, 3: {2, 3}}, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_a_process_reads_one_of_several_equal_runs_of_the_rows(read, shares):
    given = equal_run(read, 4, "the mesh")
    assert given == {process: Share(*share) for process, share in enumerate(shares)}


@pytest.mark.parametrize(
    ("read", "message"),
    [
        ({0: {0, 1, 2, 3}, 1: set()}, "the mesh has no device of process 1"),
        ({0: {0, 2}, 1: {1, 3}}, r"process 0 the rows \[0, 2\] of 4"),
        ({0: {0}, 1: {1, 2, 3}}, r"process 1 the rows \[1, 2, 3\] of 4"),
        ({0: {0, 1, 2, 3}, 1: {2, 3}}, r"different numbers of rows: \{0: 4, 1: 2\}"),
    ],
)
def test_rows_that_are_no_equal_run_are_refused(read, message):
    with pytest.raises(UserError, match=message):
        equal_run(read, 4, "the mesh")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("here", "distributed is 'here': give auto, or HOST:PORT,INDEX,COUNT"),
        ("here:1,0", "give auto, or"),
        ("here:1,a,2", "give auto, or"),
        ("here:1,2,2", "INDEX 2 must be below COUNT 2"),
    ],
)
def test_how_processes_join_is_checked_before_they_wait_for_each_other(how, message):
    with pytest.raises(UserError, match=message):
        join(how)


def test_where_there_is_nothing_to_join_it_is_one_line(monkeypatch):
    def alone(**given):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", alone)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)  # this process goes on
    with pytest.raises(UserError, match=r"cannot join the other processes \(auto\): coordinator"):
        join("auto")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start(workdir: Path, devices: int, *where: str) -> subprocess.Popen:
    """toy_run's model for 12 steps on a mesh of four devices, `devices` of them here."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, __file__, str(workdir), *where],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def ended(*runs: subprocess.Popen) -> list[tuple[int, str]]:
    """(exit status, last line) of each."""
    outs = [run.communicate(timeout=300)[0] for run in runs]
    assert all("Traceback" not in out for out in outs), outs
    return [(run.returncode, out.splitlines()[-1]) for run, out in zip(runs, outs, strict=True)]


def pair(workdir: Path, *more: str) -> list[tuple[int, str]]:
    port = free_port()
    return ended(*(start(workdir, 2, f"localhost:{port},{i},2", *more) for i in range(2)))


def written(workdir: Path) -> list[dict]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    names = ("step", "loss", "grad_norm", "eval_loss")
    return [{name: line[name] for name in names if name in line} for line in lines]


def test_two_processes_stopped_and_resumed_train_what_one_does(tmp_path):
    assert ended(start(tmp_path / "one", 4)) == [(0, "12 batches to step 12")]
    # A signal to one of them stops both, with a checkpoint of both.
    assert pair(tmp_path / "two", "stop") == [(143, "5 batches to step 5")] * 2
    assert (tmp_path / "two/checkpoints/5").is_dir()
    assert pair(tmp_path / "two") == [(0, "7 batches to step 12")] * 2
    alone, both = (written(tmp_path / name) for name in ("one", "two"))
    assert len(alone) == len(both) == 13
    for a, b in zip(alone, both, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    ours, theirs = (
        flatten(read_params(tmp_path / name / "checkpoints")[0]) for name in ("one", "two")
    )
    for path, leaf in ours.items():
        np.testing.assert_allclose(theirs[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)


def main(workdir: str, where: str = "", stop: str = "") -> int:
    if where:
        join(where)
    import toy_run

    from omnijax.sharding import make_mesh
    from omnijax.train import Objective
    from omnijax.train.processes import is_first, share_of

    mesh = make_mesh(data=2, fsdp=2)
    share = share_of(mesh, 8)
    assert share.count == jax.process_count()
    rows = range(8)[share.index * 8 // share.count :][: 8 // share.count]
    whole_batches = toy_run.Data

    class Rows(whole_batches):
        """This process's rows of the toy's batches."""

        made = 0

        def __next__(self):
            batch = super().__next__()
            self.made += 1
            if stop and self.number == 5 and not is_first():
                os.kill(os.getpid(), signal.SIGTERM)
            return jax.tree.map(lambda leaf: leaf[rows], batch)

    def init(key):
        """The toy's weights under names that fsdp splits."""
        made = toy_run.init(key)
        return {"gate": {"w": made["body"]["w"]}, "down": {"w": made["head"]["w"]}}

    def loss(params, batch, key):
        head = {"w": params["down"]["w"], "bias": 0.0}
        return toy_run.loss({"body": params["gate"], "head": head}, batch, key)

    toy_run.Data = Rows  # also for the evaluation
    data = Rows()
    result = toy_run.run(workdir, objective=Objective(init, loss), mesh=mesh, data=data)
    print(f"{data.made} batches to step {result.step}")
    split = result.state.params["gate"]["w"].sharding.shard_shape((4, 16))
    assert split == (2, 16), split
    return 0 if result.finished else 143


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main(*sys.argv[1:]))
