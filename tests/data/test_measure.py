"""The measuring tool: waiting and filling are what they are said to be."""

import time

import numpy as np

from omnijax.data import PipelineConfig, make_pipeline
from omnijax.data.measure import measure
from omnijax.media import ProcessorConfig
from omnijax.text.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["user assistant a b c"], 300)
PROCESSOR = ProcessorConfig(audio_chunk_frames=32, mel_bins=8)


class Texts:
    """Short chats that take a while to read."""

    def __init__(self, seconds):
        self._seconds = seconds

    def __len__(self):
        return 50

    def __getitem__(self, index):
        time.sleep(self._seconds)
        messages = [
            {"role": "user", "content": "a" * (index % 7)},
            {"role": "assistant", "content": "b"},
        ]
        return {"chat": {"messages": messages}, "task": "chat", "meta": {}}


def figures(seconds, step_seconds, **fields):
    config = PipelineConfig(
        mixture={"texts": 1},
        batch_size=2,
        max_tokens=64,
        max_audio_chunks=0,
        max_patches=0,
        packing_rows=2,
        threads=1,
        **fields,
    )
    pipeline = make_pipeline(
        config, tokenizer=TOKENIZER, processor=PROCESSOR, sources={"texts": Texts(seconds)}
    )
    return measure(pipeline, batches=10, step_seconds=step_seconds)


def test_a_device_that_is_faster_than_the_data_waits_and_a_slower_one_less():
    # Compared with each other: on a machine that is busy otherwise either waits longer.
    fast = figures(0.03, 0.001, cache_gb=0)["wait_share"]
    slow = figures(0.0, 0.2)["wait_share"]
    assert fast > 0.5 and slow < fast


def test_the_used_share_of_the_rows_is_counted():
    found = figures(0.0, 0.0)
    assert 0.5 < found["fill_tokens"] <= 1
    # An answer is "b" and <|im_end|>: two targets an example.
    targets = found["fill_targets"] * 64
    np.testing.assert_allclose(targets, 2 * found["examples_per_row"], rtol=1e-6)
    assert found["fill_patches"] == found["fill_audio_chunks"] == found["dropped"] == 0
