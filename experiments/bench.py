"""Times the hot spots on this machine and keeps the figures as JSON.

    python experiments/bench.py                    (make bench)
    python experiments/bench.py --quick --only=gdn,mel

How it measures stands in _timing.py. "% of limit" is the least time that the mathematics could take
at this run's best matrix product and memory copy, over the median. It counts operations that every
form needs, so that a form which does more of them shows a smaller share. "MiB" is the memory that
the compiled program needs beside its arguments. `attention` is this repository's own: where it
loses to Gated DeltaNet, a fused kernel may still win. The tables beside torch need it and
transformers, and one of them two host devices:

    .venv-parity/bin/python experiments/bench.py --only=torch,torch_decode
    XLA_FLAGS="--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false" \
        .venv-parity/bin/python experiments/bench.py --only=torch_sharded
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments import _bench_gdn, _bench_torch  # noqa: E402
from experiments._main import launch  # noqa: E402
from omnijax.errors import UserError  # noqa: E402

QUICK = flags.DEFINE_boolean("quick", False, "Fewer lengths and rounds: a look, not a figure.")
ONLY = flags.DEFINE_list("only", None, "Only these tables, separated by commas.")
FOLDER = flags.DEFINE_string("folder", "bench", "Where the JSON goes, one file a table.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is timed, and how often."""

    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    heads: int = 8
    head_dim: int = 128
    growth_lengths: tuple[int, ...] = (2048, 4096, 8192, 16_384, 32_768, 65_536)
    stack_layers: int = 24
    stack_batches: tuple[int, ...] = (1, 64)
    stack_context: int = 1024
    conv: tuple[int, int] = (4096, 3072)  # tokens, channels
    expert_tokens: tuple[int, ...] = (4096, 1)
    train_rows: int = 2
    train_tokens: int = 1024
    decode_tokens: int = 32
    seconds: float = 3.0  # of the clip
    rounds: int = 9
    sample_seconds: float = 0.1
    model: str = "nano"


QUICK_SIZES = Sizes(
    lengths=(512, 2048),
    growth_lengths=(2048, 8192),
    train_rows=1,
    decode_tokens=16,
    rounds=5,
    sample_seconds=0.02,
)


def conv(sizes: Sizes) -> list[list]:
    """The depthwise causal convolution; bound by memory."""
    from experiments._timing import forms, normal
    from omnijax import ops

    length, channels = sizes.conv
    x, weight = normal(1, length, channels), normal(4, channels)
    gbyte = 2 * 4 * x.size / 1e9
    tokens = {"per": length, "unit": "token"}
    name = f"causal conv, T {length}, D {channels}"
    return [forms(name, lambda *xs: ops.causal_conv(*xs)[0], x, weight, gbyte=gbyte, **tokens)]


def experts(sizes: Sizes) -> list[list]:
    """nano's mixture of experts: the default form beside the definition."""
    import jax.numpy as jnp
    import numpy as np

    from experiments._timing import forms, normal
    from omnijax.models import presets
    from omnijax.ops.experts import expert_ffn

    c = getattr(presets, sizes.model)().decoder
    gate, up = (normal(c.experts, c.width, c.expert_ffn) for _ in range(2))
    down = normal(c.experts, c.expert_ffn, c.width)
    groups = []
    for tokens in sizes.expert_tokens:
        rng = np.random.default_rng(0)
        chosen = np.argsort(rng.random((tokens, c.experts)), 1)[:, : c.experts_per_token]
        chosen, weights = jnp.asarray(chosen, jnp.int32), jnp.full(chosen.shape, 0.5)
        gflop = 6 * c.width * c.expert_ffn * tokens * c.experts_per_token / 1e9
        used = min(c.experts, tokens * c.experts_per_token)
        gbyte = 4 * (3 * used * c.width * c.expert_ffn + 2 * tokens * c.width) / 1e9
        group = []
        for form in (None, "dense"):

            def run(x, gate, up, down, form=form, chosen=chosen, weights=weights):
                return expert_ffn(x, gate, up, down, chosen, weights, implementation=form)

            name = f"experts {form or 'as chosen'}, {tokens} tokens"
            x = normal(tokens, c.width)
            limits = {"gflop": gflop, "gbyte": gbyte, "per": tokens, "unit": "token"}
            group += forms(name, run, x, gate, up, down, **limits)
        groups.append(group)
    return groups


