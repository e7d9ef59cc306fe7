"""The stream of training batches: order, packing, what a target is, limits."""

import json

import numpy as np
import pytest

from omnijax.data import PipelineConfig, make_pipeline, merge_states
from omnijax.data.batch import RowBudget, collate_thinker
from omnijax.data.examples import rewindow
from omnijax.errors import UserError
from omnijax.generate.prompts import collate_prompts
from omnijax.media import Audio, ProcessorConfig
from omnijax.text.chat import render
from omnijax.text.tokenizer import train_tokenizer

PROCESSOR = ProcessorConfig(
    audio_chunk_frames=32,
    audio_window_chunks=2,
    min_pixels=32 * 32,
    max_pixels=64 * 64,
    mel_bins=16,
)
TOKENIZER = train_tokenizer(["system user assistant what is it a b c d"], 320)


def chat(seed: int) -> dict:
    """Text, and for some seeds a sound or a picture; the answer names the seed."""
    rng = np.random.default_rng(seed)
    content = [{"type": "text", "text": "what is it " * int(rng.integers(1, 3))}]
    if seed % 3 == 1:
        samples = rng.standard_normal(int(rng.integers(3_000, 20_000))).astype(np.float32) / 9
        content.insert(0, {"type": "audio", "audio": Audio(samples, 16_000)})
    if seed % 4 == 2:
        image = rng.integers(0, 256, (32, 64, 3)).astype(np.uint8)
        content.insert(0, {"type": "image", "image": image})
    return {
        "messages": [
            {"role": "user", "content": content},
            {"role": "assistant", "content": f"number {seed}"},
        ]
    }


class Chats:
    """A source in memory."""

    def __init__(self, seeds):
        self._seeds = list(seeds)

    def __len__(self):
        return len(self._seeds)

    def __getitem__(self, index):
        seed = self._seeds[index]
        task = "transcribe" if seed % 3 == 1 else "chat"
        return {"chat": chat(seed), "task": task, "meta": {}}


SOURCES = {"a": Chats(range(40)), "b": Chats(range(100, 120)), "clips": Chats(range(1, 60, 3))}


def pipeline(**fields):
    where = {k: fields.pop(k) for k in ("process_index", "process_count") if k in fields}
    settings = {
        "mixture": {"a": 2, "b": 1},
        "batch_size": 4,
        "max_tokens": 128,
        "max_audio_chunks": 12,
        "max_patches": 24,
        "packing_rows": 4,
        "seed": 3,
    }
    if fields.get("objective") == "aed":
        settings["max_patches"] = 0  # one encoder at a time
    config = PipelineConfig(**{**settings, **fields})
    return make_pipeline(config, tokenizer=TOKENIZER, processor=PROCESSOR, sources=SOURCES, **where)


def take(stream, count):
    return [next(stream) for _ in range(count)]


def leaves(batch):
    inputs = batch.inputs
    return [*inputs[:3], *inputs.audio, *inputs.vision, batch.targets, batch.loss_weights]


