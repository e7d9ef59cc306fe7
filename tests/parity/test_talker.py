"""Talker and MTP against transformers' Qwen3-Omni classes, with the same random weights."""

import functools
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import thinker_cases as cases  # noqa: E402

from omnijax.generate.sampling import SamplingConfig  # noqa: E402
from omnijax.generate.speech import SpeechConfig, SpeechGenerator  # noqa: E402
from omnijax.models.talker import Talker, TalkerConfig, predict_residuals  # noqa: E402
from omnijax.models.talker import speech_inputs as frames_alone  # noqa: E402
from omnijax.models.talker.dual_track import dual_track_row  # noqa: E402
from omnijax.models.talker.prompt import Marks, collate_talker  # noqa: E402
from omnijax.nn import DecoderConfig  # noqa: E402

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
RELEASED = {  # what both decoders of the released Talker share
    "pattern": ("full",),
    "attention_gate": False,
    "norm_zero_centred": False,
    "partial_rotary": 1.0,
    "rope_theta": 1000.0,
    "width": 32,
    "head_dim": 16,
}
CONFIG = TalkerConfig(
    decoder=DecoderConfig(
        **RELEASED, layers=3, heads=4, kv_heads=2, mrope_sections=(4, 2, 2),
        experts=6, experts_per_token=2, expert_ffn=20, shared_expert_ffn=28,
    ),
    mtp=DecoderConfig(
        **RELEASED, layers=2, heads=2, kv_heads=1, mrope_sections=(8, 0, 0), ffn=40
    ),
    form="dual_track", codebooks=5, codebook_size=24, codec_vocab_size=48, control_base=30,
    speakers=(("ethan", 26),), text_vocab_size=50, text_width=20,
    tts_pad_id=47, tts_bos_id=48, tts_eos_id=49,
    thinker_width=20, accept_hidden_layer=1, projection="mlp", projection_ffn=36,
)  # fmt: skip
MODEL = Talker(CONFIG)
LAYER = cases.LAYER | {"self_attn.q_proj.weight": (("attention/q/w",), "rows")}


def rope(decoder, **more):
    return {"rope_type": "default", "rope_theta": decoder.rope_theta, **more}


@functools.cache
def released():
    """A small Qwen3-Omni Talker with random weights."""
    from transformers.models.qwen3_omni_moe import configuration_qwen3_omni_moe as configs
    from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as models

    d, m = CONFIG.decoder, CONFIG.mtp
    sizes = lambda c: {  # noqa: E731
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "rms_norm_eps": c.norm_eps,
    }
    text = configs.Qwen3OmniMoeTalkerTextConfig(
        **sizes(d),
        vocab_size=CONFIG.codec_vocab_size,
        intermediate_size=CONFIG.projection_ffn,
        moe_intermediate_size=d.expert_ffn,
        num_experts=d.experts,
        num_experts_per_tok=d.experts_per_token,
        norm_topk_prob=True,
        shared_expert_intermediate_size=d.shared_expert_ffn,
        rope_parameters=rope(d, mrope_section=list(d.mrope_sections)),
    )
    predictor = configs.Qwen3OmniMoeTalkerCodePredictorConfig(
        **sizes(m),
        vocab_size=CONFIG.codebook_size,
        intermediate_size=m.ffn,
        num_code_groups=CONFIG.codebooks,
        rope_parameters=rope(m),
    )
    config = configs.Qwen3OmniMoeTalkerConfig(
        text_config=text,
        code_predictor_config=predictor,
        num_code_groups=CONFIG.codebooks,
        thinker_hidden_size=CONFIG.thinker_width,
        codec_eos_token_id=CONFIG.codec_eos_id,
        codec_pad_id=CONFIG.codec_pad_id,
        codec_bos_id=CONFIG.codec_bos_id,
        codec_nothink_id=CONFIG.nothink_id,
        codec_think_bos_id=CONFIG.think_bos_id,
        codec_think_eos_id=CONFIG.think_eos_id,
    )
    config.spatial_merge_size = 2  # the released file has it; the class reads it
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = models.Qwen3OmniMoeTalkerForConditionalGeneration(config).eval().float()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = 1 + 0.2 * noise if "norm" in name else noise / 5
    return model


