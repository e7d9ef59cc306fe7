"""How fast a pipeline is, how well it packs, and whether a device of a given speed would wait.

python -m omnijax.data.measure --mixture=omniworld/transcribe=1,folder:mine=1 --step_ms=300
"""

import importlib.resources
import time
from collections.abc import Sequence

from absl import app, flags

from omnijax.data.config import PipelineConfig
from omnijax.data.pipeline import Pipeline, make_pipeline
from omnijax.errors import UserError
from omnijax.media.processor import nano_processor
from omnijax.text.tokenizer import Tokenizer


def measure(
    pipeline: Pipeline, *, batches: int, warm_up: int = 2, step_seconds: float = 0.0
) -> dict[str, float]:
    """`Pipeline.stats` over some batches, with the CPU time of a batch and an example.

    step_seconds: the time that a device would be busy with a batch, slept away. At 0 the
    pipeline is asked for all that it can give.
    """
    for _ in range(warm_up):
        next(pipeline)
    pipeline.reset_stats()
    next(pipeline)  # starts the clock
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        time.sleep(step_seconds)
        next(pipeline)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    stats = pipeline.stats()
    return {
        "batches_per_second": batches / seconds,
        "cpu_ms_per_batch": 1e3 * cpu / batches,
        **stats,
    }


MIXTURE = flags.DEFINE_list("mixture", ["omniworld=1"], "source=weight, separated by commas")
DATA_DIR = flags.DEFINE_string("data_dir", None, "where prepared data lies")
ROWS = flags.DEFINE_integer("rows", 8, "rows a batch")
TOKENS = flags.DEFINE_integer("tokens", 512, "tokens a row")
CHUNKS = flags.DEFINE_integer("audio_chunks", 24, "audio chunks a row")
PATCHES = flags.DEFINE_integer("patches", 288, "patches a row")
BATCHES = flags.DEFINE_integer("batches", 100, "batches to measure")
WARM_UP = flags.DEFINE_integer("warm_up", 5, "batches before; let them fill the cache")
STEP_MS = flags.DEFINE_float("step_ms", 0.0, "time of a training step to pretend")
CACHE_GB = flags.DEFINE_float("cache_gb", 4.0, "memory for rendered examples; 0: none")
THREADS = flags.DEFINE_integer("threads", 2, "that read and render")


def _source_and_weight(entry: str) -> tuple[str, float]:
    source, _, weight = entry.rpartition("=")
    try:
        return source, float(weight)
    except ValueError:
        raise UserError(f"--mixture: {entry!r} is not source=weight") from None


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        config = PipelineConfig(
            mixture=[_source_and_weight(entry) for entry in MIXTURE.value],
            data_dir=DATA_DIR.value,
            batch_size=ROWS.value,
            max_tokens=TOKENS.value,
            max_audio_chunks=CHUNKS.value,
            max_patches=PATCHES.value,
            cache_gb=CACHE_GB.value,
            threads=THREADS.value,
        )
        tokenizer = importlib.resources.files("omnijax") / "assets/nano/tokenizer.json"
        pipeline = make_pipeline(
            config, tokenizer=Tokenizer.from_file(str(tokenizer)), processor=nano_processor()
        )
        figures = measure(
            pipeline,
            batches=BATCHES.value,
            warm_up=WARM_UP.value,
            step_seconds=STEP_MS.value / 1e3,
        )
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    for name, value in figures.items():
        print(f"{name:20s} {value:10.3f}")


if __name__ == "__main__":
    app.run(main)
