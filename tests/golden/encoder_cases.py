"""Sizes, weights and inputs of the encoders' golden files, and the names of the released weights.

Weights are drawn from each parameter's path, so a golden file holds outputs only.
"""

import dataclasses
import zlib

import jax
import numpy as np

from omnijax.models import aut, vision

AUT = aut.AuTConfig(
    mel_bins=32,
    chunk_frames=100,
    downsample=8,
    conv_channels=(6, 6, 6),
    width=32,
    layers=3,
    heads=4,
    ffn=48,
    out_width=24,
)
AUT_WINDOW_CHUNKS = 2
# Mel frames of the clips of one call: whole chunks, partial ones, partial windows, one frame more.
AUT_CLIPS = {
    "several": (100, 250, 437, 600, 101),
    "short_alone": (37,),  # no whole chunk beside it: the released class pads nothing
    "long": (1299,),
}
VISION = vision.VisionConfig(
    patch_size=4, grid_side=5, width=32, layers=3, heads=4, ffn=48, out_width=24
)
VISION_DEEPSTACK = dataclasses.replace(VISION, layers=4, deepstack_layers=(0, 2))
# (temporal patches, rows, columns) of the images and videos of one call.
VISION_GRIDS = {
    "images": ((1, 4, 6), (1, 2, 2), (1, 10, 4)),
    "video": ((3, 4, 4), (1, 6, 2)),
}


def random_params(module, *inputs):
    """Parameters of a module, each drawn from its own path; the norms near one."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)

    def draw(path, leaf):
        name = "/".join(key.key for key in path)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("scale"):
            return (1 + 0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)
        fan_in = 30 if "kernel" in name else 3
        return (rng.standard_normal(leaf.shape) / fan_in**0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def mel_clips(name: str) -> list[np.ndarray]:
    """Clips [frames, bins]."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return [rng.standard_normal((n, AUT.mel_bins)).astype(np.float32) for n in AUT_CLIPS[name]]


