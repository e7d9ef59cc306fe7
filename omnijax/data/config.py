"""What a pipeline is asked for, checked when it is written down."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from omnijax.data.batch import RowBudget
from omnijax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """What is trained on, in what order, in what shape.

    mixture: (source, weight) pairs or a mapping; sources as in `sources.open_source`. A weight is
    the share of examples, not of tokens.
    """

    mixture: Sequence[tuple[str, float | int]] | Mapping[str, float | int] = (("omniworld", 1.0),)
    split: str = "train"
    data_dir: str | None = None
    objective: str = "lm"  # "lm": packed TrainBatch; "aed": AedBatch, one clip or picture a row
    batch_size: int = 8  # rows over all processes
    max_tokens: int = 512
    max_audio_chunks: int = 24
    max_patches: int = 288
    seed: int = 0
    shuffle: bool = True
    epochs: int | None = None  # None: for ever
    on_too_long: str = "error"  # or "drop"
    loss_weighting: str = "token"  # or "sqrt": an answer of n tokens counts sqrt(n), not n
    window_chunks: tuple[int, ...] = ()  # AuT windows to sample from, a draw an example
    stamp_variants: int = 0  # random time stamps in sound: so many versions an example; 0: none
    packing_rows: int = 32  # rows that are packed together; more rows waste less
    data_shards: int = 1  # streams packed apart; processes share them out (see Pipeline)
    cache_gb: float | int = 4.0  # memory for rendered examples; 0 renders anew each epoch
    threads: int = 2  # that read and render; 0: the thread that batches does it
    prefetch_batches: int = 4

    def __post_init__(self):
        pairs = self.mixture.items() if isinstance(self.mixture, Mapping) else self.mixture
        mixture = tuple((str(name), float(weight)) for name, weight in pairs)
        object.__setattr__(self, "mixture", mixture)
        object.__setattr__(self, "window_chunks", tuple(self.window_chunks))
        if not mixture:
            raise UserError("the mixture is empty: name at least one source")
        for name, weight in mixture:
            if not (weight > 0 and np.isfinite(weight)):
                raise UserError(f"mixture weight of {name!r} is {weight}, it must be positive")
        names = [name for name, _ in mixture]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"the mixture names {twice} twice")
        for field in ("batch_size", "packing_rows", "data_shards", "prefetch_batches"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} is {getattr(self, field)}, it must be at least 1")
        if self.threads < 0:
            raise UserError(f"threads is {self.threads}, it must not be negative")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"epochs is {self.epochs}, it must be at least 1, or None for ever")
        if self.on_too_long not in ("error", "drop"):
            raise UserError(f'on_too_long is {self.on_too_long!r}, it must be "error" or "drop"')
        if self.loss_weighting not in ("token", "sqrt"):
            raise UserError(
                f'loss_weighting is {self.loss_weighting!r}, it must be "token" or "sqrt"'
            )
        if self.objective not in ("lm", "aed"):
            raise UserError(f'objective is {self.objective!r}, it must be "lm" or "aed"')
        if self.objective == "aed" and bool(self.max_audio_chunks) == bool(self.max_patches):
            raise UserError(
                'objective "aed" trains one encoder: one of max_audio_chunks '
                f"({self.max_audio_chunks}) and max_patches ({self.max_patches}) must be 0"
            )
        if any(window < 1 for window in self.window_chunks):
            raise UserError(f"window_chunks is {self.window_chunks}, each must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}, it must be between 0 and 2**32 - 1")
        if self.cache_gb < 0:
            raise UserError(f"cache_gb is {self.cache_gb}, it must not be negative")
        if self.batch_size % self.data_shards:
            raise UserError(
                f"batch_size {self.batch_size} is not a multiple of data_shards {self.data_shards}"
            )
        if self.epochs is not None and self.data_shards > 1:
            raise UserError("a number of epochs needs data_shards=1: shards end at different steps")
        if self.stamp_variants < 0:
            raise UserError(f"stamp_variants is {self.stamp_variants}, it must not be negative")
        _ = self.budget  # checks itself

    @property
    def budget(self) -> RowBudget:
        return RowBudget(
            max_tokens=self.max_tokens,
            max_audio_chunks=self.max_audio_chunks,
            max_patches=self.max_patches,
        )
