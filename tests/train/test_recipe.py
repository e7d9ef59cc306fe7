"""A stage that is there is taken over only if it is this recipe's."""

import json

import pytest

from experiments.configs import nano
from omnijax.data.omniworld import OmniWorld
from omnijax.errors import UserError
from omnijax.train.recipe import is_finished, resolve


def kept(folder, config, step):
    """What a run leaves behind, without its arrays."""
    (folder / "checkpoints" / str(step)).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(resolve(config)))


def test_a_stage_is_finished_with_the_checkpoint_of_its_last_step(tmp_path):
    config = nano.get_config("lm").to_dict()
    steps = config["stage"]["steps"]
    assert not is_finished(tmp_path / "nothing", config)
    kept(tmp_path / "half", config, steps - 1)
    assert not is_finished(tmp_path / "half", config)
    kept(tmp_path / "whole", config, steps)
    assert is_finished(tmp_path / "whole", config)
    config["run"]["log_every"] = 1  # of no consequence
    assert is_finished(tmp_path / "whole", config)


def test_a_stage_of_another_recipe_or_corpus_is_refused(tmp_path, monkeypatch):
    config = nano.get_config("lm").to_dict()
    kept(tmp_path, config, config["stage"]["steps"])
    other = nano.get_config("lm").to_dict()
    other["stage"]["batch"] = 16
    with pytest.raises(UserError, match=r"another config: stage.batch: 4 in .*, 16 here"):
        is_finished(tmp_path, other)
    monkeypatch.setattr(OmniWorld, "VERSION", "9.9.9")
    with pytest.raises(UserError, match=r"corpus: 'omniworld .*omniworld 9.9.9' here"):
        is_finished(tmp_path, config)


def test_an_encoder_is_pretrained_once_for_every_decoder(tmp_path):
    config = nano.get_config("aut").to_dict()
    kept(tmp_path, config, config["stage"]["steps"])
    config["model"]["decoder"]["pattern"] = "full"
    assert is_finished(tmp_path, config)
    config["model"]["aut"]["layers"] = 5
    with pytest.raises(UserError, match="model.aut.layers"):
        is_finished(tmp_path, config)
