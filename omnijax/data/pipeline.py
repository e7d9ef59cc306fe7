"""Mix, render, pack, batch: the stream of training batches, with a state that a checkpoint keeps.

The order of examples is a function of the config alone. It is the same for every number of
processes and threads, and a pipeline set to a saved state goes on as if never stopped:

    pipeline = make_pipeline(config, tokenizer=tokenizer, processor=processor)
    for batch in pipeline:  # TrainBatch of numpy arrays: this process's rows
        ...
    state = pipeline.get_state()  # JSON; later: pipeline.set_state(state)
"""

import json
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from omnijax.data.batch import (
    AedBatch,
    Fill,
    RowBudget,
    TrainBatch,
    collate_aed,
    collate_thinker,
)
from omnijax.data.cache import RenderedCache
from omnijax.data.config import PipelineConfig
from omnijax.data.examples import (
    Example,
    Finish,
    Handles,
    RenderedSource,
    make_rendered,
    make_shown,
    make_spoken,
)
from omnijax.data.mixture import mix, open_mixture, order_fingerprint
from omnijax.data.sources import Source
from omnijax.errors import UserError
from omnijax.media.processor import ProcessorConfig
from omnijax.text.chat import Rendered
from omnijax.text.style import DEFAULT_STYLE, ChatStyle
from omnijax.text.tokenizer import Tokenizer

__all__ = ["AedBatch", "Pipeline", "PipelineConfig", "TrainBatch", "make_pipeline", "merge_states"]


def _lengths(example: Example) -> dict[str, Any]:
    """What grain's packer needs to know; the example itself rides along untouched."""
    rendered: Rendered = example.value
    return {
        "tokens": np.zeros(len(rendered.tokens), np.int8),
        "audio_chunks": np.zeros(len(rendered.audio_lengths), np.int8),
        "patches": np.zeros(len(rendered.patch_frames), np.int8),
        "example": example,
    }


def _shard_rows(mixed, config: PipelineConfig, shard: int) -> grain.IterDataset:
    """The rows of one shard, each a list of examples."""
    if config.data_shards > 1:
        mixed = mixed[shard :: config.data_shards]
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=32)
    stream = mixed.to_iter_dataset(options)
    if config.objective == "aed":
        return stream.map(lambda example: [example])
    return grain.experimental.FirstFitPackIterDataset(
        stream.map(_lengths),
        length_struct={
            "tokens": config.max_tokens,
            "audio_chunks": config.max_audio_chunks,
            "patches": config.max_patches,
        },
        num_packing_bins=config.packing_rows,
        seed=config.seed,
        shuffle_bins=config.shuffle,
        meta_features=["example"],
    ).map(lambda row: row["example"])


class _Batches(grain.IterDataset):
    """Gathers the rows of this process from the shards that it reads."""

    def __init__(self, shards: Mapping[int, grain.IterDataset], take, collate):
        super().__init__(list(shards.values()))
        self._shards, self._take, self._collate = shards, take, collate

    def __iter__(self):
        return _BatchIterator(
            {shard: iter(rows) for shard, rows in self._shards.items()}, self._take, self._collate
        )


class _BatchIterator(grain.DatasetIterator):
    def __init__(self, shards, take: Callable[[int], tuple[int, range]], collate):
        super().__init__(list(shards.values()))
        self._shards, self._take, self._collate = shards, take, collate

    def __next__(self):
        rows, ended = [], 0
        for shard, stream in self._shards.items():
            drawn, kept = self._take(shard)
            for n in range(drawn):
                row = next(stream, None)
                ended += row is None
                if n in kept and row is not None:
                    rows.append([example.value for example in row])
        if ended and ended == sum(self._take(shard)[0] for shard in self._shards):
            raise StopIteration
        return self._collate(rows)

    def get_state(self):
        return {str(shard): stream.get_state() for shard, stream in self._shards.items()}

    def set_state(self, state):
        for shard, stream in self._shards.items():
            stream.set_state(state[str(shard)])


