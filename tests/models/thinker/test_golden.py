"""The decoder against outputs of transformers' Qwen3.5 text models that lie beside it."""

import sys
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "golden"
sys.path.insert(0, str(GOLDEN))
import thinker_cases as cases  # noqa: E402


@pytest.mark.parametrize("name, config", [("moe", cases.CONFIG), ("dense", cases.DENSE)])
def test_the_text_model_equals_the_released_one(name, config):
    expected = np.load(GOLDEN / "thinker.npz")[name]
    valid = cases.segment_ids() > 0
    out = cases.ours(cases.random_params(config), config)
    np.testing.assert_allclose(out[valid], expected[valid], rtol=1e-4, atol=1e-4)
