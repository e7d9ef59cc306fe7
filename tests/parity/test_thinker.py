"""The Thinker's decoder against transformers' Qwen3.5 text models, live and block by block."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import make_thinker as released  # noqa: E402
import thinker_cases as cases  # noqa: E402

from omnijax import ops  # noqa: E402
from omnijax.nn.attention import Attention  # noqa: E402
from omnijax.nn.gated_delta_net import GatedDeltaNet  # noqa: E402
from omnijax.nn.moe import MoE, route  # noqa: E402

CONFIG, IDS = cases.CONFIG, cases.segment_ids()
VALID = IDS > 0
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def params():
    return cases.random_params()


@pytest.fixture(scope="module")
def theirs(params):
    return released.released_model(CONFIG, params)


def layer_params(params, layer):
    period, place = divmod(layer, len(CONFIG.pattern))
    return jax.tree.map(lambda leaf: leaf[period], params["decoder"]["periods"][f"layer_{place}"])


def angles(config=CONFIG):
    return ops.mrope_angles(
        jnp.asarray(cases.positions()), config.rotary_dim, config.rope_theta, config.mrope_sections
    )


def test_interleaved_rotary_angles_equal(theirs):
    cos, sin = theirs.rotary_emb(torch.zeros(1), torch.tensor(cases.positions()).long())
    twice = np.concatenate([angles()] * 2, -1)
    np.testing.assert_allclose(np.cos(twice), cos.numpy(), **TOLERANCE)
    np.testing.assert_allclose(np.sin(twice), sin.numpy(), **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 2, 5])
def test_the_gated_delta_net_block_equals(theirs, params, layer):
    x = cases.stream()
    mask = torch.tensor(IDS)
    expected = theirs.layers[layer].linear_attn(torch.tensor(x), attention_mask=mask).numpy()
    own = layer_params(params, layer)["gdn"]
    out, _ = jax.jit(GatedDeltaNet(CONFIG).apply)({"params": own}, x, IDS)
    np.testing.assert_allclose(np.asarray(out)[VALID], expected[VALID], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("layer", [3, 7])
def test_the_gated_attention_block_equals(theirs, params, layer):
    x = cases.stream()
    seen = np.tril(np.ones((cases.LENGTH,) * 2, bool)) & VALID[:, None, :]
    mask = torch.tensor(np.where(seen, 0.0, -1e30).astype(np.float32))[:, None]
    rotary = theirs.rotary_emb(torch.tensor(x), torch.tensor(cases.positions()).long())
    expected, _ = theirs.layers[layer].self_attn(torch.tensor(x), rotary, mask)
    own = layer_params(params, layer)["attention"]
    out, _ = jax.jit(Attention(CONFIG).apply)({"params": own}, x, angles(), IDS)
    np.testing.assert_allclose(np.asarray(out)[VALID], expected.numpy()[VALID], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("implementation", [None, "dense", "blocks"])
def test_the_mixture_of_experts_block_equals(theirs, params, implementation):
    x = cases.stream()
    block = theirs.layers[1].mlp
    own = layer_params(params, 1)["moe"]
    config = dataclasses.replace(CONFIG, moe_implementation=implementation)
    out, _ = jax.jit(MoE(config).apply)({"params": own}, x, np.ones_like(VALID))
    np.testing.assert_allclose(out, block(torch.tensor(x)).numpy(), **TOLERANCE)


@torch.no_grad()
def test_the_router_and_its_load_balance_loss_equal(theirs, params):
    x = cases.stream()
    logits, weights, chosen = theirs.layers[1].mlp.gate(torch.tensor(x))
    own = layer_params(params, 1)["moe"]
    ours = route(jnp.einsum("btd,de->bte", x, own["router"]), CONFIG.experts_per_token)
    np.testing.assert_allclose(ours[0].reshape(weights.shape), weights.numpy(), **TOLERANCE)
    np.testing.assert_array_equal(ours[1].reshape(chosen.shape), chosen.numpy())
    expected = released.load_balancing_loss_func(
        (logits,), CONFIG.experts, CONFIG.experts_per_token, torch.tensor(IDS)
    )
    _, stats = jax.jit(MoE(CONFIG).apply)({"params": own}, x, VALID)
    # Theirs counts k choices a token: ours is divided by k, so that 1 is even.
    np.testing.assert_allclose(
        stats.balance * CONFIG.experts_per_token, expected.numpy(), **TOLERANCE
    )


@pytest.mark.parametrize("config", [cases.CONFIG, cases.DENSE], ids=["moe", "dense"])
def test_the_whole_text_model_equals(config):
    params = cases.random_params(config)
    expected = released.released_output(released.released_model(config, params))
    np.testing.assert_allclose(cases.ours(params, config)[VALID], expected[VALID], **TOLERANCE)


def test_the_golden_file_holds_what_the_released_models_give():
    golden = np.load(Path(cases.__file__).with_name("thinker.npz"))
    for name, config in (("moe", cases.CONFIG), ("dense", cases.DENSE)):
        model = released.released_model(config, cases.random_params(config))
        np.testing.assert_allclose(
            golden[name][VALID], released.released_output(model)[VALID], **TOLERANCE
        )
