"""Law 5, as far as data goes: the order survives restarts and does not depend on processes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.data import PipelineConfig, make_pipeline, merge_states
from omnijax.media import Audio, ProcessorConfig
from omnijax.text.tokenizer import train_tokenizer

PROCESSOR = ProcessorConfig(
    audio_chunk_frames=32,
    audio_window_chunks=2,
    min_pixels=32 * 32,
    max_pixels=64 * 64,
    mel_bins=16,
)
TOKENIZER = train_tokenizer(["system user assistant what is it a b c d"], 320)


class Chats:
    """Chats of different lengths, some with a sound or a picture."""

    def __init__(self, seed, length):
        self._seed, self._length = seed, length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        rng = np.random.default_rng([self._seed, index])
        content = [{"type": "text", "text": "abcd " * int(rng.integers(1, 9))}]
        if index % 3 == 1:
            samples = rng.standard_normal([4_000, 9_000, 14_000][index % 4 % 3]).astype(np.float32)
            content.insert(0, {"type": "audio", "audio": Audio(samples / 9, 16_000)})
        if index % 4 == 2:
            image = rng.integers(0, 256, (32, 32 * int(rng.integers(1, 3)), 3)).astype(np.uint8)
            content.insert(0, {"type": "image", "image": image})
        user = {"role": "user", "content": content}
        answer = {"role": "assistant", "content": f"{self._seed} {index}"}
        return {"chat": {"messages": [user, answer]}, "task": "transcribe", "meta": {}}


SOURCES = {"a": Chats(1, 23), "b": Chats(2, 7)}


def pipeline(process_index=0, process_count=1, **fields):
    settings = {
        "mixture": {"a": 2, "b": 1},
        "batch_size": 4,
        "max_tokens": 96,
        "max_audio_chunks": 8,
        "max_patches": 16,
        "packing_rows": 6,
        "window_chunks": (1, 2, 4),
        "stamp_variants": 2,
        "seed": 5,
    }
    return make_pipeline(
        PipelineConfig(**{**settings, **fields}),
        tokenizer=TOKENIZER,
        processor=PROCESSOR,
        sources=SOURCES,
        process_index=process_index,
        process_count=process_count,
    )


def arrays(batch):
    inputs = batch.inputs
    by_row = [inputs.tokens, np.moveaxis(inputs.positions, 0, 1), inputs.segment_ids]
    return [*by_row, *inputs.audio, *inputs.vision, batch.targets, batch.loss_weights]


def take(stream, count):
    return [arrays(next(stream)) for _ in range(count)]


def assert_same(ones, others):
    for one, other in zip(ones, others, strict=True):
        for x, y in zip(one, other, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


UNINTERRUPTED = {}


def uninterrupted(**fields):
    key = tuple(sorted(fields.items()))
    if key not in UNINTERRUPTED:
        UNINTERRUPTED[key] = take(pipeline(**fields), 14)
    return UNINTERRUPTED[key]


@settings(max_examples=5, deadline=None)
@given(stop=st.integers(0, 10), threads=st.integers(1, 4), shards=st.sampled_from([1, 2]))
def test_a_run_resumed_at_any_step_sees_what_the_run_never_stopped_sees(stop, threads, shards):
    first = pipeline(data_shards=shards)
    before = take(first, stop)
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    second = pipeline(data_shards=shards, threads=threads, cache_gb=0, prefetch_batches=1)
    second.set_state(state)
    assert_same(before + take(second, 14 - stop), uninterrupted(data_shards=shards))
    second.close()


def test_a_pipeline_rewound_repeats_itself():
    stream = pipeline()
    start = stream.get_state()
    ones = take(stream, 3)
    stream.set_state(start)
    assert_same(ones, take(stream, 3))


def test_aed_batches_resume_too():
    def stream():
        return pipeline(objective="aed", mixture={"clips": 1}, max_tokens=48, max_patches=0)

    SOURCES["clips"] = [SOURCES["a"][i] for i in range(23) if i % 3 == 1]
    whole = [next(s) for s in [stream()] for _ in range(9)]
    first = stream()
    for _ in range(4):
        next(first)
    second = stream()
    second.set_state(first.get_state())
    for batch in whole[4:]:
        again = next(second)
        np.testing.assert_array_equal(again.audio.mel, batch.audio.mel)
        np.testing.assert_array_equal(again.audio.windows, batch.audio.windows)
        np.testing.assert_array_equal(again.targets, batch.targets)


@pytest.mark.parametrize(("shards", "processes"), [(1, 2), (1, 4), (2, 2), (2, 4), (4, 2), (4, 1)])
def test_processes_together_see_what_one_process_sees(shards, processes):
    streams = [pipeline(i, processes, data_shards=shards) for i in range(processes)]
    together = [
        [np.concatenate(rows) for rows in zip(*parts, strict=True)]
        for parts in zip(*(take(stream, 6) for stream in streams), strict=True)
    ]
    assert_same(together, uninterrupted(data_shards=shards)[:6])


@pytest.mark.parametrize(
    ("shards", "before", "after"), [(1, 2, 4), (1, 4, 1), (2, 2, 1), (4, 1, 4)]
)
def test_a_run_goes_on_with_other_processes_in_the_same_order(shards, before, after):
    streams = [pipeline(i, before, data_shards=shards) for i in range(before)]
    for stream in streams:
        take(stream, 5)
    state = merge_states([stream.get_state() for stream in streams])
    parts = []
    for i in range(after):
        stream = pipeline(i, after, data_shards=shards)
        stream.set_state(state)
        parts.append(take(stream, 4))
    together = [
        [np.concatenate(rows) for rows in zip(*batches, strict=True)]
        for batches in zip(*parts, strict=True)
    ]
    assert_same(together, uninterrupted(data_shards=shards)[5:9])
