"""The operations against transformers' own functions, live, on random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.models.qwen3_5_moe import configuration_qwen3_5_moe as config  # noqa: E402
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as theirs  # noqa: E402
from transformers.models.qwen3_omni_moe import configuration_qwen3_omni_moe as omni  # noqa: E402
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as theirs_omni  # noqa: E402

from omnijax import ops  # noqa: E402


def make(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def delta_inputs(length):
    """Raw q and k (normed by the released functions), v, decays to e^-20, beta, a state."""
    r = np.random.default_rng(length)
    decay = -np.exp(r.uniform(-6, 3, (2, length, 4))).astype(np.float32)
    beta = r.uniform(0, 1, (2, length, 4)).astype(np.float32)
    q, k, v = make(2, length, 2, 16), make(2, length, 2, 16, seed=1), make(2, length, 4, 24)
    return q, k, v, decay, beta, make(2, 4, 16, 24)


def ours(q, k, v, decay, beta, state):
    """What the released function does, through our bare recurrence."""
    norm = lambda x: x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)  # noqa: E731
    q = norm(q) * q.shape[-1] ** -0.5
    return ops.gated_delta_rule(q, norm(k), v, decay, beta, initial_state=state)


@pytest.mark.parametrize("length", [1, 37, 64, 200])
@pytest.mark.parametrize("form", ["chunk", "recurrent"])
def test_the_gated_delta_rule_equals_the_released_functions_in_values_and_gradients(length, form):
    inputs = delta_inputs(length)
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    function = getattr(theirs, f"torch_{form}_gated_delta_rule")
    out, state = function(
        *tensors[:5],
        initial_state=tensors[5],
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    weights = make(*out.shape), make(*state.shape)
    sum((a * torch.tensor(w)).sum() for a, w in zip((out, state), weights, strict=True)).backward()
    inputs = tuple(jnp.asarray(x) for x in inputs)
    result, pull = jax.vjp(jax.jit(ours), *inputs)
    pairs = list(zip(result, (out.detach(), state.detach()), strict=True))
    grads = pull(tuple(jnp.asarray(w) for w in weights))
    pairs += zip(grads, (t.grad for t in tensors), strict=True)
    for mine, released in pairs:
        scale = max(1.0, float(released.abs().max()))
        np.testing.assert_allclose(mine, released.numpy(), atol=2e-5 * scale)


def test_one_step_equals_the_released_recurrence():
    *tokens, state = delta_inputs(1)
    out, new = theirs.torch_recurrent_gated_delta_rule(
        *map(torch.tensor, tokens),
        initial_state=torch.tensor(state),
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    norm = lambda x: x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)  # noqa: E731
    q, k, *rest = (jnp.asarray(x[:, 0]) for x in tokens)
    mine, state = ops.gated_delta_step(norm(q) * 16**-0.5, norm(k), *rest, jnp.asarray(state))
    np.testing.assert_allclose(mine, out[:, 0], atol=2e-6)
    np.testing.assert_allclose(state, new, atol=2e-6)


def test_the_convolution_equals_the_released_one_whole_and_step_by_step():
    x, weight = make(2, 20, 6), make(4, 6)
    their_weight = torch.tensor(weight.T.copy())
    whole = theirs.causal_conv1d_fn(torch.tensor(x).transpose(1, 2), their_weight)
    mine, state = ops.causal_conv(jnp.asarray(x[:, :15]), jnp.asarray(weight))
    np.testing.assert_allclose(mine, whole.transpose(1, 2)[:, :15], atol=1e-6)
    their_state = torch.tensor(x[:, 12:15]).transpose(1, 2).clone()
    for t in range(15, 20):
        out = theirs.causal_conv1d_update(
            torch.tensor(x[:, t : t + 1]).transpose(1, 2), their_state, their_weight
        )
        mine, state = ops.causal_conv(
            jnp.asarray(x[:, t : t + 1]), jnp.asarray(weight), state=state
        )
        np.testing.assert_allclose(mine[:, 0], out[:, :, 0], atol=1e-6)
        np.testing.assert_allclose(state, their_state.transpose(1, 2), atol=1e-6)


def rotated(module, apply, q, k, positions):
    cos, sin = module(torch.tensor(q), torch.tensor(positions))
    return apply(*(torch.tensor(x).transpose(1, 2) for x in (q, k)), cos, sin)


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_omni"])
def test_rotary_positions_equal_the_released_ones_in_all_three_axes(family):
    positions = np.random.default_rng(0).integers(0, 5000, (3, 2, 9))
    if family == "qwen3_5":  # a quarter of 256
        settings = config.Qwen3_5MoeTextConfig()
        module, apply = theirs.Qwen3_5MoeTextRotaryEmbedding, theirs.apply_rotary_pos_emb
        dim, sections = settings.head_dim // 4, (11, 11, 10)
    else:
        rope = {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [24, 20, 20],
            "interleaved": True,
        }
        settings = omni.Qwen3OmniMoeTextConfig(head_dim=128, rope_parameters=rope)
        module = theirs_omni.Qwen3OmniMoeThinkerTextRotaryEmbedding
        apply, dim, sections = theirs_omni.apply_rotary_pos_emb, 128, (24, 20, 20)
    theta = settings.rope_parameters["rope_theta"]
    q, k = make(2, 9, 4, settings.head_dim), make(2, 9, 2, settings.head_dim)
    released = rotated(module(settings), apply, q, k, positions)
    angles = ops.mrope_angles(jnp.asarray(positions), dim, theta, sections)
    for mine, x in zip((q, k), released, strict=True):
        mine = ops.apply_rotary(jnp.asarray(mine), angles)
        # float32 angles of 5,000 radians carry 5e-4 of rounding, in both.
        np.testing.assert_allclose(mine, x.transpose(1, 2), atol=2e-3)
        assert np.abs(np.asarray(mine) - x.transpose(1, 2).numpy()).mean() < 1e-5


def test_experts_equal_the_released_class():
    settings = config.Qwen3_5MoeTextConfig(
        num_experts=5, num_experts_per_tok=2, hidden_size=12, moe_intermediate_size=8
    )
    module = theirs.Qwen3_5MoeExperts(settings)
    gate_up, down = make(5, 16, 12), make(5, 12, 8)
    x, weights = make(30, 12), make(30, 2)
    chosen = np.argsort(make(30, 5), 1)[:, :2]
    with torch.no_grad():
        module.gate_up_proj.copy_(torch.tensor(gate_up))
        module.down_proj.copy_(torch.tensor(down))
        released = module(*map(torch.tensor, (x, chosen, weights)))
    gate, up = gate_up[:, :8].swapaxes(1, 2), gate_up[:, 8:].swapaxes(1, 2)
    args = (x, gate, up, down.swapaxes(1, 2), chosen, weights)
    for implementation in (None, "dense", "blocks"):
        mine = ops.expert_ffn(*(jnp.asarray(a) for a in args), implementation=implementation)
        np.testing.assert_allclose(mine, released, atol=2e-4)
