"""Checkpoints: what a full disk, a kill or another config does to them; weights as a file."""

import errno
import os
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.sharding import flatten
from omnijax.train.checkpoint import (
    Checkpointer,
    abstract,
    differing_fields,
    load_weights,
    read_params,
    save_weights,
)
from omnijax.train.state import TrainState

CONFIG = {"model": {"width": 4, "pattern": "gdn,full"}, "stage": {"steps": 3}}


def state(step, size=8):
    params = {"a": {"w": jnp.full((size,), float(step))}}
    moments = jax.tree.map(jnp.zeros_like, params)
    return TrainState(
        jnp.int32(step), params, (moments,), None, jax.random.key_data(jax.random.key(1))
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_state_and_the_data_position_come_back_as_saved(folder):
    checkpoints = Checkpointer(folder, CONFIG)
    checkpoints.save(state(1), {"at": [1, "x"]})
    saved, data, _ = Checkpointer(folder, CONFIG).restore(abstract(state(0)))
    for a, b in zip(jax.tree.leaves(saved), jax.tree.leaves(state(1)), strict=True):
        assert np.array_equal(a, b) and a.dtype == b.dtype
    assert data == {"at": [1, "x"]}


def test_an_empty_directory_has_nothing_to_restore(folder):
    assert Checkpointer(folder, CONFIG).restore(abstract(state(0))) is None


def test_only_the_newest_are_kept(folder):
    checkpoints = Checkpointer(folder, CONFIG, keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(state(step))
    assert checkpoints.steps() == [3, 4]


def test_a_full_disk_is_a_clear_error_and_the_last_good_checkpoint_stays(folder, monkeypatch):
    checkpoints = Checkpointer(folder, CONFIG)
    checkpoints.save(state(1))
    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", full_disk)
    with pytest.raises(UserError, match=r"step 2 .*No space left.*step 1 is still there"):
        checkpoints.save(state(2))
    monkeypatch.undo()
    saved, _, _ = Checkpointer(folder, CONFIG).restore(abstract(state(0)))
    assert int(saved.step) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full_leaves_the_last_good_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        checkpoints = Checkpointer(disk / "checkpoints", CONFIG)
        checkpoints.save(state(1))
        rng = np.random.default_rng(0)  # noise, which no compression makes small
        big = state(2)._replace(params={"a": {"w": jnp.asarray(rng.normal(size=2_000_000))}})
        with pytest.raises(UserError, match=r"step 2 .*No space left.*step 1 is still there"):
            checkpoints.save(big)
        again = Checkpointer(disk / "checkpoints", CONFIG)
        assert int(again.restore(abstract(state(0)))[0].step) == 1
        again.save(state(3))
        assert again.steps() == [1, 3]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_half_written_checkpoint_is_no_checkpoint(folder):
    Checkpointer(folder, CONFIG).save(state(1))
    half = folder / "2.orbax-checkpoint-tmp-7"
    half.mkdir()
    (half / "data").write_text("x")
    checkpoints = Checkpointer(folder, CONFIG)
    assert checkpoints.steps() == [1] and not half.exists()


def test_a_checkpoint_of_another_config_names_the_fields_that_differ(folder):
    Checkpointer(folder, CONFIG).save(state(1))
    other = {"model": {"width": 8, "pattern": "full"}, "stage": {"steps": 3}}
    with pytest.raises(UserError) as raised:
        Checkpointer(folder, other).restore(abstract(state(0)))
    message = str(raised.value)
    assert "model.width: 4 in the checkpoint, 8 here" in message
    assert "model.pattern: 'gdn,full' in the checkpoint, 'full' here" in message
    assert "steps" not in message


def test_tuples_and_lists_of_a_config_are_the_same():
    assert differing_fields({"a": [1, 2]}, {"a": (1, 2)}) == []
    assert differing_fields({"a": 1}, {}) == ["a: 1 in the checkpoint, None here"]


def test_a_directory_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot use"):
        Checkpointer(tmp_path / "file" / "checkpoints", CONFIG)


def test_parameters_are_read_from_a_run_without_its_model(folder):
    average = {"a": {"w": jnp.full((8,), 7.0)}}
    Checkpointer(folder, CONFIG).save(state(1)._replace(ema=average))
    params, config = read_params(folder)
    assert params["a"]["w"].tolist() == [7.0] * 8 and config == CONFIG
    weights, of = load_weights(folder.parent)  # of the run's folder, as of exported ones
    assert weights["a"]["w"].tolist() == [7.0] * 8 and of == CONFIG
    with pytest.raises(UserError, match="no checkpoint directory"):
        read_params(folder / "nowhere")


def test_weights_are_one_bfloat16_file_in_which_decays_stay_float32(tmp_path):
    params = {"gdn": {"A_log": jnp.float32([1.2345678]), "w": jnp.full((2, 3), 1.2345678)}}
    file = save_weights(tmp_path, params, CONFIG)
    assert file.name == "model.safetensors"
    loaded, config = load_weights(tmp_path)
    assert config == CONFIG
    flat = flatten(loaded)
    assert flat["gdn/A_log"] == params["gdn"]["A_log"]
    assert np.array_equal(flat["gdn/w"], params["gdn"]["w"].astype(jnp.bfloat16))


def test_weights_that_cannot_be_read_or_written_are_user_errors(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no readable weights"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="no readable weights"):
        load_weights(tmp_path)
    monkeypatch.setattr("omnijax.train.checkpoint.save_file", full_disk)
    with pytest.raises(UserError, match="cannot write .*model.safetensors: .*No space left"):
        save_weights(tmp_path, {"w": jnp.zeros(2)}, CONFIG)
