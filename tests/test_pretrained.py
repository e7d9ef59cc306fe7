"""Trained models: a folder of weights is whole, and says what is wrong with it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax import pretrained
from omnijax.data.codes import Utterance
from omnijax.errors import UserError
from omnijax.media import ProcessorConfig
from omnijax.models import presets
from omnijax.models.thinker import Thinker, text_inputs
from omnijax.text.tokenizer import train_tokenizer
from omnijax.train.stages import to_dict

TEXT = "a red square"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose tokenizer lies elsewhere."""
    tokenizer = train_tokenizer([TEXT], 300)
    tokenizer.save(tmp_path / "elsewhere.json")
    model = dataclasses.replace(
        presets.tiny(),
        vocab_size=tokenizer.vocab_size,
        aut=None,
        vision=None,
        audio_token_id=tokenizer.special("audio_pad"),
        image_token_id=tokenizer.special("image_pad"),
        video_token_id=tokenizer.special("video_pad"),
    )
    prompt = text_inputs(jnp.zeros((1, 1), jnp.int32))
    params = jax.jit(Thinker(model).init)(jax.random.key(0), prompt)["params"]
    config = {
        "name": "tiny",
        "tokenizer": str(tmp_path / "elsewhere.json"),
        "model": to_dict(model),
        "processor": to_dict(ProcessorConfig()),
        "stage": {},
    }
    monkeypatch.setattr(pretrained, "read_params", lambda folder: (params, config))
    return tmp_path / "run"


def test_exported_weights_need_nothing_but_their_folder(run, tmp_path):
    pretrained.export(run, tmp_path / "weights")
    (tmp_path / "elsewhere.json").unlink()
    loaded = pretrained.load(str(tmp_path / "weights"))
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(TEXT)) == TEXT
    params, _ = pretrained.read_params(run)
    for saved, kept in zip(jax.tree.leaves(params), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_allclose(saved, kept, rtol=2**-8)  # bfloat16


def test_weights_of_another_model_are_named(run, tmp_path):
    _, config = pretrained.read_params(run)
    config["model"]["decoder"]["ffn"] = 24
    config["model"]["decoder"] |= {"experts": 0, "experts_per_token": 0}
    pretrained.export(run, tmp_path / "weights")
    with pytest.raises(UserError, match=r"weights in .*weights are not of the model in its config"):
        pretrained.load(str(tmp_path / "weights"))


def test_weights_with_a_processor_of_another_encoder_are_refused(run, tmp_path):
    _, config = pretrained.read_params(run)
    config["model"]["aut"] = to_dict(presets.tiny().aut)
    pretrained.export(run, tmp_path / "weights")
    with pytest.raises(UserError, match="processor.audio_chunk_frames is 160, .* encoder has 32"):
        pretrained.load(str(tmp_path / "weights"))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no weights at .*nowhere.*: give nano, a folder"):
        pretrained.load(str(tmp_path / "nowhere"))


def test_a_pace_is_frames_a_token_of_each_language_and_of_all():
    tokenizer = train_tokenizer([TEXT], 300)
    tokens = len(tokenizer.encode(TEXT))
    said = [
        Utterance(TEXT, language, "a", "", np.zeros((frames * tokens, 2)))
        for language, frames in (("en", 4), ("en", 2), ("de", 9))
    ]
    assert pretrained.paces(said, tokenizer) == {"": 5.0, "de": 9.0, "en": 3.0}


def test_the_shipped_weights_take_less_than_20_megabytes():
    folder = Path(pretrained.__file__).parent / "assets" / "nano"
    weights = [*folder.rglob("*.safetensors"), *folder.rglob("*.npz")]
    assert len(weights) == 4  # Thinker, codec, Talker, its voices
    assert sum(file.stat().st_size for file in weights) < 20e6