def assert_same(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        for x, y in zip(leaves(one), leaves(other), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def documents(batch):
    """(row, document) -> tokens."""
    inputs = batch.inputs
    for row, segments in zip(inputs.tokens, inputs.segment_ids, strict=True):
        for document in range(1, segments.max() + 1):
            yield row[segments == document]


def answers(batches):
    """Numbers named by the answers, in order."""
    texts = [TOKENIZER.decode(tokens.tolist()) for batch in batches for tokens in documents(batch)]
    return [int(text.rsplit("number ", 1)[1].split("<")[0]) for text in texts]


def test_batches_have_the_same_shapes_and_dtypes_always():
    shapes = {tuple((x.shape, str(x.dtype)) for x in leaves(b)) for b in take(pipeline(), 6)}
    assert len(shapes) == 1
    (shape,) = shapes
    assert shape[0] == ((4, 128), "int32") and shape[1] == ((3, 4, 128), "int32")


def test_each_document_of_a_row_is_what_rendering_gives_alone():
    seen = 0
    for batch in take(pipeline(), 4):
        inputs = batch.inputs
        for b in range(4):
            g = p = 0
            for document in range(1, inputs.segment_ids[b].max() + 1):
                here = inputs.segment_ids[b] == document
                (number,) = [
                    n
                    for n in [*range(40), *range(100, 120)]
                    if f"number {n}<" in TOKENIZER.decode(inputs.tokens[b, here].tolist())
                ]
                alone = render(chat(number), TOKENIZER, PROCESSOR)
                np.testing.assert_array_equal(inputs.tokens[b, here], alone.tokens)
                np.testing.assert_array_equal(inputs.positions[:, b, here], alone.positions.T)
                np.testing.assert_array_equal(batch.targets[b, here][:-1], alone.tokens[1:])
                assert batch.targets[b, here][-1] == 0
                np.testing.assert_array_equal(batch.loss_weights[b, here][:-1], alone.loss_mask[1:])
                assert batch.loss_weights[b, here][-1] == 0
                n, m = len(alone.audio_lengths), len(alone.patch_frames)
                np.testing.assert_array_equal(inputs.audio.mel[b, g : g + n], alone.audio_mel)
                np.testing.assert_array_equal(
                    inputs.audio.lengths[b, g : g + n], alone.audio_lengths
                )
                np.testing.assert_array_equal(inputs.vision.patches[b, p : p + m], alone.patches)
                np.testing.assert_array_equal(
                    inputs.vision.coords[b, p : p + m], alone.patch_coords
                )
                np.testing.assert_array_equal(inputs.vision.grids[b, p : p + m], alone.patch_grids)
                windows = inputs.audio.windows[b, g : g + n] - inputs.audio.windows[b, :g].max(
                    initial=0
                )
                np.testing.assert_array_equal(windows, alone.audio_windows)
                frames = inputs.vision.frames[b, p : p + m] - inputs.vision.frames[b, :p].max(
                    initial=0
                )
                np.testing.assert_array_equal(frames, alone.patch_frames)
                g, p, seen = g + n, p + m, seen + 1
            assert not inputs.audio.lengths[b, g:].any() and not inputs.audio.windows[b, g:].any()
            assert not inputs.vision.frames[b, p:].any()
    assert seen > 20


def test_every_example_comes_once_an_epoch_and_in_another_order_each_epoch():
    stream = pipeline(mixture={"a": 1}, epochs=2)
    order = answers(stream)
    assert sorted(order) == sorted([*range(40), *range(40)])
    alone = answers(pipeline(mixture={"a": 1}, epochs=1))
    assert sorted(alone) == list(range(40))
    assert alone != list(range(40))
    shuffled_alike = pipeline(mixture={"a": 1}, epochs=1, seed=4)
    assert answers(shuffled_alike) != alone


def test_without_shuffling_the_examples_come_in_the_order_of_the_source():
    order = answers(pipeline(mixture={"b": 1}, epochs=1, shuffle=False, packing_rows=1))
    assert order == list(range(100, 120))


def test_mixture_weights_are_shares_of_the_examples():
    order = answers(take(pipeline(mixture={"a": 3, "b": 1}), 20))
    assert abs(np.mean(np.array(order) < 100) - 0.75) < 0.05


def test_epochs_end_with_a_batch_of_the_same_shape():
    batches = list(pipeline(mixture={"b": 1}, epochs=1))
    assert {batch.inputs.tokens.shape for batch in batches} == {(4, 128)}


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_windows_drawn_afterwards_equal_windows_rendered(window):
    chats = [chat(1), chat(4), chat(7)]
    messages = [message for c in chats for message in c["messages"]]
    whole = render({"messages": messages}, TOKENIZER, PROCESSOR, window_chunks=1 << 30)
    there = render({"messages": messages}, TOKENIZER, PROCESSOR, window_chunks=window)
    np.testing.assert_array_equal(rewindow(whole.audio_windows, window), there.audio_windows)


def test_windows_are_sampled_from_those_that_are_given():
    def largest(**fields):
        batches = take(pipeline(mixture={"clips": 1}, **fields), 3)
        counts = set()
        for batch in batches:
            for row in batch.inputs.audio.windows:
                counts |= set(np.unique(row[row > 0], return_counts=True)[1].tolist())
        return max(counts)

    assert largest(window_chunks=(1,)) == 1
    assert largest(window_chunks=(1, 3)) == 3
    assert largest() == PROCESSOR.audio_window_chunks


def test_random_stamps_come_in_as_many_versions_as_asked_for():
    def texts(**fields):
        stream = pipeline(mixture={"clips": 1}, **fields)
        return {tuple(tokens) for batch in take(stream, 12) for tokens in documents(batch)}

    assert len(texts(stamp_variants=3)) > len(texts()) == 20


def test_with_the_cache_an_example_is_read_once_and_without_it_every_epoch():
    class Counted(Chats):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    class EverNew(Counted):  # as live examples are: keeping them would fill the memory for nothing
        ever_new = True

    for source, cache_gb, reads in ((Counted, 1, 20), (Counted, 0, 60), (EverNew, 1, 60)):
        SOURCES["counted"] = source(range(20))
        list(pipeline(mixture={"counted": 1}, epochs=3, cache_gb=cache_gb, threads=1))
        assert SOURCES["counted"].reads == reads


@pytest.mark.parametrize("objective", ["lm", "aed"])
def test_the_cache_changes_no_bit(objective):
    fields = {"objective": objective, "mixture": {"clips": 1}}
    ones = take(pipeline(cache_gb=1, **fields), 12)
    others = take(pipeline(cache_gb=0, **fields), 12)
    limited = take(pipeline(cache_gb=1e-4, **fields), 12)
    if objective == "lm":
        assert_same(ones, others)
        assert_same(ones, limited)
    else:
        for one, other in zip(ones, others, strict=True):
            np.testing.assert_array_equal(one.audio.mel, other.audio.mel)
            np.testing.assert_array_equal(one.targets, other.targets)


def test_aed_rows_hold_one_clip_and_its_transcript():
    batch = next(pipeline(objective="aed", mixture={"clips": 1}, max_tokens=24, shuffle=False))
    end = TOKENIZER.special("endoftext")
    assert batch.audio.mel.shape == (4, 12, 32, 16)
    assert (batch.audio.lengths[:, 0] > 0).all()
    for row in range(4):
        said = batch.targets[row][batch.loss_weights[row] > 0]
        assert TOKENIZER.decode(said[:-1].tolist()) == f"number {1 + 3 * row}" and said[-1] == end
        assert batch.tokens[row, 0] == end
        np.testing.assert_array_equal(batch.tokens[row, 1 : len(said)], said[:-1])


def shown(number: int) -> dict:
    """A picture of a colour of its own, with a description."""
    picture = np.full((64, 64, 3), 10 * number, np.uint8)
    item = {"type": "image", "image": picture}
    return {
        "chat": {"messages": [{"role": "user", "content": [item]}]},
        "meta": {"description": f"number {number}"},
    }


def test_aed_rows_hold_one_picture_and_its_description():
    config = PipelineConfig(
        mixture={"shown": 1}, objective="aed", batch_size=3, max_tokens=24, max_audio_chunks=0,
        max_patches=16, shuffle=False,
    )  # fmt: skip
    sources = {"shown": [shown(n) for n in range(3)]}
    batch = next(make_pipeline(config, tokenizer=TOKENIZER, processor=PROCESSOR, sources=sources))
    assert batch.audio is None and batch.vision.patches.shape == (3, 16, 3 * 2 * 16 * 16)
    assert (batch.vision.frames == 1).all()
    for row in range(3):
        np.testing.assert_allclose(batch.vision.patches[row], row * 10 / 127.5 - 1, atol=1e-6)
        said = batch.targets[row][batch.loss_weights[row] > 0]
        assert TOKENIZER.decode(said[:-1].tolist()) == f"number {row}"


def test_a_picture_without_a_description_is_an_error_that_names_the_example():
    config = PipelineConfig(
        mixture={"shown": 1}, objective="aed", max_audio_chunks=0, max_patches=16
    )
    sources = {"shown": [{**shown(1), "meta": {}}]}
    with pytest.raises(UserError, match=r"shown\[0\].*no described picture"):
        next(make_pipeline(config, tokenizer=TOKENIZER, processor=PROCESSOR, sources=sources))


def test_a_chat_without_an_answer_is_an_error_that_names_the_example():
    asked = {"task": "chat", "chat": {"messages": [{"role": "user", "content": "hi"}]}}
    stream = make_pipeline(
        PipelineConfig(mixture={"mine": 1}), tokenizer=TOKENIZER, processor=PROCESSOR,
        sources={"mine": [asked]},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"mine\[0\].*has no answer to learn"):
        next(stream)


def test_with_sqrt_weighting_an_answer_of_n_tokens_weighs_sqrt_n():
    batches = [next(pipeline(loss_weighting=kind)) for kind in ("token", "sqrt")]
    plain, rooted = (batch.loss_weights for batch in batches)
    assert set(plain.ravel()) == {0, 1}
    for ones, weights in zip(plain, rooted, strict=True):
        edges = np.flatnonzero(np.diff(ones, prepend=0, append=0)).reshape(-1, 2)
        assert len(edges) > 1
        for start, stop in edges:
            np.testing.assert_allclose(weights[start:stop], (stop - start) ** -0.5, rtol=1e-6)
        np.testing.assert_array_equal(weights == 0, ones == 0)


def test_with_sqrt_weighting_each_answer_of_a_conversation_weighs_by_its_own_length():
    turns = [("one", "a b c d"), ("two", "e")]
    messages = [m for q, a in turns for m in ({"role": "user", "content": q},
                                              {"role": "assistant", "content": a})]  # fmt: skip
    alone = render({"messages": messages}, TOKENIZER, PROCESSOR)
    budget = RowBudget(max_tokens=128)
    batch, _ = collate_thinker(
        [[alone]], batch_size=1, budget=budget, processor=PROCESSOR, loss_weighting="sqrt"
    )
    weights = batch.loss_weights[0]
    edges = np.flatnonzero(np.diff(weights > 0, prepend=False, append=False)).reshape(-1, 2)
    assert len(edges) == 2 and len(set(np.diff(edges).ravel())) == 2
    for start, stop in edges:
        np.testing.assert_allclose(weights[start:stop], (stop - start) ** -0.5, rtol=1e-6)


def test_a_position_between_two_ids_is_refused_and_not_cut():
    alone = render(chat(0), TOKENIZER, PROCESSOR)
    fields = {"batch_size": 1, "budget": RowBudget(max_tokens=64), "processor": PROCESSOR}
    whole = alone.positions.astype(np.float32)
    batch, _ = collate_thinker([[alone._replace(positions=whole)]], **fields)
    np.testing.assert_array_equal(batch.inputs.positions[:, 0, : len(whole)], alone.positions.T)
    whole[3, 0] = 6.5
    between = alone._replace(positions=whole)
    with pytest.raises(UserError, match=r"position id 6.5, a row holds whole ids only"):
        collate_thinker([[between]], **fields)
    with pytest.raises(UserError, match=r"position id 6.5"):
        collate_prompts([between], PROCESSOR)


def test_an_example_over_a_limit_is_an_error_with_length_and_limit():
    with pytest.raises(UserError, match=r"a\[\d+\].* does not fit: it has \d+ patches, .* is 4"):
        take(pipeline(max_patches=4), 4)
    with pytest.raises(UserError, match=r"tokens, the row's limit \(max_tokens\) is 20"):
        take(pipeline(max_tokens=20), 4)


def test_dropped_examples_are_counted_and_the_rest_goes_on():
    stream = pipeline(mixture={"a": 1}, max_patches=4, on_too_long="drop", epochs=1)
    order = answers(stream)
    assert sorted(order) == [n for n in range(40) if n % 4 != 2]
    assert stream.stats()["dropped"] == 10


def test_dropping_everything_is_an_error():
    with pytest.raises(UserError, match="none of the first"):
        next(pipeline(max_tokens=8, on_too_long="drop"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixture": {}}, "the mixture is empty"),
        ({"mixture": {"a": 0}}, "weight of 'a' is 0.0, it must be positive"),
        ({"mixture": {"a": -1}}, "must be positive"),
        ({"mixture": {"a": float("nan")}}, "must be positive"),
        ({"mixture": (("a", 1), ("a", 2))}, "twice"),
        ({"mixture": {"no_such": 1}}, "unknown source 'no_such'"),
        ({"mixture": {"folder:/no/such": 1}}, "/no/such does not exist"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_patches": 6}, r"max_patches is 6, .* multiple of 4, .*spatial_merge\*\*2"),
        ({"max_audio_chunks": -1}, "must not be negative"),
        ({"epochs": 0}, "epochs is 0"),
        ({"loss_weighting": "log"}, 'it must be "token" or "sqrt"'),
        ({"objective": "aed", "max_patches": 24}, "trains one encoder"),
        ({"on_too_long": "cut"}, "on_too_long is 'cut'"),
        ({"objective": "x"}, "objective is 'x'"),
        ({"window_chunks": (0,)}, "window_chunks"),
        ({"data_shards": 3}, "not a multiple"),
        ({"process_count": 3}, "no multiple of the 3 processes"),
        ({"epochs": 1, "data_shards": 2}, "needs data_shards=1"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": -1}, "threads is -1"),
        ({"stamp_variants": -1}, "stamp_variants is -1"),
        ({"cache_gb": -1}, "cache_gb is -1"),
    ],
)
def test_what_the_user_got_wrong_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        pipeline(**fields)


def test_a_state_of_other_data_is_refused():
    state = pipeline().get_state()
    with pytest.raises(UserError, match="belongs to other data"):
        pipeline(seed=9).set_state(state)


def test_a_state_that_lacks_shards_is_refused():
    fields = {"data_shards": 2, "process_count": 2}
    streams = [pipeline(process_index=i, **fields) for i in range(2)]
    states = [stream.get_state() for stream in streams]
    with pytest.raises(UserError, match="lacks shards"):
        pipeline(data_shards=2).set_state(states[0])
    pipeline(data_shards=2).set_state(json.loads(json.dumps(merge_states(states))))
