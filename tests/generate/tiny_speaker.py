"""A Talker and a codec at the least size, that read nano's text and speak in 48 samples a frame."""

import dataclasses
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.generate.sampling import SamplingConfig
from omnijax.generate.speaker import Speaker, StoredVoice
from omnijax.generate.speech import SpeechConfig
from omnijax.models.codec import Codec
from omnijax.models.talker import Talker, presets, speech_inputs
from omnijax.text import nano_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "codec"))
import tiny_codec  # noqa: E402

TOKENIZER = nano_tokenizer()
GREEDY = SpeechConfig(sampling=SamplingConfig(), residual_sampling=SamplingConfig())
TALKER = dataclasses.replace(
    presets.tiny(),
    codebook_size=11,
    text_vocab_size=TOKENIZER.vocab_size,
    tts_pad_id=TOKENIZER.vocab_size - 3,
    tts_bos_id=TOKENIZER.vocab_size - 2,
    tts_eos_id=TOKENIZER.vocab_size - 1,
)
VOICES = [
    StoredVoice("anna", "a calm woman", tiny_codec.codes(1, 6)[0]),
    StoredVoice("ben", "a calm man", tiny_codec.codes(1, 5, seed=1)[0]),
]


@functools.cache
def params():
    model = Talker(TALKER)
    example = speech_inputs(jnp.zeros((1, 4, TALKER.codebooks), jnp.int32))
    drawn = jax.jit(model.init)(jax.random.key(3), example)["params"]
    # Far from ties, and no end: a mark's logit is zero, below the best of the codes.
    head = drawn["codec_head"]["w"]
    drawn["codec_head"]["w"] = 20 * head.at[:, TALKER.codebook_size :].set(0)
    drawn["mtp"]["head"] = 20 * drawn["mtp"]["head"]
    return drawn


@functools.cache
def codec_params():
    return tiny_codec.params(Codec(tiny_codec.config()))["params"]


def speaker(config=GREEDY, **options) -> Speaker:
    codec = Codec(tiny_codec.config())
    return Speaker(
        Talker(TALKER), params(), codec, codec_params(), TOKENIZER, VOICES, config,
        **{"max_len": 256} | options,
    )  # fmt: skip


def drained(speech) -> np.ndarray:
    """Everything that can be said now."""
    return np.concatenate([np.zeros(0, np.float32), *speech.packets()])
