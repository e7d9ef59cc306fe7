"""Crops of speech: the clip's own samples, in an order that a checkpoint keeps."""

import jax
import numpy as np
import pytest

from omnijax.data.crops import CropsConfig, crop, make_crops_pipeline, speech_of
from omnijax.errors import UserError
from omnijax.media import Audio, nano_processor

PROCESSOR = nano_processor()


class Clips:
    """Clip n is n + 1 tenths of a second whose samples count up, in steps of their own."""

    def __len__(self):
        return 30

    def __getitem__(self, n):
        ramp = (np.arange(2400 * (n + 1)) * 1e-6 + 0.1).astype(np.float32)
        return {"chat": {"messages": []}, "task": "say", "meta": {"speech": Audio(ramp, 24_000)}}


def pipeline(**fields):
    where = {k: fields.pop(k) for k in ("process_index", "process_count") if k in fields}
    config = CropsConfig(
        **{"mixture": (("clips", 1.0),), "batch_size": 4, "samples": 19_200} | fields
    )
    return make_crops_pipeline(config, processor=PROCESSOR, sources={"clips": Clips()}, **where)


def test_a_crop_is_a_run_of_the_clips_samples_and_a_short_clip_is_followed_by_silence():
    stream = pipeline()
    lengths = []
    for _ in range(10):
        batch = next(stream)
        for samples, length in zip(batch.samples, batch.lengths, strict=True):
            np.testing.assert_allclose(np.diff(samples[:length]), 1e-6, atol=2e-7)
            assert not samples[length:].any()
            lengths.append(int(length))
        assert batch.counts() == (sum(lengths[-4:]),) * 2
    assert min(lengths) < 19_200 == max(lengths)
    stream.close()


def test_processes_share_a_batch_s_rows():
    whole = next(pipeline())
    parts = [next(pipeline(process_index=i, process_count=2)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([p.samples for p in parts]), whole.samples)
    np.testing.assert_array_equal(np.concatenate([p.heard.mel for p in parts]), whole.heard.mel)
    with pytest.raises(UserError, match="batch_size is 4, no multiple of the 3 processes"):
        pipeline(process_count=3)


def test_the_teacher_hears_the_crop_in_whole_chunks():
    batch = next(pipeline(heard=True))
    assert batch.heard.mel.shape == (4, 1, PROCESSOR.audio_chunk_frames, PROCESSOR.mel_bins)
    assert (batch.heard.lengths == PROCESSOR.audio_chunk_frames).all()
    assert next(pipeline(heard=False)).heard is None


def test_a_pipeline_set_to_a_saved_state_goes_on_as_if_never_stopped():
    stream = pipeline()
    next(stream)
    state = stream.get_state()
    expected = [next(stream) for _ in range(3)]
    again = pipeline(threads=0)
    again.set_state(state)
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, next(again), batch)
    with pytest.raises(UserError, match="belongs to other data"):
        pipeline(samples=9_600).set_state(state)


def test_a_place_in_silence_is_drawn_again():
    clip = np.zeros(100_000, np.float32)
    clip[50_000:] = 0.5
    rng = np.random.default_rng(0)
    heard = sum(np.abs(crop(clip, 1_000, rng)[0]).max() == 0.5 for _ in range(200))
    assert heard > 190  # one place in two is silent, eight draws in a row hardly ever


def test_an_example_without_sound_and_wrong_fields_are_named():
    with pytest.raises(UserError, match=r"clips\[3\]: no sound"):
        speech_of({"chat": {"messages": [{"role": "user", "content": "hi"}]}}, "clips[3]")
    with pytest.raises(UserError, match="samples is 0, it must be at least 1"):
        pipeline(samples=0)
