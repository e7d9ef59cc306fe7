"""Meshes, logical axes, and `shard`: the only place that knows where arrays lie."""

from omnijax.sharding.mesh import MESH_AXES, make_mesh
from omnijax.sharding.rules import LOGICAL_AXES, LogicalAxes, partition_spec, shard

__all__ = ["LOGICAL_AXES", "MESH_AXES", "LogicalAxes", "make_mesh", "partition_spec", "shard"]
