"""The kernels: right in interpret mode, compiled by Mosaic, lowered to Triton, never silent."""

import functools
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.ops import gated_delta_rule, gated_delta_step
from omnijax.ops.gated_delta_rule import pallas_gpu
from omnijax.ops.gated_delta_rule.chunked import chunked
from omnijax.ops.gated_delta_rule.naive import naive
from omnijax.ops.gated_delta_rule.pallas_chunk import unit_lower_inverse
from omnijax.ops.gated_delta_rule.pallas_mesh import ROWS, STEP, TOKENS, on_each_device
from omnijax.ops.gated_delta_rule.pallas_tpu import pallas, pallas_step, unfit, vmem_bytes
from omnijax.sharding import make_mesh

ROOT = Path(__file__).parents[2]
NAMES = ("q", "k", "v", "log_decay", "beta", "initial state")


def make(length, batch=2, key_heads=1, heads=2, dim=16, value_dim=8, repeated=False):
    """Float64 numbers that float32 can hold: decays to -20, betas with both ends, grouped heads."""
    r = np.random.default_rng(length)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    q, k = (unit(r.normal(size=(batch, length, key_heads, dim))) for _ in range(2))
    k = np.broadcast_to(k[:, :1], k.shape) if repeated else k
    v = r.normal(size=(batch, length, heads, value_dim))
    log_decay = -np.exp(r.uniform(-7, 3, (batch, length, heads))) * (0 if repeated else 1)
    beta = np.clip(r.uniform(-0.3, 1.3, (batch, length, heads)), 0, 1)
    state = r.normal(size=(batch, heads, dim, value_dim))
    return tuple(np.float64(np.float32(x)) for x in (q, k, v, log_decay, beta, state))


def values_and_gradients(rule, inputs, ids, dtype):
    """Output, final state and the gradients of a weighted sum of both, as float64."""
    r = np.random.default_rng(7)
    with jax.enable_x64(dtype == jnp.float64):
        inputs = tuple(jnp.asarray(x, dtype) for x in inputs)
        ids = None if ids is None else jnp.asarray(ids, jnp.int32)
        weights = tuple(jnp.asarray(r.normal(size=inputs[i].shape), dtype) for i in (2, 5))

        @jax.jit
        def run(inputs):
            result, pull = jax.vjp(lambda *xs: rule(*xs[:5], ids, xs[5]), *inputs)
            return *result, *pull(weights)

        return [np.float64(x) for x in run(inputs)]


def tpu(*args, chunk):
    return pallas(*args, chunk, interpret=True)


