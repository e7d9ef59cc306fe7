"""The codec's random weights and the same weights under the names of the released classes."""

import jax
import jax.numpy as jnp
import numpy as np
import torch


def random_params(init, *inputs):
    """Values of a size that every parameter shows in the output, norms and scales round one."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(0)

    def value(path, leaf):
        name = path[-1].key
        x = rng.standard_normal(leaf.shape).astype(np.float32)
        if name in ("scale", "attention_scale", "ffn_scale"):
            return 1 + 0.2 * x
        if name in ("bias", "conv_bias", "alpha", "beta"):
            return 0.2 * x
        if name in ("codebooks", "table"):
            return x
        fan_in = np.prod(leaf.shape[:-1]) if name == "kernel" else leaf.shape[-2]
        return x / np.float32(np.sqrt(fan_in))

    return jax.tree_util.tree_map_with_path(value, shapes)


def conv(tree):
    """[taps, in, out] or, for one tap, [in, out] -> torch's [out, in, taps]."""
    kernel = tree["kernel"] if tree["kernel"].ndim == 3 else tree["kernel"][None]
    weights = {"weight": kernel.transpose(2, 1, 0)}
    return weights | ({"bias": tree["bias"]} if "bias" in tree else {})


def up_conv(tree):
    """[taps, in, out] -> torch's transposed [in, out, taps]."""
    return {"weight": tree["kernel"].transpose(1, 2, 0), "bias": tree["bias"]}


def linear(tree):
    return {"weight": tree["kernel"].T, "bias": tree["bias"]}


def norm(tree):
    return {"weight": tree["scale"]} | ({"bias": tree["bias"]} if "bias" in tree else {})


def transformer(tree, gated):
    """Every layer; `gated` is Code2Wav's feed-forward, else Mimi's."""
    out, layers = {}, tree["layers"]
    names = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    names = names if gated else {"up": "fc1", "down": "fc2"}
    for i in range(layers["q"]["w"].shape[0]):
        layer = jax.tree.map(lambda w, i=i: w[i], layers)
        parts = {
            f"self_attn.{n}_proj": {"weight": layer[n]["w"].reshape(len(layer[n]["w"]), -1).T}
            for n in "qkv"
        }
        out_w = layer["out"]["w"]
        parts["self_attn.o_proj"] = {"weight": out_w.reshape(-1, out_w.shape[-1]).T}
        parts |= {f"mlp.{theirs}": {"weight": layer[ours]["w"].T} for ours, theirs in names.items()}
        parts["input_layernorm"] = norm(layer["attention_norm"])
        parts["post_attention_layernorm"] = norm(layer["ffn_norm"])
        parts["self_attn_layer_scale"] = {"scale": layer["attention_scale"]}
        parts["mlp_layer_scale"] = {"scale": layer["ffn_scale"]}
        out |= {f"layers.{i}.{name}": part for name, part in parts.items()}
    if "final_norm" in tree:
        out["norm"] = norm(tree["final_norm"])
    return out


def code2wav(tree):
    out = {"code_embedding": {"weight": tree["code_embed"]["table"]}}
    out |= {f"pre_transformer.{k}": v for k, v in transformer(tree["transformer"], True).items()}
    i = 0
    while f"upsample_{i}" in tree:
        block = tree[f"convnext_{i}"]
        out[f"upsample.{i}.0.conv"] = up_conv(tree[f"upsample_{i}"])
        out[f"upsample.{i}.1.dwconv.conv"] = {
            "weight": block["conv"].T[:, None],
            "bias": block["conv_bias"],
        }
        out[f"upsample.{i}.1.norm"] = norm(block["norm"])
        out[f"upsample.{i}.1.pwconv1"] = linear(block["up"])
        out[f"upsample.{i}.1.pwconv2"] = linear(block["down"])
        out[f"upsample.{i}.1"] = {"gamma": block["scale"]}
        i += 1
    out["decoder.0.conv"] = conv(tree["conv_in"])
    i = 0
    while f"rates_{i}" in tree:
        block = f"decoder.{i + 1}.block"
        out[f"{block}.0"] = tree[f"snakes_{i}"]
        out[f"{block}.1.conv"] = up_conv(tree[f"rates_{i}"])
        for j in range(3):
            unit = tree[f"residuals_{i}_{j}"]
            out[f"{block}.{j + 2}.act1"] = unit["snake_1"]
            out[f"{block}.{j + 2}.conv1.conv"] = conv(unit["conv_1"])
            out[f"{block}.{j + 2}.act2"] = unit["snake_2"]
            out[f"{block}.{j + 2}.conv2.conv"] = conv(unit["conv_2"])
        i += 1
    out[f"decoder.{i + 1}"] = tree["snake_out"]
    out[f"decoder.{i + 2}.conv"] = conv(tree["conv_out"])
    return out


def encoder(tree):
    out = {"encoder_seanet.layers.0.conv": conv(tree["conv_in"])}
    i = 0
    while f"strides_{i}" in tree:
        # A block, an ELU, a strided convolution: three entries of the released list.
        block = tree[f"blocks_{i}"]
        out[f"encoder_seanet.layers.{3 * i + 1}.block.1.conv"] = conv(block["conv_1"])
        out[f"encoder_seanet.layers.{3 * i + 1}.block.3.conv"] = conv(block["conv_2"])
        out[f"encoder_seanet.layers.{3 * i + 3}.conv"] = conv(tree[f"strides_{i}"])
        i += 1
    out[f"encoder_seanet.layers.{3 * i + 2}.conv"] = conv(tree["conv_out"])
    layers = transformer(tree["transformer"], False)
    out |= {f"encoder_transformer.{k}": v for k, v in layers.items()}
    out["downsample.conv"] = conv(tree["downsample"])
    return out


def quantiser(tree, semantic):
    out, size = {}, tree["codebooks"].shape[1]
    usage = 0.5 + np.random.default_rng(1).random(size).astype(np.float32)
    kinds = {"semantic": tree["codebooks"][:semantic], "acoustic": tree["codebooks"][semantic:]}
    for kind, codebooks in kinds.items():
        root = f"{kind}_residual_vector_quantizer"
        out[f"{root}.input_proj"] = {"weight": tree[f"{kind}_in"].T[..., None]}
        out[f"{root}.output_proj"] = {"weight": tree[f"{kind}_out"].T[..., None]}
        for i, codes in enumerate(codebooks):
            out[f"{root}.layers.{i}.codebook"] = {
                "initialized": np.ones(1, np.float32),
                "cluster_usage": usage,
                "embed_sum": codes * usage[:, None],
            }
    return out


def load(model, table):
    """Loads {module: {name: array}}; every weight of the model must be named, and no other."""
    weights = {f"{path}.{name}": w for path, part in table.items() for name, w in part.items()}
    model.load_state_dict({name: torch.tensor(np.array(w)) for name, w in weights.items()})
    return model.eval()


def count(model):
    return sum(p.numel() for p in model.parameters())


def sizes(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def to_jax(params):
    return jax.tree.map(jnp.asarray, params)
