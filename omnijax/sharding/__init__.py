"""Meshes, logical axes, and `shard`: the only place that knows where arrays lie."""

from omnijax.sharding.mesh import MESH_AXES, make_mesh
from omnijax.sharding.params import (
    PARAM_AXES,
    flatten,
    param_axes,
    param_shardings,
    replicated,
    unflatten,
)
from omnijax.sharding.rules import LOGICAL_AXES, LogicalAxes, partition_spec, shard

__all__ = [
    "LOGICAL_AXES",
    "MESH_AXES",
    "PARAM_AXES",
    "LogicalAxes",
    "flatten",
    "make_mesh",
    "param_axes",
    "param_shardings",
    "partition_spec",
    "replicated",
    "shard",
    "unflatten",
]
