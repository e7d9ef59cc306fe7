"""A kernel under a mesh: each device runs it on its own rows and heads."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from omnijax.sharding import partition_spec
from omnijax.typing import Array

Axes = tuple[str | None, ...]
ROWS, TOKENS, STEP = ("batch",), ("batch", None, "kv_heads"), ("batch", "kv_heads")


def on_each_device(
    kernel: Callable,
    args: tuple[Array, ...],
    axes: tuple[Axes, ...],
    outs: tuple[Axes, ...],
    interpret: bool,
) -> tuple[Array, ...]:
    """kernel(*args) in a shard_map over what of the mesh (`jax.set_mesh`) is not manual yet.

    No compiler splits a kernel: on several devices, the one for TPU refuses it and the one for GPU
    gathers all its arguments. Rows lie as "batch" and heads as "kv_heads", where the mesh divides
    the rows and the key heads; devices along its other axes all compute the same.

    Args:
      axes: the first dimensions of each argument, `ROWS`, `TOKENS` or `STEP`; args[1] are the keys.
      outs: the same of the outputs.
      interpret: the kernel is interpreted, which `shard_map`'s check of what varies does not bear.
    """
    # In a shard_map all vary over the same axes: a kernel's outputs say over which.
    varying = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in args))
    args = tuple(_vary(x, varying) for x in args)
    mesh = jax.sharding.get_abstract_mesh()
    free = set(mesh.axis_names) - set(mesh.manual_axes)
    if not free or mesh.size == 1:
        return kernel(*args)
    size = dict(zip(axes[1], args[1].shape, strict=False))
    where = dict(zip(STEP, partition_spec([size[name] for name in STEP], STEP, mesh), strict=True))
    specs = lambda all: tuple(PartitionSpec(*map(where.get, one)) for one in all)  # noqa: E731
    return jax.shard_map(
        kernel,
        in_specs=specs(axes),
        out_specs=specs(outs),
        axis_names=free,
        check_vma=not interpret,
    )(*args)


def _vary(x, axes):
    missing = axes - jax.typeof(x).manual_axis_type.varying
    return jax.lax.pcast(x, tuple(missing), to="varying") if missing else x
