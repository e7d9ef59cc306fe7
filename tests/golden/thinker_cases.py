"""Sizes, weights and inputs of the Thinker's golden file, and the names of the released weights.

Weights are drawn from each parameter's path, so a golden file holds outputs only.
"""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.nn import DecoderConfig, Embed, HybridDecoder

CONFIG = DecoderConfig(
    width=32,
    layers=8,
    heads=4,
    kv_heads=2,
    head_dim=24,
    rope_theta=1000.0,
    partial_rotary=0.5,
    mrope_sections=(2, 2, 2),
    gdn_key_heads=2,
    gdn_value_heads=4,
    gdn_key_dim=8,
    gdn_value_dim=12,
    gdn_chunk=16,
    experts=6,
    experts_per_token=2,
    expert_ffn=20,
    shared_expert_ffn=28,
)
DENSE = dataclasses.replace(CONFIG, layers=4, experts=0, experts_per_token=0, ffn=40)
VOCAB, BATCH, LENGTH = 50, 2, 70  # more than the 64 tokens of the released class's chunk
VALID = (70, 45)  # tokens of each row; padding stands on the right

# Released name: (our names, how they become one released tensor). The same table reads
# qwen3_5_moe and, with "mlp." of dense layers, qwen3_5.
LAYER = {
    "input_layernorm.weight": (("mixer_norm/scale",), "same"),
    "post_attention_layernorm.weight": (("ffn_norm/scale",), "same"),
    "linear_attn.in_proj_qkv.weight": (("gdn/q/w", "gdn/k/w", "gdn/v/w"), "rows"),
    "linear_attn.in_proj_z.weight": (("gdn/z/w",), "rows"),
    "linear_attn.in_proj_b.weight": (("gdn/b/w",), "rows"),
    "linear_attn.in_proj_a.weight": (("gdn/a/w",), "rows"),
    "linear_attn.conv1d.weight": (("gdn/conv_q", "gdn/conv_k", "gdn/conv_v"), "taps"),
    "linear_attn.A_log": (("gdn/A_log",), "same"),
    "linear_attn.dt_bias": (("gdn/dt_bias",), "same"),
    "linear_attn.norm.weight": (("gdn/norm/scale",), "same"),
    "linear_attn.out_proj.weight": (("gdn/out/w",), "columns"),
    "self_attn.q_proj.weight": (("attention/q/w", "attention/gate/w"), "rows_by_head"),
    "self_attn.k_proj.weight": (("attention/k/w",), "rows"),
    "self_attn.v_proj.weight": (("attention/v/w",), "rows"),
    "self_attn.o_proj.weight": (("attention/out/w",), "columns"),
    "self_attn.q_norm.weight": (("attention/q_norm/scale",), "same"),
    "self_attn.k_norm.weight": (("attention/k_norm/scale",), "same"),
    "mlp.gate.weight": (("moe/router",), "rows"),
    "mlp.experts.gate_up_proj": (("moe/experts_gate", "moe/experts_up"), "experts"),
    "mlp.experts.down_proj": (("moe/experts_down",), "experts"),
    "mlp.shared_expert.gate_proj.weight": (("moe/shared/gate/w",), "rows"),
    "mlp.shared_expert.up_proj.weight": (("moe/shared/up/w",), "rows"),
    "mlp.shared_expert.down_proj.weight": (("moe/shared/down/w",), "columns"),
    "mlp.shared_expert_gate.weight": (("moe/shared_gate/w",), "rows"),
    "mlp.gate_proj.weight": (("ffn/gate/w",), "rows"),
    "mlp.up_proj.weight": (("ffn/up/w",), "rows"),
    "mlp.down_proj.weight": (("ffn/down/w",), "columns"),
}
MODEL = {
    "embed_tokens.weight": (("embed/table",), "same"),
    "norm.weight": (("decoder/norm/scale",), "same"),
}


def join(arrays: list[np.ndarray], how: str) -> np.ndarray:
    """Our arrays as one released tensor; a released matrix is [out, in]."""
    if how == "same":
        return arrays[0]
    if how == "rows":  # ours [D, ...]
        return np.concatenate([a.reshape(len(a), -1).T for a in arrays])
    if how == "columns":  # ours [..., D]
        return arrays[0].reshape(-1, arrays[0].shape[-1]).T
    if how == "rows_by_head":  # ours [D, N, H], each head's rows of all arrays together
        return join([np.stack(arrays, 2)], "rows")
    if how == "taps":  # ours [taps, N, H]
        return np.concatenate([a.reshape(len(a), -1).T for a in arrays])[:, None]
    if how == "experts":  # ours [E, in, out]
        return np.concatenate([a.swapaxes(1, 2) for a in arrays], 1)
    raise ValueError(how)


def flatten(tree) -> dict[str, np.ndarray]:
    return {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def released(params, config=CONFIG) -> dict[str, np.ndarray]:
    """Every released weight of the text model; every one of ours is used exactly once."""
    flat, out = flatten(params), {}
    unused = set(flat)
    for name, (ours, how) in MODEL.items():
        out[name] = join([flat[own] for own in ours], how)
        unused -= set(ours)
    for layer in range(config.layers):
        period, place = divmod(layer, len(config.pattern))
        prefix = f"decoder/periods/layer_{place}/"
        for name, (ours, how) in LAYER.items():
            own = [prefix + one for one in ours]
            if own[0] in flat:
                out[f"layers.{layer}.{name}"] = join([flat[one][period] for one in own], how)
                unused -= set(own)
    assert not unused, unused
    return out


def random_params(config=CONFIG):
    """{"embed": ..., "decoder": ...}, each leaf drawn from its own path."""

    def init():
        x, ids = jnp.zeros((1, 16, config.width)), jnp.ones((1, 16), jnp.int32)
        key = jax.random.key(0)
        decoder = HybridDecoder(config).init(key, x, jnp.zeros((3, 1, 16), jnp.int32), ids)
        return {
            "embed": Embed(VOCAB, config.width).init(key, ids)["params"],
            "decoder": decoder["params"],
        }

    def draw(path, leaf):
        name = "/".join(key.key for key in path)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        values = rng.standard_normal(leaf.shape)
        if name.endswith("gdn/norm/scale"):
            values = 1 + 0.2 * values
        elif name.endswith("scale"):
            values = 0.3 * values
        elif name.endswith(("/w", "router")) or "experts" in name:
            # Gains near one: larger ones amplify float32's own noise from layer to layer.
            values = values / 7
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))


def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)


def positions() -> np.ndarray:
    """Rotary ids as of text around a picture: three different, growing axes."""
    rng = np.random.default_rng(2)
    return np.cumsum(rng.integers(0, 3, (3, BATCH, LENGTH)), -1).astype(np.int32)


def segment_ids() -> np.ndarray:
    return (np.arange(LENGTH) < np.array(VALID)[:, None]).astype(np.int32)


def stream() -> np.ndarray:
    """What one layer reads."""
    return np.random.default_rng(3).normal(size=(BATCH, LENGTH, CONFIG.width)).astype(np.float32)


def ours(params, config=CONFIG) -> np.ndarray:
    """The normed last stream over `tokens`."""

    @jax.jit
    def run(params, tokens, positions, segment_ids):
        x = Embed(VOCAB, config.width).apply({"params": params["embed"]}, tokens)
        decoder = {"params": params["decoder"]}
        return HybridDecoder(config).apply(decoder, x, positions, segment_ids)[0]

    return np.asarray(run(params, tokens(), positions(), segment_ids()))
