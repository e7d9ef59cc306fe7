"""Parameters: path pattern -> logical axes -> where they lie."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omnijax.sharding.rules import LOGICAL_AXES, LogicalAxes, partition_spec

Axes = tuple[str | None, ...]

# The first pattern found in a parameter's path ("decoder/periods/0/mixer/out/w") gives the logical
# axes of its LAST dimensions; dimensions before them (stacked layers) stay whole.
PARAM_AXES: tuple[tuple[str, Axes], ...] = ()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict of "a/b/c" paths."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}/"))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def param_axes(path: str) -> Axes | None:
    """The logical axes of the parameter at `path`; None: no pattern names it."""
    for pattern, axes in PARAM_AXES:
        if re.search(pattern, path):
            return axes
    return None


def param_shardings(
    shapes: Mapping[str, Any], mesh: Mesh, logical: LogicalAxes = LOGICAL_AXES
) -> dict[str, Any]:
    """A NamedSharding for every leaf of `jax.eval_shape(model.init, ...)["params"]`."""

    def sharding(path: str, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = param_axes(path) or ()
        axes = axes[len(axes) - min(len(axes), len(leaf.shape)) :]
        return NamedSharding(mesh, partition_spec(leaf.shape, axes, mesh, logical))

    return unflatten({path: sharding(path, leaf) for path, leaf in flatten(shapes).items()})


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())
