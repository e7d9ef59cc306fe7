"""A training stage is data: what trains, from where, on what, how long."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from omnijax.errors import UserError

WEIGHTS = "weights:"  # in Stage.starts_from
OBJECTIVES = ("lm", "aed", "codec", "talker")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW or Muon under a warm-up and a schedule; `steps` are optimizer steps."""

    name: str = "adamw"  # or muon: matrices by Muon, everything else by AdamW
    learning_rate: float = 1e-3  # the peak
    schedule: str = "cosine"  # or wsd, constant
    warmup_steps: int = 100
    decay_fraction: float = 0.2  # wsd: the last part of the stage, in which the rate falls
    end_fraction: float = 0.05  # of the peak, at the end
    b1: float = 0.9
    b2: float = 0.95
    muon_beta: float = 0.95  # momentum
    eps: float = 1e-8
    weight_decay: float = 0.1
    no_decay: tuple[str, ...] = (
        r"norm",
        r"scale$",
        r"bias$",  # dt_bias too
        r"A_log$",
        r"embed/(table|embedding)$",
        r"positions$",
    )
    rate_factors: tuple[str, ...] = ()  # "pattern=factor": a lower (or higher) rate for some paths
    clip: float = 1.0  # global norm; 0 = none
    ema: float = 0.0  # decay of an average of the parameters; 0 = none

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "muon"):
            raise UserError(f"optimizer name must be adamw or muon, got {self.name!r}")
        if self.schedule not in ("cosine", "wsd", "constant"):
            raise UserError(f"schedule must be cosine, wsd or constant, got {self.schedule!r}")
        if self.learning_rate <= 0:
            raise UserError(f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("clip", "weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise UserError(f"optimizer {name} is {getattr(self, name)}, it must be 0 or more")
        for name in ("end_fraction", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"optimizer {name} is {getattr(self, name)}, it must be 0 to 1")
        for name in ("b1", "b2", "muon_beta", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not self.eps > 0:
            raise UserError(f"optimizer eps is {self.eps}, it must be positive")
        for entry in self.rate_factors:
            try:
                re.compile(entry.rpartition("=")[0])
                float(entry.rpartition("=")[2])
            except (ValueError, re.error):
                raise UserError(f"rate_factors: {entry!r} is not pattern=factor") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Changes to the input during training; those to mel are drawn for every attention window.

    Frequency warp and shift stand for another speaker's vocal tract; masks are SpecAugment's.
    """

    frequency_masks: int = 0
    frequency_width: int = 16  # mel bins, at most
    time_masks: int = 0  # in every chunk
    time_width: int = 10  # mel frames, at most
    warp: float = 0.0  # source bin = bin * (1 + u), |u| <= warp
    shift: float = 0.0  # ... + v, |v| <= shift bins
    gain_db: float = 0.0  # |gain| <= gain_db
    noise_db: float = 0.0  # white noise up to this far above the silence floor
    silence: float = -0.625  # mel value of silence: (floor_log10 + 4) / 4, also fills the masks
    answer_noise: float = 0.0  # share of the answer's input tokens that other answers' replace

    def __post_init__(self) -> None:
        if not 0 <= self.answer_noise < 1:
            raise UserError(f"answer_noise must be in [0, 1), got {self.answer_noise}")
        for field in dataclasses.fields(self):
            if field.name != "silence" and not getattr(self, field.name) >= 0:
                value = getattr(self, field.name)
                raise UserError(f"augment {field.name} is {value}, it must be 0 or more")

    @property
    def active(self) -> bool:
        """Whether mel is changed."""
        return any(
            (
                self.frequency_masks,
                self.time_masks,
                self.warp,
                self.shift,
                self.gain_db,
                self.noise_db,
            )
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One line of the recipe."""

    name: str
    objective: str = "lm"  # or aed, codec, talker
    trains: tuple[str, ...] = (".*",)  # regular expressions, searched in parameter paths
    # "stage" or "path prefix=stage"; "weights:FOLDER", of weights or a run (or weights:nano,
    # weights:nano/talker, weights:nano/codec) in place of a stage; later entries win.
    starts_from: tuple[str, ...] = ()
    mixture: tuple[str, ...] = ("omniworld=1",)  # "source=share of the examples"
    steps: int = 1000
    batch: int = 8  # rows
    tokens: int = 512  # a row
    audio_chunks: int = 24  # a row
    patches: int = 288  # a row
    window_chunks: tuple[int, ...] = ()  # AuT windows to draw from; () = the model's own
    on_too_long: str = "error"  # or "drop"
    loss_weighting: str = "token"  # or "sqrt": an answer of n tokens counts sqrt(n), not n
    accumulate: int = 1  # microbatches a step
    router_balance: float = 1e-2
    router_z: float = 1e-3
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("steps", "batch", "tokens", "accumulate"):
            if getattr(self, field) < 1:
                raise UserError(f"stage {self.name}: {field} must be positive")
        for field in ("router_balance", "router_z"):
            if not getattr(self, field) >= 0:
                raise UserError(f"stage {self.name}: {field} must not be negative")
        if self.batch % self.accumulate:
            raise UserError(
                f"stage {self.name}: batch {self.batch} is not a multiple of "
                f"accumulate {self.accumulate}"
            )
        if self.objective not in OBJECTIVES:
            raise UserError(
                f"stage {self.name}: no objective {self.objective!r} ({', '.join(OBJECTIVES)})"
            )
        for pattern in self.trains:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"stage {self.name}: trains {pattern!r}: {error}") from None

    def weights(self) -> tuple[tuple[str, float], ...]:
        """(source, weight) pairs of the mixture."""
        pairs = []
        for entry in self.mixture:
            source, _, weight = entry.rpartition("=")
            try:
                pairs.append((source, float(weight)))
            except ValueError:
                raise UserError(f"mixture: {entry!r} is not source=weight") from None
        return tuple(pairs)

    def sources(self) -> list[tuple[str, str]]:
        """(path prefix, stage) pairs; the prefix "" stands for every parameter."""
        return [
            tuple(entry.split("=", 1))  # type: ignore[misc]
            if "=" in entry and not entry.startswith(WEIGHTS)
            else ("", entry)
            for entry in self.starts_from
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a run behaves, none of which changes what is learned: it may differ on resuming."""

    log_every: int = 20  # steps; several processes look at signals and clocks as often
    eval_every: int = 0  # steps; 0 = at the end only
    eval_batches: int = 8
    save_every: int = 0  # steps; 0 = by time only
    save_minutes: float = 5.0  # 0 = never by time
    keep: int = 2  # checkpoints
    time_limit_minutes: float = 0.0  # stop with a checkpoint after this long; 0 = never
    eval_split: str = "validation"  # "" = no evaluation
    data_dir: str = ""  # where prepared data lies; "" = the default place
    threads: int = -1  # that read and render data; -1: as many as the cores, 16 at most
    cache_gb: float = 8.0  # memory for rendered examples; at most 30 % of the machine's
    progress: bool = True

    def __post_init__(self) -> None:
        for field in ("log_every", "keep"):
            if getattr(self, field) < 1:
                raise UserError(f"run.{field} is {getattr(self, field)}, it must be at least 1")
        for field in ("eval_every", "eval_batches", "save_every", "save_minutes", "cache_gb",
                      "time_limit_minutes"):  # fmt: skip
            if getattr(self, field) < 0:
                raise UserError(f"run.{field} is {getattr(self, field)}, it must not be negative")

    @property
    def reading_threads(self) -> int:
        return min(os.cpu_count() or 1, 16) if self.threads == -1 else self.threads


def from_dict(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """Builds a (nested) config dataclass from plain values; unknown fields are named.

    A tuple may come as one comma-separated string, as flags give it: "gdn,gdn,gdn,full".
    """
    import types
    import typing

    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(
            f"no config field {where}{unknown[0]}; {where or cls.__name__} has {', '.join(fields)}"
        )

    def build(hint: Any, value: Any, name: str) -> Any:
        if value is None:
            return None
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            options = [option for option in typing.get_args(hint) if option is not type(None)]
            hint = next(
                (o for o in options if dataclasses.is_dataclass(o)),
                next((o for o in options if typing.get_origin(o) is tuple), options[0]),
            )
        if dataclasses.is_dataclass(hint):
            if isinstance(value, Mapping):
                return from_dict(hint, value, f"{where}{name}.")
            return value
        if hint is tuple or typing.get_origin(hint) is tuple:
            args = typing.get_args(hint)
            if isinstance(value, str):
                value = [part.strip() for part in value.split(",") if part.strip()]
            item = args[0] if args else str
            return tuple(build(item, part, name) if item is not Any else part for part in value)
        if hint in (int, float) and isinstance(value, str):
            try:
                return hint(value)
            except ValueError:
                raise UserError(
                    f"config field {where}{name}: {value!r} is no {hint.__name__}"
                ) from None
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if typing.get_origin(hint) in (dict, Mapping) or isinstance(value, Mapping):
            return dict(value)
        return value

    return cls(**{name: build(fields[name], value, name) for name, value in values.items()})


def to_dict(config: Any) -> Any:
    """The inverse of `from_dict`: nested dicts of plain values (tuples of words as one string)."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {name: to_dict(value) for name, value in config.items()}
    if isinstance(config, tuple | list):
        values = [to_dict(value) for value in config]
        if values and all(isinstance(value, str) and "," not in value for value in values):
            return ",".join(values)
        return tuple(values)
    if isinstance(config, type) or hasattr(config, "dtype") and hasattr(config, "name"):
        import numpy as np

        return np.dtype(config).name
    return config