def train(sizes: Sizes) -> list[list]:
    """A step of the last stage on rows as full of media as the recipe's, and its parts."""
    import jax

    from experiments._timing import Case, Program
    from omnijax.models import presets
    from omnijax.models.thinker import Thinker
    from omnijax.train.objectives.lm import lm_objective
    from omnijax.train.stages import OptimizerConfig
    from omnijax.train.state import init_params, init_state, make_optimizer, make_train_step

    config = getattr(presets, sizes.model)()
    batch = jax.device_put(_full_rows(config, sizes))
    objective = lm_objective(Thinker(config), batch)
    params = jax.jit(lambda: init_params(objective, 0))()

    def total(params, batch):
        return objective.loss(params, batch, None).total

    def update(name: str):
        optimizer = make_optimizer(OptimizerConfig(name=name), 1000)
        return Program.of(optimizer.update, params, optimizer.init(params), params)

    def step():
        options, everything = OptimizerConfig(name="muon"), (".*",)
        optimizer = make_optimizer(options, 1000)
        own = jax.tree.map(lambda x: x.copy(), params)  # a step is given its state
        kept = [init_state(own, everything, optimizer, seed=0)]
        run = make_train_step(objective, everything, optimizer, options, steps=1000)

        def call():
            kept[0], metrics = run(kept[0], batch)
            return metrics["loss"]

        return call

    tokens = {"per": sizes.train_rows * sizes.train_tokens, "unit": "token"}
    rows = f"{sizes.model}, {sizes.train_rows} rows of {sizes.train_tokens}"
    return [
        [
            Case(f"{rows}: loss", lambda: Program.of(total, params, batch), **tokens),
            Case(f"{rows}: gradient", lambda: Program.of(jax.grad(total), params, batch), **tokens),
            Case(f"{rows}: update by AdamW", lambda: update("adamw")),
            Case(f"{rows}: update by Muon", lambda: update("muon")),
            Case(f"{rows}: step with Muon", step, **tokens),
        ]
    ]


