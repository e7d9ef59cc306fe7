"""Several sources read as one: opened by name, shuffled, repeated, mixed by weight.

The order is a function of the config alone, which a fingerprint names.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import grain

from omnijax.data.sources import open_sources

Mixture = Sequence[tuple[str, float]]  # names of sources, and how often each is drawn from


def open_mixture(
    mixture: Mixture,
    *,
    split: str,
    data_dir: str | None = None,
    sources: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The sources of a mixture by name, in its order; those in ``sources`` are open already."""
    names = [name for name, _ in mixture]
    given = {name: sources[name] for name in names if name in (sources or {})}
    others = [name for name in names if name not in given]
    given |= open_sources(others, split=split, data_dir=data_dir)
    return {name: given[name] for name in names}


def mix(
    mixture: Mixture,
    parts: Mapping[str, Any],
    *,
    seed: int,
    shuffle: bool,
    epochs: int | None = None,
) -> grain.MapDataset:
    """Random-access ``parts`` by name -> one dataset that repeats ``epochs`` times (None: ever).

    A source's order does not depend on which others stand beside it.
    """
    datasets = []
    for name, _ in mixture:
        dataset = grain.MapDataset.source(parts[name])
        if shuffle:
            digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
            dataset = dataset.shuffle(seed=int.from_bytes(digest[:4], "little"))
        datasets.append(dataset.repeat(epochs))
    if len(datasets) == 1:
        return datasets[0]
    return grain.MapDataset.mix(datasets, [weight for _, weight in mixture])


def order_fingerprint(config: Any, known: Sequence[Any], but: Sequence[str]) -> str:
    """Of everything that decides the order: a config's fields but those named, and what is known
    of its sources (their lengths, say)."""
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in but}
    text = json.dumps([fields, list(known)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
