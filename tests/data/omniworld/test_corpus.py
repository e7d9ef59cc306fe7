"""The stored corpus is the generated one, whole or absent."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from omnijax.data import omniworld
from omnijax.data.omniworld import builder as builder_module
from omnijax.data.omniworld.corpus import sweep
from omnijax.errors import UserError
from omnijax.media.audio import Audio

SIZES = {"train": 60, "test": 10, "say": 3}
# Of the first plans of each split, for the version below. Content changed? Raise the version too.
CONTENT = ("1.9.0", "37a6fcb7e14afdfc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    omniworld.load("train", path, processes=2, **SIZES)
    return path


def files(path):
    return {p.relative_to(path): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(path.rglob("*array_record*"))}  # fmt: skip


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_a_stored_example_is_the_generated_one(folder):
    for split, size in SIZES.items():
        source = omniworld.load(split, folder, **SIZES)
        lazy = omniworld.LazySource(split, size)
        assert len(source) == len(lazy) == size
        assert source.tasks == lazy.tasks
        for place in (*range(0, size, 7), -1):
            assert same(source[place], lazy[place])
            assert source[place]["task"] == source.tasks[place]


def test_one_process_and_two_make_the_same_bytes(folder, tmp_path):
    omniworld.load("train", tmp_path, processes=1, **SIZES)
    assert files(tmp_path) == files(folder) != {}


def test_a_content_change_comes_with_a_new_version():
    plans = [omniworld.plan(i, split) for split in omniworld.SPLITS for i in range(60)]
    digest = hashlib.sha256(json.dumps(plans).encode()).hexdigest()[:16]
    assert CONTENT == (str(omniworld.OmniWorld.VERSION), digest)


def test_tfds_reads_it_by_name_without_tensorflow(folder):
    import tensorflow_datasets as tfds

    root = folder / "omniworld" / builder_module.folder_name(SIZES, 0)
    source = tfds.data_source("omni_world", split="train", data_dir=root,
                              builder_kwargs={"sizes": SIZES})  # fmt: skip
    assert len(source) == 60
    assert set(source[0]) == {"id", "task", "chat", "meta", "media"}
    assert "tensorflow" not in sys.modules


def test_a_task_is_selected_without_reading(folder):
    source = omniworld.load("train", folder, tasks=("caption", "transcribe"), **SIZES)
    assert set(source.tasks) == {"caption", "transcribe"}
    assert [source[i]["task"] for i in range(len(source))] == list(source.tasks)


def test_what_is_to_be_said_is_a_target_and_no_input(folder):
    example = omniworld.load("say", folder, **SIZES)[0]
    speech = example["meta"]["speech"]
    assert isinstance(speech, Audio) and speech.sample_rate == 24_000
    assert all(item["type"] == "text" for item in example["chat"]["messages"][0]["content"])
    assert (
        example["chat"]["messages"][1]["content"]
        in example["chat"]["messages"][0]["content"][0]["text"]
    )


def test_a_source_is_picklable_after_use(folder):
    source = omniworld.load("test", folder, **SIZES)
    first = source[0]
    assert same(pickle.loads(pickle.dumps(source))[0], first)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_build_leaves_no_half_dataset_and_no_process(tmp_path, how):
    # A shell's background jobs ignore SIGINT, and so would what they start.
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " \
             f"from omnijax.data import omniworld; omniworld.build({str(tmp_path)!r}, sizes=" \
             "{'train': 4000})"  # fmt: skip
    build = subprocess.Popen([sys.executable, "-c", script], start_new_session=True,
                             env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
                             stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # fmt: skip
    deadline = time.time() + 120
    while not list(tmp_path.rglob("*incomplete*")) and time.time() < deadline:
        assert build.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    build.send_signal(how)
    assert build.wait(timeout=60) != 0
    assert not list(tmp_path.rglob("dataset_info.json"))
    sweep(tmp_path)
    assert not list(tmp_path.rglob("*incomplete*"))
    while time.time() < deadline and _session(build.pid):
        time.sleep(0.2)
    assert not _session(build.pid)
    assert len(omniworld.load("train", tmp_path, processes=1, train=4)) == 4


def _session(leader):
    """The processes that the build started and that still run."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                state, _, _, session = stat.read().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            found.append(entry)
    return found


def test_a_build_after_a_killed_one_sweeps_up(tmp_path):
    sizes = {"train": 4}
    root = tmp_path / "omniworld" / builder_module.folder_name(sizes, 0)
    left = root / "omni_world" / "incomplete.ABCDEF_1.2.1"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    omniworld.build(tmp_path, sizes=sizes, processes=1)
    assert not left.exists()
    assert len(omniworld.load("train", tmp_path, train=4)) == 4


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(omniworld.OmniWorld, "download_and_prepare", full)
    with pytest.raises(UserError, match="No space left on device"):
        omniworld.build(tmp_path, sizes={"train": 4})


def test_bad_requests_are_named(tmp_path):
    with pytest.raises(UserError, match="no split 'dev', it has train"):
        omniworld.load("dev", tmp_path)
    with pytest.raises(UserError, match="size of split 'train' is 0"):
        omniworld.load("train", tmp_path, train=0)
    with pytest.raises(UserError, match="split 'test' has no size"):
        omniworld.load("test", tmp_path, train=4)
    with pytest.raises(UserError, match="no task 'sing'"):
        omniworld.LazySource("train", 4, tasks=("sing",))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="cannot make the data folder"):
        omniworld.load("train", file, train=4)
    with pytest.raises(IndexError):
        omniworld.LazySource("train", 4)[4]