def _full_rows(config, sizes: Sizes):
    """Random rows: a quarter of the tokens are sound, an eighth are pictures, all are targets."""
    import numpy as np

    from omnijax.data.batch import TrainBatch
    from omnijax.models.thinker import AudioInputs, ThinkerInputs, VisionInputs

    rng = np.random.default_rng(0)
    rows, length = sizes.train_rows, sizes.train_tokens
    aut, vision = config.aut, config.vision
    chunks = length // 4 // aut.tokens_per_chunk
    side, merge = 3 * vision.spatial_merge, vision.merge_unit
    pictures = max(1, length // 8 // (side**2 // merge))
    patches = pictures * side**2
    tokens = rng.integers(0, config.vocab_size // 2, (rows, length))
    tokens[:, : chunks * aut.tokens_per_chunk] = config.audio_token_id
    tokens[:, length - patches // merge :] = config.image_token_id
    place = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1)
    blocks = place.reshape(3, side // 3, 3, side // 3, 2).swapaxes(1, 2).reshape(-1, 2)

    def every_row(x):
        return np.broadcast_to(x, (rows, *np.shape(x))).astype(np.int32)

    mel = rng.standard_normal((rows, chunks, aut.chunk_frames, aut.mel_bins))
    audio = AudioInputs(
        mel.astype(np.float32),
        np.full((rows, chunks), aut.chunk_frames, np.int32),
        every_row(1 + np.arange(chunks) // 4),
    )
    pixels = rng.standard_normal((rows, patches, vision.patch_dim)).astype(np.float32)
    seen = VisionInputs(
        pixels,
        every_row(np.tile(blocks, (pictures, 1))),
        every_row(np.full((patches, 2), side)),
        every_row(1 + np.arange(patches) // side**2),
    )
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (3, rows, length)).copy()
    ones = np.ones((rows, length))
    inputs = ThinkerInputs(tokens.astype(np.int32), positions, ones.astype(np.int32), audio, seen)
    targets = rng.integers(0, config.vocab_size // 2, (rows, length)).astype(np.int32)
    return TrainBatch(inputs, targets, ones.astype(np.float32))


def decode(sizes: Sizes) -> list[list]:
    """Text, token by token, after a short context; the limit is reading each weight used once."""
    import jax
    import jax.numpy as jnp

    from experiments._timing import Case
    from omnijax.models import presets
    from omnijax.models.thinker import Thinker, text_inputs
    from omnijax.sharding import flatten

    config = getattr(presets, sizes.model)()
    model, c = Thinker(config), config.decoder
    prompt = text_inputs(jnp.ones((1, 64), jnp.int32))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), prompt)["params"])
    read = ("decoder/", "embed/" if config.tie_embeddings else "lm_head/")
    used = 0.0
    for path, leaf in flatten(shapes).items():
        share = c.experts_per_token / c.experts if "/moe/experts" in path else 1
        used += leaf.size * share * path.startswith(read)

    def make():
        from omnijax.generate.text import TextGenerator

        init = jax.jit(lambda: model.init(jax.random.key(0), prompt)["params"])
        text = TextGenerator(model, init(), stop_ids=(), max_len=64 + sizes.decode_tokens)
        kept = [text.prefill(text.start(1), prompt)]
        length = jnp.array(kept[0].cache.length)

        def call():
            state, _ = text.decode(kept[0], sizes.decode_tokens)
            # Back to the same place in the text: the slots behind it are written anew.
            kept[0] = state._replace(cache=state.cache._replace(length=jnp.array(length)))
            return state.logits

        return call

    name = f"{sizes.model}, {sizes.decode_tokens} tokens"
    gbyte = 4 * used * sizes.decode_tokens / 1e9
    return [[Case(name, make, sizes.decode_tokens, "token", gbyte=gbyte)]]


def mel(sizes: Sizes) -> list[list]:
    """The front end on one clip, from samples on the host to frames on the host."""
    import numpy as np

    from experiments._timing import Case
    from omnijax.media import log_mel

    samples = np.sin(np.arange(int(16_000 * sizes.seconds)) / 9).astype(np.float32)
    return [[Case(f"log-mel of {sizes.seconds:g} s", lambda: lambda: log_mel(samples))]]


TABLES = {
    f.__name__: f
    for f in (*_bench_gdn.TABLES, *_bench_torch.TABLES, conv, experts, train, decode, mel)
}


def run(names: list[str], sizes: Sizes, folder: Path, show: Callable = print) -> None:
    """Measures, shows and writes the tables."""
    from experiments._timing import REJECT, Machine, environment, measure

    machine = Machine()
    for name in names:
        if reason := _bench_torch.why_not(name):
            show(reason)
            continue
        about = environment()
        rows = []
        rounds = min(sizes.rounds, _bench_gdn.MOST_ROUNDS.get(name, sizes.rounds))
        for group in TABLES[name](sizes):
            rows += measure(group, machine, rounds=rounds, sample_seconds=sizes.sample_seconds)
        limits = {
            "gflop_per_second": machine.gflop_per_second,
            "gbytes_per_second": machine.gbytes_per_second,
        }
        show(_table(name, rows, limits))
        slopes = _bench_gdn.slopes(rows) if name == "growth" else {}
        for what, exponent in slopes.items():
            show(f"{what} grows with length to the power {exponent:.3f}" if exponent else what)
        result = {
            "table": name,
            "what": TABLES[name].__doc__,
            "environment": about,
            "sizes": dataclasses.asdict(sizes),
            "rejected_over": REJECT,
            "limits": limits,
            "slopes": slopes,
            "control_milliseconds": [1000 * seconds for seconds in machine.controls],
            "rows": [{**r._asdict(), "milliseconds": r.milliseconds._asdict()} for r in rows],
        }
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def _table(name: str, rows: list, limits: dict):
    from rich.table import Table

    peak = f"{limits['gflop_per_second']:.0f} GFLOP/s, {limits['gbytes_per_second']:.0f} GB/s"
    table = Table(title=f"{name}: {TABLES[name].__doc__}", caption=f"limits: {peak}")
    columns = ("ms", "quartiles", "range", "units/s", "% of limit", "MiB", "1st call s", "n")
    for column in ("", *columns):
        # Where the terminal is narrow, figures fold before a name does.
        table.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for row in rows:
        ms = row.milliseconds
        table.add_row(
            row.name,
            f"{ms.median:.3g}",
            f"{ms.quarter:.3g}-{ms.three_quarters:.3g}",
            f"{ms.least:.3g}-{ms.most:.3g}",
            f"{row.per_second:,.0f} {row.unit}s",
            "" if row.share_of_limit is None else f"{100 * row.share_of_limit:.0f}",
            "" if row.temporary_bytes is None else f"{row.temporary_bytes / 2**20:.1f}",
            f"{row.first_call_seconds:.1f}",
            f"{row.kept}" + (f" of {row.kept + row.rejected}" if row.rejected else ""),
        )
    return table


def main() -> int:
    names = list(ONLY.value or TABLES)
    for name in names:
        if name not in TABLES:
            raise UserError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
    from rich.console import Console

    folder = Path(FOLDER.value)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    console = Console(width=None if sys.stdout.isatty() else 130)
    run(names, QUICK_SIZES if QUICK.value else Sizes(), folder, console.print)
    console.print(f"The figures are in {folder}/.")
    return 0


if __name__ == "__main__":
    launch(main)
