"""A Thinker small enough for eight simulated devices, and batches for it."""

import numpy as np

from omnijax.data.batch import TrainBatch
from omnijax.models.aut import AuTConfig
from omnijax.models.thinker import AudioInputs, ThinkerConfig, ThinkerInputs, VisionInputs
from omnijax.models.vision import VisionConfig
from omnijax.nn.config import DecoderConfig


def tiny():
    """A Thinker whose every axis divides by eight, with all kinds of layers and both encoders."""

    decoder = DecoderConfig(
        width=32,
        layers=2,
        pattern=("gdn", "full"),
        heads=8,
        kv_heads=8,
        head_dim=8,
        partial_rotary=0.5,
        mrope_sections=(1, 1, 0),
        gdn_key_heads=8,
        gdn_value_heads=8,
        gdn_key_dim=8,
        gdn_value_dim=8,
        gdn_chunk=16,
        experts=8,
        experts_per_token=2,
        expert_ffn=16,
        shared_expert_ffn=16,
    )
    encoder = {"width": 16, "layers": 1, "heads": 2, "ffn": 32, "out_width": 32}
    aut = AuTConfig(chunk_frames=32, mel_bins=16, conv_channels=(4,) * 4, **encoder)
    vision = VisionConfig(patch_size=4, grid_side=4, **encoder)
    return ThinkerConfig(
        decoder=decoder,
        vocab_size=64,
        tie_embeddings=True,
        aut=aut,
        vision=vision,
        audio_token_id=61,
        image_token_id=62,
        video_token_id=63,
    )


def batch_of(config, rows=8, tokens=32, seed=0):
    """Two packed documents a row, with sound and a picture in the first."""

    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 60, (rows, tokens)).astype(np.int32)
    ids[:, 2:6], ids[:, 8:12] = config.audio_token_id, config.image_token_id
    positions = np.broadcast_to(np.arange(tokens, dtype=np.int32), (3, rows, tokens))
    segments = np.where(np.arange(tokens) < tokens // 2, 1, 2).astype(np.int32)
    grid = np.stack(np.meshgrid(range(4), range(4), indexing="ij"), -1).reshape(16, 2)
    audio = AudioInputs(
        rng.normal(size=(rows, 2, 32, 16)).astype(np.float32),
        np.full((rows, 2), 32, np.int32),
        np.ones((rows, 2), np.int32),
    )
    vision = VisionInputs(
        rng.normal(size=(rows, 16, 2 * 3 * 16)).astype(np.float32),
        np.broadcast_to(grid.astype(np.int32), (rows, 16, 2)),
        np.full((rows, 16, 2), 4, np.int32),
        np.ones((rows, 16), np.int32),
    )
    inputs = ThinkerInputs(ids, positions, np.broadcast_to(segments, ids.shape), audio, vision)
    weights = (rng.random(ids.shape) < 0.5).astype(np.float32)
    return TrainBatch(inputs, np.roll(ids, -1, axis=1), weights)
