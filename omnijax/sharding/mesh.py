"""Device meshes: five named axes, any of which may be 1."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from omnijax.errors import UserError

MESH_AXES = ("data", "fsdp", "context", "tensor", "expert")


def make_mesh(
    *,
    data: int = -1,
    fsdp: int = 1,
    context: int = 1,
    tensor: int = 1,
    expert: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh over `devices` (all by default); one axis may be -1: whatever is left.

    Axis types are Auto: the compiler places what `shard` does not pin.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = dict(zip(MESH_AXES, (data, fsdp, context, tensor, expert), strict=True))
    free = [name for name, size in sizes.items() if size == -1]
    bad = {name: size for name, size in sizes.items() if size < 1 and size != -1}
    if bad or len(free) > 1:
        raise UserError(f"mesh axes must be positive, at most one of them -1, got {sizes}")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = max(1, len(devices) // fixed)
    total = math.prod(sizes.values())
    if total != len(devices):
        raise UserError(f"mesh {sizes} needs {total} devices, {len(devices)} are there")
    grid = np.asarray(devices).reshape(tuple(sizes.values()))
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