class Pipeline(Iterator):
    """Batches of this process, their state, and how long the caller waited for them.

    The global batch is cut twice: into `data_shards` equal runs of rows, each packed from its own
    share of the examples, and into `process_count` equal runs of rows. A process reads the shards
    that its rows lie in. With one shard every process packs the whole stream and keeps its rows;
    with as many shards as processes each reads only what it trains on. Neither changes a batch.
    """

    def __init__(
        self, dataset: grain.IterDataset, fingerprint: str, finish: Any, budget: RowBudget
    ):
        self.budget = budget
        self._fingerprint, self._finish = fingerprint, finish
        self._stream = iter(dataset)
        # Stops the reading threads when the pipeline goes, at the interpreter's end at the latest.
        self.close = weakref.finalize(self, _close, self._stream)
        self._step = 0
        self.reset_stats()

    def __iter__(self) -> "Pipeline":
        return self

    def __next__(self):
        start = time.perf_counter()
        batch, fill = next(self._stream)
        now = time.perf_counter()
        if self._started is None:  # the first batch renders: that is start-up, not waiting
            self._started = now
        else:
            self._waited += now - start
        self._filled += np.asarray(fill)
        self._step += 1
        self._batches += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Everything that the next batch depends on, as JSON.

        With `data_shards` > 1 it holds the shards that this process reads: save every process's,
        and give `merge_states` of them to `set_state`. With one shard any process's is enough.
        """
        return {
            "fingerprint": self._fingerprint,
            "step": self._step,
            "shards": json.loads(json.dumps(self._stream.get_state(), default=int)),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch at which `state` was taken, whatever the process count was."""
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                "the saved data position belongs to other data: mixture, split, sizes of sources, "
                "seed, row budgets, batch size or shards differ"
            )
        missing = set(self._stream.get_state()) - set(state["shards"])
        if missing:
            raise UserError(f"the saved data position lacks shards {sorted(missing)}: merge_states")
        self._stream.set_state(state["shards"])
        self._step = state["step"]
        self.reset_stats()

    def reset_stats(self) -> None:
        self._started: float | None = None
        self._waited, self._batches = 0.0, 0
        self._filled = np.zeros(len(Fill._fields), np.int64)

    @property
    def dropped(self) -> int:
        """Examples that fitted into no row, since the process began."""
        return self._finish.dropped

    def stats(self) -> dict[str, float]:
        """Since the last reset: waiting as a share of time, examples/s, used share of the rows."""
        elapsed = time.perf_counter() - self._started if self._started is not None else 0.0
        fill = Fill(*self._filled.tolist())
        rows = max(fill.rows, 1)
        budget = self.budget
        return {
            "wait_share": self._waited / elapsed if elapsed else 0.0,
            "examples_per_second": fill.examples / elapsed if elapsed else 0.0,
            "examples_per_row": fill.examples / rows,
            "fill_tokens": fill.tokens / (rows * budget.max_tokens),
            "fill_targets": fill.targets / (rows * budget.max_tokens),
            "fill_audio_chunks": fill.audio_chunks / (rows * max(budget.max_audio_chunks, 1)),
            "fill_patches": fill.patches / (rows * max(budget.max_patches, 1)),
            "dropped": self.dropped,
        }


def rows_of(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of a batch that are this process's."""
    if batch_size % process_count:
        raise UserError(f"batch_size is {batch_size}, no multiple of the {process_count} processes")
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


def make_pipeline(
    config: PipelineConfig,
    *,
    tokenizer: Tokenizer,
    processor: ProcessorConfig,
    sources: Mapping[str, Source] | None = None,
    style: ChatStyle = DEFAULT_STYLE,
    process_index: int = 0,
    process_count: int = 1,
) -> "Pipeline":
    """Batches of this process's run of rows, the `process_index`-th of `process_count` equal ones.

    sources: opened sources by their name in the mixture; the others are opened by name.
    """
    mine = range(config.batch_size)[rows_of(config.batch_size, process_index, process_count)]
    shards = config.data_shards
    if shards % process_count and process_count % shards:
        raise UserError(f"data_shards {shards} neither divides {process_count} processes nor back")
    opened = open_mixture(
        config.mixture, split=config.split, data_dir=config.data_dir, sources=sources
    )
    cache = RenderedCache(int(config.cache_gb * 2**30)) if config.cache_gb else None
    if config.objective == "aed":
        make = (make_spoken if config.max_audio_chunks else make_shown)(tokenizer, processor)
    else:
        make = make_rendered(tokenizer, processor, style)
    parts = {}
    for name, source in opened.items():
        ever_new = getattr(source, "ever_new", False)  # what is read once is not kept
        parts[name] = Handles(RenderedSource(name, source, make, None if ever_new else cache))
    mixed = mix(
        config.mixture, parts, seed=config.seed, shuffle=config.shuffle, epochs=config.epochs
    )
    finish = Finish(config, processor.audio_window_chunks)
    mixed = mixed.random_map(finish, seed=config.seed)

    rows, shard_rows = len(mine), config.batch_size // shards

    def take(shard: int) -> tuple[int, range]:
        first = shard * shard_rows
        return shard_rows, range(max(mine.start - first, 0), min(mine.stop - first, shard_rows))

    if config.objective == "aed":
        end_token = tokenizer.special("endoftext")

        def collate(rows_):
            return collate_aed(
                [row[0] for row in rows_],
                batch_size=rows,
                budget=config.budget,
                end_token=end_token,
                processor=processor,
            )
    else:

        def collate(rows_):
            return collate_thinker(
                rows_,
                batch_size=rows,
                budget=config.budget,
                processor=processor,
                loss_weighting=config.loss_weighting,
            )

    read = [shard for shard in range(shards) if len(take(shard)[1])]
    batches = _Batches({s: _shard_rows(mixed, config, s) for s in read}, take, collate)
    dataset = grain.experimental.ThreadPrefetchIterDataset(
        batches, prefetch_buffer_size=config.prefetch_batches
    )
    fingerprint = order_fingerprint(
        config,
        [len(source) for source in opened.values()],
        but=("cache_gb", "threads", "prefetch_batches", "data_dir"),
    )
    return Pipeline(dataset, fingerprint, finish, config.budget)


def _close(stream: grain.DatasetIterator) -> None:
    stream.close()
    stream.close = lambda: None  # grain closes again in __del__, too late at the interpreter's end


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One state from those that several processes saved at the same step."""
    if len({(state["fingerprint"], state["step"]) for state in states}) != 1:
        raise UserError("data positions of different steps or data cannot be merged")
    shards = {shard: s for state in states for shard, s in state["shards"].items()}
    return {**states[0], "shards": shards}
