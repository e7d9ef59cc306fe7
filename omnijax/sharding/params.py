"""Parameters: path pattern -> logical axes -> where they lie."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from omnijax.sharding.rules import LOGICAL_AXES, LogicalAxes, partition_spec

Axes = tuple[str | None, ...]

# The first pattern found in a parameter's path ("decoder/periods/layer_0/attention/out/w") gives
# the logical axes of its LAST dimensions; dimensions before them (stacked layers) stay whole.
# Every parameter of every module has its line: tests/sharding looks.
PARAM_AXES: tuple[tuple[str, Axes], ...] = (
    # the codec and what trains it: millions of parameters, not billions
    (r"^(codec|codebook_usage|judges|distil|envelope|pitch)(/|$)", ()),
    # embeddings and the output
    (r"^embed/table$", ("vocab", "embed")),
    (r"^aed/embed/embedding$", ("vocab", "embed")),
    (r"^lm_head/w$", ("embed", "vocab")),
    (r"^vision/positions$", (None, "embed")),
    # the Talker's tables, head and projections
    (r"^(text|codec)_embed/table$", ("vocab", "embed")),
    (r"^codec_head/w$", ("embed", "vocab")),
    (r"^mtp/embed$", (None, "vocab", "embed")),
    (r"^mtp/head$", (None, "embed", "vocab")),
    (r"^(mtp/project|hidden_projection|text_projection)/w$", ("embed", None)),
    # norms, decays, steps: small, whole everywhere
    (r"norm(_[a-z]+)?/(scale|bias)$", ()),
    (r"(A_log|dt_bias)$", ("heads",)),
    # the hybrid decoder
    (r"attention/(q|gate)/w$", ("embed", "heads", "head_dim")),
    (r"attention/[kv]/w$", ("embed", "kv_heads", "head_dim")),
    (r"(attention|gdn)/out/w$", ("heads", "head_dim", "embed")),
    (r"gdn/[qk]/w$", ("embed", "kv_heads", "head_dim")),
    (r"gdn/[vz]/w$", ("embed", "heads", "head_dim")),
    (r"gdn/[ab]/w$", ("embed", "heads")),
    (r"gdn/conv_[qk]$", (None, "kv_heads", "head_dim")),
    (r"gdn/conv_v$", (None, "heads", "head_dim")),
    (r"moe/router$", ("embed", None)),
    (r"moe/experts_(gate|up)$", ("experts", "embed", "ffn")),
    (r"moe/experts_down$", ("experts", "ffn", "embed")),
    (r"shared_gate/w$", ("embed", None)),
    (r"(gate|up)/w$", ("embed", "ffn")),
    (r"down/w$", ("ffn", "embed")),
    # the encoders, and the decoder of AED pretraining
    (r"(qkv|cross_kv)/kernel$", ("embed", None, "heads", "head_dim")),
    (r"cross_q/kernel$", ("embed", "heads", "head_dim")),
    (r"(qkv|cross_q|cross_kv)/bias$", ("heads", "head_dim")),
    (r"(^|/|self_|cross_)out/kernel$", ("heads", "head_dim", "embed")),
    (r"(up|fc_1|proj_1|patch_embed)/kernel$", ("embed", "ffn")),
    (r"(up|fc_1|proj_1|patch_embed)/bias$", ("ffn",)),
    (r"(down|fc_2|proj_2)/kernel$", ("ffn", "embed")),
    (r"(down|fc_2|proj_2|out)/bias$", ()),
    (r"stem/conv_\d+/kernel$", (None, None, None, "embed")),
    (r"stem/conv_\d+/bias$", ()),
    (r"stem/conv_out/kernel$", (None, "embed")),
)


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
    shapes: Mapping[str, Any], mesh: Mesh | AbstractMesh, logical: LogicalAxes = LOGICAL_AXES
) -> dict[str, Any]:
    """A NamedSharding for every leaf of `jax.eval_shape(model.init, ...)["params"]`."""

    def sharding(path: str, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = param_axes(path) or ()
        return NamedSharding(mesh, partition_spec(leaf.shape, axes, mesh, logical))

    return unflatten({path: sharding(path, leaf) for path, leaf in flatten(shapes).items()})


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())
