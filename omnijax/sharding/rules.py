"""Which axis of what lies on which axis of the mesh: one map, one table."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

MeshAxes = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogicalAxes:
    """Logical axis -> the mesh axes that it is split over (`()` = whole on every device).

    Activations and parameters never share a name for their width: `width` (activations) stays
    whole, so residual streams need no gathering; `embed` (parameters) is split over `fsdp` and
    gathered a layer at a time where it is used (ZeRO-3). `heads`, `kv_heads`, `ffn` and `vocab`
    are the output side of a first matmul and the input side of the second, so one split of them
    over `tensor` costs one all-reduce a block (Megatron). `experts` lie whole on the devices of
    `expert`, and since those devices also take part in `batch`, attention is not computed twice.
    They are multiplied where they lie by `expert_ffn`'s "dense" only: "blocks" gathers all of a
    layer's weights on each device, and so does "ragged" as compiled for TPU.
    `time` over `context` splits what is done to each token alone. The mixers gather a row's tokens:
    Gated DeltaNet and attention in "blocks" are then computed whole on each device of `context`.
    A batch's media are split by `batch` only; in their encoders `time` splits their tokens too.
    An axis that the mesh's size does not divide stays whole.
    """

    # activations
    batch: MeshAxes = ("data", "fsdp", "expert")
    time: MeshAxes = ("context",)
    width: MeshAxes = ()
    # parameters
    embed: MeshAxes = ("fsdp",)
    layers: MeshAxes = ()
    # both
    heads: MeshAxes = ("tensor",)
    kv_heads: MeshAxes = ("tensor",)
    head_dim: MeshAxes = ()
    ffn: MeshAxes = ("tensor",)
    vocab: MeshAxes = ("tensor",)
    experts: MeshAxes = ("expert",)

    def mesh_axes(self, name: str | None) -> MeshAxes:
        if name is None:
            return ()
        try:
            return getattr(self, name)
        except AttributeError:
            known = ", ".join(field.name for field in dataclasses.fields(self))
            raise ValueError(f"no logical axis {name!r}; there are {known}") from None


LOGICAL_AXES = LogicalAxes()


def partition_spec(
    shape: Sequence[int],
    axes: Sequence[str | None],
    mesh: Mesh | AbstractMesh,
    logical: LogicalAxes = LOGICAL_AXES,
) -> PartitionSpec:
    """The spec of an array of `shape`, one logical name a dimension (fewer: the last ones)."""
    if len(axes) > len(shape):
        raise ValueError(f"{len(axes)} logical axes {tuple(axes)} for shape {tuple(shape)}")
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    used: set[str] = set()
    spec: list[MeshAxes | None] = []
    for size, name in zip(shape, axes, strict=True):
        chosen: list[str] = []
        for axis in logical.mesh_axes(name):
            length = mesh.shape.get(axis, 1)
            whole = math.prod(mesh.shape[other] for other in chosen) * length
            if (
                length > 1
                and axis not in used
                and size % whole == 0
                and types[axis] == AxisType.Auto
            ):
                chosen.append(axis)
        used.update(chosen)
        spec.append(tuple(chosen) or None)
    return PartitionSpec(*spec)


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an activation by logical axes, `shard(x, "batch", "time", "width")`.

    Without a mesh (`jax.set_mesh`), or where all its axes are 1, nothing happens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec = partition_spec(x.shape, axes, mesh)
    if all(entry is None for entry in spec) and len(mesh.manual_axes) > 0:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