def mel_rows(clips, frames=AUT.chunk_frames, window_chunks=AUT_WINDOW_CHUNKS, junk=1e3):
    """Clips, one a row, as (mel, lengths, windows); padding frames hold junk."""
    counts = [-(-len(clip) // frames) for clip in clips]
    mel = np.full((len(clips), max(counts), frames, clips[0].shape[1]), junk, np.float32)
    lengths = np.zeros(mel.shape[:2], np.int32)
    windows = np.zeros(mel.shape[:2], np.int32)
    for row, (clip, count) in enumerate(zip(clips, counts, strict=True)):
        for chunk in range(count):
            part = clip[chunk * frames : (chunk + 1) * frames]
            mel[row, chunk, : len(part)] = part
            lengths[row, chunk] = len(part)
        windows[row, :count] = np.arange(count) // window_chunks + 1
    return mel, lengths, windows


def patch_row(name: str, config=VISION):
    """All images and videos of a case in one row: (patches, coords, grids, frames)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    coords, grids, frames = [], [], []
    merge = config.spatial_merge
    for t, h, w in VISION_GRIDS[name]:
        place = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)
        place = place.reshape(h // merge, merge, w // merge, merge, 2).swapaxes(1, 2)
        coords += [place.reshape(-1, 2)] * t
        grids.append(np.tile([[h, w]], (t * h * w, 1)))
        frames += [np.full(h * w, 1 + len(frames) + i) for i in range(t)]
    frames = np.concatenate(frames)
    patches = rng.standard_normal((len(frames), config.patch_dim)).astype(np.float32)
    ints = (np.concatenate(coords), np.concatenate(grids), frames)
    return patches[None], *(x[None].astype(np.int32) for x in ints)


# Our path, the released name, our array -> the released one. "{}" runs over the layers, which are
# the first axis of our array.


def linear(w):
    return w.T


def same(w):
    return w


def conv2d(w):  # time, frequency, in, out -> out, in, frequency, time
    return w.transpose(3, 2, 1, 0)


def conv_out(w):  # rows by (frequency, channel) -> columns by (channel, frequency)
    channels = AUT.conv_channels[-1]
    return w.reshape(-1, channels, w.shape[-1]).swapaxes(0, 1).reshape(w.shape).T


def weight_of(i):  # [D, 3, N, H] -> query, key or value, [N H, D]
    return lambda w: w[:, i].reshape(len(w), -1).T


def bias_of(i):  # [3, N, H] -> query, key or value, [N H]
    return lambda w: w[i].reshape(-1)


def fused(w):  # [D, 3, N, H] -> [3 N H, D]
    return w.reshape(w.shape[0], -1).T


def flat(w):
    return w.reshape(-1)


def heads_in(w):  # [N, H, D] -> [D, N H]
    return w.reshape(-1, w.shape[-1]).T


def conv3d(w):  # [C t h w, D] -> [D, C, t, h, w]
    size = (VISION.channels, VISION.temporal_patch, VISION.patch_size, VISION.patch_size)
    return w.T.reshape(-1, *size)


AUT_TABLE = (
    ("stem/conv_0/kernel", "conv2d1.weight", conv2d),
    ("stem/conv_0/bias", "conv2d1.bias", same),
    ("stem/conv_1/kernel", "conv2d2.weight", conv2d),
    ("stem/conv_1/bias", "conv2d2.bias", same),
    ("stem/conv_2/kernel", "conv2d3.weight", conv2d),
    ("stem/conv_2/bias", "conv2d3.bias", same),
    ("stem/conv_out/kernel", "conv_out.weight", conv_out),
    ("encoder/layers/attention_norm/scale", "layers.{}.self_attn_layer_norm.weight", same),
    ("encoder/layers/attention_norm/bias", "layers.{}.self_attn_layer_norm.bias", same),
    ("encoder/layers/qkv/kernel", "layers.{}.self_attn.q_proj.weight", weight_of(0)),
    ("encoder/layers/qkv/kernel", "layers.{}.self_attn.k_proj.weight", weight_of(1)),
    ("encoder/layers/qkv/kernel", "layers.{}.self_attn.v_proj.weight", weight_of(2)),
    ("encoder/layers/qkv/bias", "layers.{}.self_attn.q_proj.bias", bias_of(0)),
    ("encoder/layers/qkv/bias", "layers.{}.self_attn.k_proj.bias", bias_of(1)),
    ("encoder/layers/qkv/bias", "layers.{}.self_attn.v_proj.bias", bias_of(2)),
    ("encoder/layers/out/kernel", "layers.{}.self_attn.out_proj.weight", heads_in),
    ("encoder/layers/out/bias", "layers.{}.self_attn.out_proj.bias", same),
    ("encoder/layers/ffn_norm/scale", "layers.{}.final_layer_norm.weight", same),
    ("encoder/layers/ffn_norm/bias", "layers.{}.final_layer_norm.bias", same),
    ("encoder/layers/up/kernel", "layers.{}.fc1.weight", linear),
    ("encoder/layers/up/bias", "layers.{}.fc1.bias", same),
    ("encoder/layers/down/kernel", "layers.{}.fc2.weight", linear),
    ("encoder/layers/down/bias", "layers.{}.fc2.bias", same),
    ("final_norm/scale", "ln_post.weight", same),
    ("final_norm/bias", "ln_post.bias", same),
    ("proj_1/kernel", "proj1.weight", linear),
    ("proj_1/bias", "proj1.bias", same),
    ("proj_2/kernel", "proj2.weight", linear),
    ("proj_2/bias", "proj2.bias", same),
)

_VISION = (
    ("patch_embed/kernel", "patch_embed.proj.weight", conv3d),
    ("patch_embed/bias", "patch_embed.proj.bias", same),
    ("positions", "pos_embed.weight", same),
    ("encoder/layers/attention_norm/scale", "blocks.{}.norm1.weight", same),
    ("encoder/layers/attention_norm/bias", "blocks.{}.norm1.bias", same),
    ("encoder/layers/qkv/kernel", "blocks.{}.attn.qkv.weight", fused),
    ("encoder/layers/qkv/bias", "blocks.{}.attn.qkv.bias", flat),
    ("encoder/layers/out/kernel", "blocks.{}.attn.proj.weight", heads_in),
    ("encoder/layers/out/bias", "blocks.{}.attn.proj.bias", same),
    ("encoder/layers/ffn_norm/scale", "blocks.{}.norm2.weight", same),
    ("encoder/layers/ffn_norm/bias", "blocks.{}.norm2.bias", same),
    ("encoder/layers/up/kernel", "blocks.{}.mlp.linear_fc1.weight", linear),
    ("encoder/layers/up/bias", "blocks.{}.mlp.linear_fc1.bias", same),
    ("encoder/layers/down/kernel", "blocks.{}.mlp.linear_fc2.weight", linear),
    ("encoder/layers/down/bias", "blocks.{}.mlp.linear_fc2.bias", same),
)


def merger_rows(ours, theirs, names):
    """A merger's parameters; `names` are the released norm, first and second linear layer."""
    norm, first, second = (f"{theirs}.{name}" for name in names)
    return (
        (f"{ours}/norm/scale", f"{norm}.weight", same),
        (f"{ours}/norm/bias", f"{norm}.bias", same),
        (f"{ours}/fc_1/kernel", f"{first}.weight", linear),
        (f"{ours}/fc_1/bias", f"{first}.bias", same),
        (f"{ours}/fc_2/kernel", f"{second}.weight", linear),
        (f"{ours}/fc_2/bias", f"{second}.bias", same),
    )


QWEN3_5_MERGER = ("norm", "linear_fc1", "linear_fc2")
QWEN3_OMNI_MERGER = ("ln_q", "mlp.0", "mlp.2")
VISION_TABLE = _VISION + merger_rows("merger", "merger", QWEN3_5_MERGER)
VISION_DEEPSTACK_TABLE = (
    _VISION
    + merger_rows("merger", "merger", QWEN3_OMNI_MERGER)
    + merger_rows("deepstack_0", "merger_list.0", QWEN3_OMNI_MERGER)
    + merger_rows("deepstack_1", "merger_list.1", QWEN3_OMNI_MERGER)
)


def to_released(table, params) -> dict[str, np.ndarray]:
    """Our parameters under the released names; every one of ours must be in the table."""
    leaves = {
        "/".join(key.key for key in path[1:]): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    missing = leaves.keys() - {ours for ours, _, _ in table}
    assert not missing, f"not in the table: {sorted(missing)}"
    out = {}
    for ours, theirs, transform in table:
        if "{}" in theirs:
            out |= {theirs.format(i): transform(w) for i, w in enumerate(leaves[ours])}
        else:
            out[theirs] = transform(leaves[ours])
    return out