def gpu(*args, chunk):
    """Two programs share the columns of a state."""
    return pallas_gpu.pallas(*args, (chunk, args[2].shape[-1] // 2, 4), interpret=True)


def assert_equals_definition(kernels, inputs, ids=None, chunk=16, tolerance=1e-5):
    ours = values_and_gradients(partial(kernels, chunk=chunk), inputs, ids, jnp.float32)
    truth = values_and_gradients(naive, inputs, ids, jnp.float64)
    for name, a, b in zip(("out", "state", *NAMES), ours, truth, strict=True):
        error = np.max(np.abs(a - b)) / np.max(np.abs(b))
        assert np.isfinite(a).all() and error <= tolerance, (name, error)


both = pytest.mark.parametrize("kernels", [tpu, gpu])


@both
def test_the_kernels_equal_the_definition_in_values_and_gradients_with_documents(kernels):
    ids = np.stack(
        [np.repeat([1, 2, 0, 3, 4], [17, 1, 4, 10, 18]), np.repeat([0, 5, 6], [3, 29, 18])]
    )
    assert_equals_definition(kernels, make(50), ids)


@both
def test_the_kernels_equal_the_definition_without_documents(kernels):
    assert_equals_definition(kernels, make(33, batch=1))


@both
def test_the_kernels_keep_five_digits_on_repeated_keys(kernels):
    assert_equals_definition(kernels, make(128, batch=1, heads=1, repeated=True), chunk=64)


def test_the_merged_inverse_equals_the_exact_one_where_keys_repeat():
    """Ones below the diagonal: the inverse is a bidiagonal of ones, entry for entry."""
    ones = jnp.tril(jnp.ones((64, 64)), -1)
    np.testing.assert_array_equal(unit_lower_inverse(ones), np.eye(64) - np.eye(64, k=-1))


def test_the_step_kernel_equals_the_step():
    q, k, v, log_decay, beta, state = (jnp.asarray(x, jnp.float32) for x in make(3))
    args = (*(x[:, 0] for x in (q, k, v, log_decay, beta)), state)
    for ours, truth in zip(
        pallas_step(*args, interpret=True), gated_delta_step(*args), strict=True
    ):
        np.testing.assert_allclose(ours, truth, atol=1e-6)


def stand_in(q, k, v, log_decay, beta, ids, state):
    """The chunked form where a kernel would be, which the mesh's own checks bear too."""
    run = lambda q, k, v, g, b, state, ids: chunked(q, k, v, g, b, ids, state, 16)  # noqa: E731
    args, axes = (q, k, v, log_decay, beta, state, ids), (*(TOKENS,) * 5, STEP, ROWS)
    return on_each_device(run, args, axes, (TOKENS, STEP), False)


def keys_read(kernels, inputs, platform):
    """What of the keys [B, K, ...] each kernel of the gradient reads, once lowered."""
    loss = lambda *xs: sum(jnp.sum(y**2) for y in kernels(*xs))  # noqa: E731
    traced = jax.jit(jax.grad(loss, argnums=tuple(range(len(inputs))))).trace(*inputs)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return re.findall(r"custom_call @(?:tpu_custom_call|__gpu.*triton)\(.*: \(tensor<(\dx\d)", text)


def spread() -> dict:
    """On four devices, two for rows and two for heads: errors, and what each kernel is given."""
    small, big = (make(20, 2, 2, 4, dim) for dim in (16, 128))
    ids = np.repeat([[1, 2]], 2, 0).repeat([12, 8], 1)
    rules = {"tpu": partial(tpu, chunk=16), "gpu": partial(gpu, chunk=16), "stand-in": stand_in}
    big = [jnp.asarray(x, jnp.float32) for x in big]
    one = [x[:, 0] for x in big[:5]] + big[5:]
    for_tpu = lambda *xs: pallas(*xs[:5], ids, xs[5], 16)  # noqa: E731
    for_gpu = lambda *xs: pallas_gpu.pallas(*xs[:5], ids, xs[5], (16, 8, 4))  # noqa: E731
    by_hand = jax.shard_map(
        lambda *xs: pallas(*xs[:5], None, xs[5], 16),
        in_specs=(jax.P("data"),) * 5 + (jax.P(),),
        out_specs=jax.P("data"),
    )
    truth, stepped = values_and_gradients(naive, small, ids, jnp.float64), gated_delta_step(*one)
    relative = lambda a, b: float(np.max(np.abs(a - b)) / np.max(np.abs(b)))  # noqa: E731
    with jax.set_mesh(make_mesh(data=2, tensor=2)):
        errors = {
            name: max(map(relative, values_and_gradients(rule, small, ids, jnp.float32), truth))
            for name, rule in rules.items()
        }
        errors["step"] = max(map(relative, pallas_step(*one, interpret=True), stepped))
        step = pallas_step.trace(*one).lower(lowering_platforms=("tpu",)).as_text()
        read = {
            "tpu": keys_read(for_tpu, big, "tpu"),
            "gpu": keys_read(for_gpu, big, "cuda"),
            "by hand": keys_read(by_hand, [*big[:5], big[5][:1]], "tpu"),
        }
    return {"errors": errors, "read": read, "step": step.count("@tpu_custom_call")}


@functools.cache
def on_four_devices() -> dict:
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_under_a_mesh_the_kernels_equal_the_definition():
    assert max(on_four_devices()["errors"].values()) < 1e-5, on_four_devices()["errors"]


def test_under_a_mesh_the_kernels_lower_and_each_reads_its_devices_rows_and_heads():
    """The gradient's three: forward, the states again, backward; in a shard_map of one's own too,
    which splits rows alone."""
    found = on_four_devices()
    assert found["read"] == {"tpu": ["1x1"] * 3, "gpu": ["1x1"] * 3, "by hand": ["1x2"] * 3}
    assert found["step"] == 1


def test_without_a_tpu_the_chunked_form_runs_and_the_log_says_why(caplog):
    inputs = tuple(jnp.asarray(x, jnp.float32) for x in make(20)[:5])
    with caplog.at_level(logging.WARNING):
        fallen = gated_delta_rule(*inputs, implementation="pallas", chunk_size=16)
    assert "the chunked form runs instead: the backend is cpu" in caplog.text
    chunked = gated_delta_rule(*inputs, implementation="chunked", chunk_size=16)
    jax.tree.map(np.testing.assert_array_equal, fallen, chunked)


def test_without_a_tpu_the_step_falls_back_and_the_log_says_why(caplog):
    q, k, v, log_decay, beta, state = (jnp.asarray(x, jnp.float32) for x in make(3))
    args = (*(x[:, 0] for x in (q, k, v, log_decay, beta)), state)
    with caplog.at_level(logging.WARNING):
        fallen = gated_delta_step(*args, implementation="pallas")
    assert "einsum runs instead of the kernel: the backend is cpu" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, fallen, gated_delta_step(*args))
    with pytest.raises(UserError, match="implementation is 'quick'"):
        gated_delta_step(*args, implementation="quick")


def test_what_the_kernels_do_not_take_is_named():
    x, state = jnp.zeros((1, 16, 1, 128)), jnp.zeros((1, 1, 128, 128))
    assert unfit(x, x, state, 64) is None
    assert "not multiples of 128" in unfit(x[..., :48], x, state, 64)
    assert "chunk_size is 256" in unfit(x, x, state, 256)
    assert "float16" in unfit(x, x.astype(jnp.float16), state, 64)


def test_what_the_gpu_kernels_do_not_take_is_named():
    x, state = jnp.zeros((1, 16, 1, 128)), jnp.zeros((1, 1, 128, 128))
    assert pallas_gpu.unfit(x, x, state) is None
    assert "not powers of two" in pallas_gpu.unfit(x[..., :48], x, state)
    assert "float16" in pallas_gpu.unfit(x, x.astype(jnp.float16), state)
    assert pallas_gpu.unsupported(x, x, state) == "the backend is cpu"


def test_block_sizes_come_by_device_kind_and_an_unknown_one_is_logged(caplog):
    for sizes in (*pallas_gpu.BLOCKS.values(), pallas_gpu.UNKNOWN):
        chunk, columns, warps = sizes
        assert all(n & (n - 1) == 0 for n in sizes) and min(chunk, columns) >= 16 and warps <= 16
    with caplog.at_level(logging.WARNING):
        assert pallas_gpu.blocks("NVIDIA H100 80GB HBM3") == pallas_gpu.BLOCKS["NVIDIA H100"]
        assert not caplog.text
        assert pallas_gpu.blocks("Abacus") == pallas_gpu.UNKNOWN
    assert "no block sizes for 'Abacus'" in caplog.text


def test_the_gpu_kernels_lower_to_triton_for_a_gpu_that_is_not_here():
    inputs = [jnp.asarray(x, jnp.float32) for x in make(40, dim=128, value_dim=128)]
    ids = jnp.ones((2, 40), jnp.int32)

    def loss(*xs):
        out, state = pallas_gpu.pallas(*xs[:5], ids, xs[5], pallas_gpu.BLOCKS["NVIDIA H100"])
        return jnp.sum(out) + jnp.sum(state)

    traced = jax.jit(jax.grad(loss, argnums=tuple(range(6)))).trace(*inputs)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 2  # the states again, and backward


def test_the_kernels_blocks_fit_in_the_smallest_vmem():
    assert max(vmem_bytes(128, 128, 128, backward) for backward in (False, True)) < 16 * 2**20 // 4


COMPILE = """
import sys
import jax, jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc
from omnijax.ops.gated_delta_rule.pallas_tpu import pallas, pallas_step
from omnijax.sharding import make_mesh

topology = get_topology_desc(platform="tpu", topology_name=sys.argv[1])
here = jax.sharding.SingleDeviceSharding(topology.devices[0])
def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=here)
for dtype in (jnp.float32, jnp.bfloat16):
    q, v = array(1, 512, 4, 128, dtype=dtype), array(1, 512, 8, 128, dtype=dtype)
    g = array(1, 512, 8)
    ids, state = array(1, 512, dtype=jnp.int32), array(1, 8, 128, 128)
    def loss(q, k, v, g, b, ids, s):
        out, after = pallas(q, k, v, g, b, ids, s, 64)
        return jnp.sum(out.astype(jnp.float32) ** 2) + jnp.sum(after)
    grad = jax.jit(jax.grad(loss, (0, 1, 2, 3, 4, 6)))
    text = grad.lower(q, q, v, g, g, ids, state).compile().as_text()
    print(topology.devices[0].device_kind, dtype.__name__, text.count("tpu_custom_call"))
one = lambda x: jax.ShapeDtypeStruct((64, *x.shape[2:]), x.dtype, sharding=here)
step = jax.jit(pallas_step, donate_argnums=5)
lowered = step.lower(one(q), one(q), one(v), one(g), one(g), array(64, 8, 128, 128))
print("step", lowered.compile().as_text().count("tpu_custom_call"))
mesh = make_mesh(data=2, tensor=2, devices=topology.devices)
here = jax.sharding.NamedSharding(mesh, jax.P())
q, v, g = array(2, 512, 4, 128), array(2, 512, 8, 128), array(2, 512, 8)
ids, state = array(2, 512, dtype=jnp.int32), array(2, 8, 128, 128)
with jax.set_mesh(mesh):
    text = grad.lower(q, q, v, g, g, ids, state).compile().as_text()
print("mesh", text.count("tpu_custom_call"))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not (importlib.util.find_spec("libtpu") or os.environ.get("TPU_LIBRARY_PATH")),
    reason="libtpu is not installed",
)
@pytest.mark.parametrize(
    ("topology", "accelerator"),
    [("v5e:2x2", "v5litepod-4"), ("v5p:2x2x1", "v5p-8"), ("v6e:2x2", "v6e-4")],
)
def test_the_kernels_compile_for(topology, accelerator):
    environment = {
        **os.environ,
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": accelerator,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, topology], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = [int(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(kernels) == 4 and min(*kernels[:2], kernels[3]) >= 3 and kernels[2] >= 1


if __name__ == "__main__":
    print(json.dumps(spread()))
