"""bench.py's tables beside torch, alternating: transformers' own functions and modules.

Nothing here may need torch: .venv-parity has it (make parity), so it is imported by name.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from experiments._bench_gdn import CHUNK, inputs, rule, stack_config
from experiments._timing import Case, forms
from omnijax.errors import UserError
from omnijax.nn.config import DecoderConfig

TWO_DEVICES = "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"


def _backward(f: Callable, xs) -> Callable:
    def call():
        leaves = [x.detach().requires_grad_() for x in xs]
        f(*leaves).square().sum().backward()

    return call


def _beside(sizes, ours: Callable) -> list[list]:
    torch = importlib.import_module("torch")
    family = importlib.import_module("transformers.models.qwen3_next.modeling_qwen3_next")
    theirs = family.torch_chunk_gated_delta_rule
    attention = torch.nn.functional.scaled_dot_product_attention
    dim = sizes.head_dim
    groups = []
    for length in sizes.lengths:
        xs, tokens = inputs(length, sizes.heads, dim), {"per": length, "unit": "token"}
        q, k, v, decay, beta = (torch.tensor(jax.device_get(x).copy()) for x in xs)

        def chunk(q, k, v, decay, beta):
            return theirs(q * dim**0.5, k, v, decay, beta, chunk_size=CHUNK)[0]

        far = float(jnp.max(jnp.abs(ours(*xs) - chunk(q, k, v, decay, beta).numpy())))
        if not far < 1e-3:
            raise UserError(f"transformers' form differs from ours by {far}: nothing to compare")
        flat = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
        sdpa = functools.partial(attention, is_causal=True)
        both = [(f"torch gdn, T {length}", chunk, (q, k, v, decay, beta))]
        both += [(f"torch attention, T {length}", sdpa, flat)]
        group = forms(f"gdn, T {length}", ours, *xs, **tokens)
        for name, f, own in both:
            group += [
                Case(f"{name}, forward", lambda f=f, own=own: lambda: f(*own), **tokens),
                Case(f"{name}, with backward", lambda f=f, own=own: _backward(f, own), **tokens),
            ]
        groups.append(group)
    return groups


def torch(sizes) -> list[list]:
    """transformers' torch_chunk_gated_delta_rule and torch's attention beside ours."""
    return _beside(sizes, rule)


def torch_sharded(sizes) -> list[list]:
    """The same, our heads split over two host devices of one thread each."""
    mesh = Mesh(jax.devices()[:2], ("heads",))
    heads = PartitionSpec(None, None, "heads")
    return _beside(sizes, jax.shard_map(rule, mesh=mesh, in_specs=(heads,) * 5, out_specs=heads))


def torch_decode(sizes) -> list[list]:
    """A token of transformers' cached step (eager) and of ours: the same stack, random weights."""
    from experiments._gdn_cost import VOCAB, decode

    config, length = stack_config(sizes), sizes.stack_context
    group = []
    for batch in sizes.stack_batches:
        name, tokens = f"batch {batch}, T {length}", {"per": batch, "unit": "token"}
        theirs = functools.partial(_released_step, config, VOCAB, length, batch)
        group += [
            Case(f"ours, {name}", functools.partial(decode, config, length, batch), **tokens),
            Case(f"transformers, {name}", theirs, **tokens),
        ]
    return [group]


def _released_step(config: DecoderConfig, vocab: int, length: int, batch: int) -> Callable:
    """One more token behind the cache of ``length``, which grows by one at each call."""
    torch = importlib.import_module("torch")
    family = importlib.import_module("transformers.models.qwen3_5_moe")
    c = config
    settings = family.configuration_qwen3_5_moe.Qwen3_5MoeTextConfig(
        vocab_size=vocab,
        hidden_size=c.width,
        num_hidden_layers=c.layers,
        layer_types=[
            "linear_attention" if c.mixer(layer) == "gdn" else "full_attention"
            for layer in range(c.layers)
        ],
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim,
        linear_conv_kernel_dim=c.conv_width,
        linear_num_key_heads=c.gdn_key_heads,
        linear_num_value_heads=c.gdn_value_heads,
        linear_key_head_dim=c.gdn_key_dim,
        linear_value_head_dim=c.gdn_value_dim,
        num_experts=c.experts,
        num_experts_per_tok=c.experts_per_token,
        moe_intermediate_size=c.expert_ffn,
        shared_expert_intermediate_size=c.shared_expert_ffn,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": c.rope_theta,
            "partial_rotary_factor": c.partial_rotary,
            "mrope_section": list(c.mrope_sections),
            "mrope_interleaved": c.mrope_interleaved,
        },
    )
    with torch.no_grad():
        model = family.modeling_qwen3_5_moe.Qwen3_5MoeTextModel(settings).eval()
        table = model.get_input_embeddings().weight
        read = model(torch.zeros((batch, length - 1), dtype=torch.long), use_cache=True)
    kept = [read.last_hidden_state[:, -1:], read.past_key_values]

    def call():
        with torch.no_grad():
            token = torch.argmax(kept[0] @ table.T, -1)
            output = model(token, past_key_values=kept[1], use_cache=True)
            kept[:] = output.last_hidden_state, output.past_key_values

    return call


def why_not(name: str) -> str | None:
    """The reason why a table cannot be measured here, as a line."""
    if not name.startswith("torch"):
        return None
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            return f"{name}: skipped, {module} is not installed here (.venv-parity has it)"
    if name == "torch_sharded" and jax.device_count() < 2:
        return f'{name}: skipped, it needs two devices: XLA_FLAGS="{TWO_DEVICES}"'
    return None


TABLES = (torch, torch_sharded, torch_decode)