def split(array, ours, how, shapes):
    """The arrays that `cases.join` made one released tensor of."""
    out, at = {}, 0
    for name in ours:
        shape = shapes[name]
        if how == "rows":
            rows = int(np.prod(shape[1:]))
            out[name] = array[at : at + rows].T.reshape(shape)
            at += rows
        elif how == "experts":
            rows = shape[2]
            out[name] = array[:, at : at + rows].swapaxes(1, 2)
            at += rows
        else:
            out[name] = array.T.reshape(shape) if how == "columns" else array
    return out


@functools.cache
def params():
    """The released weights as ours; every tensor of theirs and every parameter of ours once."""
    theirs = {name: weight.detach().numpy() for name, weight in released().named_parameters()}
    example = frames_alone(jnp.zeros((1, 3, CONFIG.codebooks), jnp.int32))
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), example)["params"]
    flat = {
        "/".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    out = {}

    def take(name, ours, how="rows"):
        out[ours] = split(theirs.pop(name), [ours], how, flat)[ours]

    take("model.codec_embedding.weight", "codec_embed/table", "same")
    take("codec_head.weight", "codec_head/w")
    for part in ("text_projection", "hidden_projection"):
        for i in (1, 2):
            take(f"{part}.linear_fc{i}.weight", f"{part}/fc_{i}/kernel")
            take(f"{part}.linear_fc{i}.bias", f"{part}/fc_{i}/bias", "same")
    book = range(CONFIG.residuals)
    table = "code_predictor.model.codec_embedding.{}.weight"
    out["mtp/embed"] = np.stack([theirs.pop(table.format(i)) for i in book])
    head = "code_predictor.lm_head.{}.weight"
    out["mtp/head"] = np.stack([theirs.pop(head.format(i)).T for i in book])
    for prefix, ours, layers in (
        ("model", "decoder", CONFIG.decoder.layers),
        ("code_predictor.model", "mtp/decoder", CONFIG.mtp.layers),
    ):
        take(f"{prefix}.norm.weight", f"{ours}/norm/scale", "same")
        stack = f"{ours}/periods/layer_0/"
        one = {k.removeprefix(stack): v[1:] for k, v in flat.items() if k.startswith(stack)}
        parts = []
        for i in range(layers):
            parts.append({})
            for name, (own, how) in LAYER.items():
                full = f"{prefix}.layers.{i}.{name}"
                if full in theirs:
                    own = (own,) if isinstance(own, str) else own
                    parts[-1] |= split(theirs.pop(full), own, how, one)
        out |= {stack + name: np.stack([part[name] for part in parts]) for name in parts[0]}
    assert not theirs, sorted(theirs)
    rng = np.random.default_rng(0)
    out["text_embed/table"] = rng.normal(size=flat["text_embed/table"]).astype(np.float32)
    assert {name: value.shape for name, value in out.items()} == flat
    tree = {}
    for name, value in out.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(value)
    return tree


@functools.partial(jax.jit, static_argnums=0)
def apply(method, params, *args):
    return MODEL.apply({"params": params}, *args, method=method)


def run(method, *args):
    return apply(method, params(), *args)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw_codes(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, CONFIG.codebook_size, (rows, CONFIG.codebooks)).astype(np.int32)


def embed_frames(codes):
    """The released embeddings of each code [N, Q, D], code 0 by the Talker's table."""
    model = released()
    tables = [model.model.codec_embedding, *model.code_predictor.model.codec_embedding]
    return torch.stack([t(torch.tensor(codes[:, i]).long()) for i, t in enumerate(tables)], 1)


@torch.no_grad()
def test_residual_logits_under_teacher_forcing_equal():
    hidden, codes = draw(7, CONFIG.decoder.width), draw_codes(7)
    each = torch.cat([torch.tensor(hidden)[:, None], embed_frames(codes)], 1)
    expected = [
        released().code_predictor(inputs_embeds=each[:, : k + 2]).logits[:, -1]
        for k in range(CONFIG.residuals)
    ]
    ours = run(Talker.residual_logits, hidden, codes)
    np.testing.assert_allclose(ours, torch.stack(expected, 1).numpy(), **TOLERANCE)


@torch.no_grad()
def test_residual_codes_generated_greedily_equal():
    hidden, codes = draw(9, CONFIG.decoder.width, seed=1), draw_codes(9, seed=1)
    first = embed_frames(codes)[:, 0]
    expected = released().code_predictor.generate(
        inputs_embeds=torch.stack([torch.tensor(hidden), first], 1),
        max_new_tokens=CONFIG.residuals,
        do_sample=False,
    )
    ours, _ = jax.jit(predict_residuals, static_argnums=(0, 5))(
        CONFIG, params()["mtp"], hidden, first.numpy(), jax.random.key(0),
        lambda logits, key: jnp.argmax(logits, -1),
    )  # fmt: skip
    np.testing.assert_array_equal(ours, expected.numpy())


@torch.no_grad()
def test_the_talkers_decoder_and_codec_head_equal_with_three_position_axes():
    x = draw(2, 23, CONFIG.decoder.width, seed=2)
    positions = np.cumsum(np.random.default_rng(3).integers(0, 3, (3, 2, 23)), -1)
    expected = released()(
        inputs_embeds=torch.tensor(x),
        attention_mask=torch.ones(2, 23).long(),
        position_ids=torch.tensor(positions),
        use_cache=False,
    ).logits
    hidden, _, _ = run(Talker.decode_embedded, x, positions, np.ones((2, 23), np.int32))
    np.testing.assert_allclose(run(Talker.logits, hidden), expected.numpy(), **TOLERANCE)


TEXT = [5, 9, 11, 7]
MARKS = Marks((1, 2, 3), (1, 4, 3), (5, 3))


@functools.cache
@torch.no_grad()
def released_opening():
    """(what the released Talker reads before its first frame, ids, text to come, tts_pad)"""
    from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as models

    talker = released()
    table = torch.tensor(np.asarray(params()["text_embed"]["table"]))
    marks = [CONFIG.tts_pad_id, CONFIG.tts_bos_id, CONFIG.tts_eos_id]
    pad, bos, eos = talker.text_projection(table[marks])[None].chunk(3, dim=1)
    config = SimpleNamespace(talker_config=talker.config, tts_pad_token_id=CONFIG.tts_pad_id)
    whole = SimpleNamespace(talker=talker, config=config)
    ids = [*MARKS.assistant, *TEXT]
    parts = models.Qwen3OmniMoeForConditionalGeneration._get_talker_assistant_parts(
        whole, 0, len(ids), CONFIG.speaker_id("ethan"), table[ids][None], pad, bos, eos
    )
    return *parts, pad


def our_opening():
    none = np.zeros((0, CONFIG.codebooks), np.int32)
    return dual_track_row(CONFIG, MARKS, TEXT, none, "ethan")


def test_the_two_tracks_before_the_first_frame_equal():
    row = our_opening()
    inputs = collate_talker(CONFIG, [[row]], max_tokens=len(row.tokens)).inputs
    embedded = run(Talker.embed_inputs, inputs)
    np.testing.assert_allclose(embedded, released_opening()[0].numpy(), **TOLERANCE)


@torch.no_grad()
def test_frames_generated_greedily_in_two_tracks_equal():
    embeds, ids, trailing, pad = released_opening()
    eos = CONFIG.codec_eos_id
    result = released().generate(
        inputs_embeds=embeds,
        talker_input_ids=ids,
        trailing_text_hidden=trailing,
        tts_pad_embed=pad,
        attention_mask=torch.ones(embeds.shape[:2]).long(),
        max_new_tokens=11,
        do_sample=False,
        eos_token_id=eos,
        suppress_tokens=[
            i for i in range(CONFIG.codebook_size, CONFIG.codec_vocab_size) if i != eos
        ],
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    expected = torch.stack([h[-1] for h in result.hidden_states if h[-1] is not None], 1)[0]
    assert len(expected) == 10  # past the text's end, into tts_pad
    greedy = SpeechConfig(sampling=SamplingConfig(), residual_sampling=SamplingConfig())
    generator = SpeechGenerator(MODEL, params(), greedy, max_len=32, prefill_chunk=4)
    stream = generator.start([our_opening()], max_frames=10)
    stream.push(TEXT[1:3])  # one text token is read beside each frame: late text waits
    frames = [stream.step(3)[0]]
    assert len(frames[0]) == 2 and stream.waiting == [True]
    stream.push(TEXT[3:], last=True)
    while not stream.done[0]:
        frames.append(stream.step()[0])
    np.testing.assert_array_equal(np.concatenate(frames), expected.numpy())
