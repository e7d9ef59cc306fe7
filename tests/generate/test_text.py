import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.generate.sampling import SamplingConfig
from omnijax.generate.text import TextGenerator
from omnijax.models.thinker import Thinker, ThinkerConfig, ThinkerInputs, text_inputs
from omnijax.nn.config import DecoderConfig

pytestmark = pytest.mark.usefixtures("quick_compile")

VOCAB = 61
CONFIG = ThinkerConfig(
    decoder=DecoderConfig(
        width=32, layers=2, pattern=("gdn", "full"), heads=2, kv_heads=1, head_dim=16,
        partial_rotary=0.5, mrope_sections=(2, 1, 1), gdn_key_heads=2, gdn_value_heads=2,
        gdn_key_dim=8, gdn_value_dim=8, experts=4, experts_per_token=2, expert_ffn=16,
        shared_expert_ffn=16,
    ),
    vocab_size=VOCAB, tie_embeddings=False, aut=None, vision=None,
    audio_token_id=1, image_token_id=2, video_token_id=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    thinker = Thinker(CONFIG)
    prompt = jnp.asarray(np.random.default_rng(0).integers(4, VOCAB, (3, 9)))
    params = thinker.init(jax.random.key(1), text_inputs(prompt))["params"]
    # Sharper logits than at initialisation, so that no two are near a tie.
    params["lm_head"] = jax.tree.map(lambda w: 20 * w, params["lm_head"])
    return thinker, params, prompt


def generator(model, **options):
    thinker, params, _ = model
    options = {"stop_ids": (), "max_len": 64, "prefill_chunk": 4, "block": 3} | options
    return TextGenerator(thinker, params, **options)


def ragged(prompt, lengths):
    """The first tokens of each row, padded on the right."""
    valid = jnp.arange(prompt.shape[1]) < jnp.asarray(lengths)[:, None]
    inputs = text_inputs(prompt)
    return ThinkerInputs(
        jnp.where(valid, prompt, 0), jnp.where(valid, inputs.positions, 0), valid.astype(jnp.int32)
    )


def test_greedy_tokens_are_the_argmax_of_teacher_forced_logits(model):
    thinker, params, prompt = model
    rows = generator(model)(text_inputs(prompt), 10)
    whole = jnp.concatenate([prompt, jnp.array(rows)], axis=1)
    hidden = thinker.apply({"params": params}, text_inputs(whole)).hidden
    logits = thinker.apply({"params": params}, hidden, method=Thinker.logits)
    forced = jnp.argmax(logits[:, prompt.shape[1] - 1 : -1], axis=-1)
    assert forced.tolist() == rows


def test_a_row_of_a_batch_continues_as_it_does_alone(model):
    prompt, lengths = model[2], [9, 2, 5]
    together = generator(model)(ragged(prompt, lengths), 8)
    for row, length in enumerate(lengths):
        alone = generator(model)(text_inputs(prompt[row : row + 1, :length]), 8)
        assert alone[0] == together[row]


@pytest.mark.parametrize("chunk, block", [(1, 1), (3, 5), (64, 8)])
def test_chunk_and_block_sizes_change_nothing(model, chunk, block):
    reference = generator(model)(text_inputs(model[2]), 8)
    other = generator(model, prefill_chunk=chunk, block=block)(text_inputs(model[2]), 8)
    assert other == reference


def test_a_row_ends_with_its_first_stop_id_and_the_others_go_on(model):
    free = generator(model)(text_inputs(model[2]), 12)
    stop = free[0][4]
    stopped = generator(model, stop_ids=(stop,))(text_inputs(model[2]), 12)
    for row, tokens in zip(free, stopped, strict=True):
        end = row.index(stop) + 1 if stop in row else len(row)
        assert tokens == row[:end]


def test_a_row_that_has_read_nothing_stays_empty_and_keeps_nobody_waiting(model):
    inputs = ragged(model[2], [9, 0, 5])
    heard = []
    free = generator(model)(ragged(model[2], [9, 2, 5]), 12)
    stops = (free[0][1], free[2][1])
    rows = generator(model, stop_ids=stops)(inputs, 12, on_tokens=heard.append)
    assert rows[1] == [] and rows[0] and rows[2]
    assert len(heard) == 1  # Both others stop within the first block of three.


def test_a_conversation_goes_on_from_its_state(model):
    prompt = model[2][:1]
    text = generator(model)
    state = text.prefill(text.start(1), text_inputs(prompt))
    state, (answer,) = text.decode(state, 5)
    more = jnp.array([[7, 9, 11]])
    inputs = text_inputs(more)._replace(
        positions=text_inputs(more).positions + prompt.shape[1] + len(answer)
    )
    _, (second,) = text.decode(text.prefill(state, inputs), 5)
    whole = jnp.concatenate([prompt, jnp.array([answer]), more], axis=1)
    assert generator(model)(text_inputs(whole), 5) == [second]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_reading_gives_the_stream_that_the_whole_has_and_the_state_of_a_prefill(model, layer):
    thinker, params, prompt = model
    inputs, text = ragged(prompt, [9, 2, 5]), generator(model)
    state, stream = text.read(text.start(3), inputs, layer)
    assert stream.shape == (3, 9, CONFIG.decoder.width)
    decoder = dataclasses.replace(CONFIG.decoder, accept_hidden_layer=layer)
    listening = Thinker(dataclasses.replace(CONFIG, decoder=decoder))
    whole = listening.apply({"params": params}, inputs).aux.hidden
    valid = inputs.segment_ids > 0
    np.testing.assert_allclose(stream[valid], whole[valid], atol=2e-5)
    other = text.prefill(text.start(3), inputs)
    np.testing.assert_array_equal(state.logits, other.logits)
    with pytest.raises(UserError, match="accept_hidden_layer is 3, it must be 0 to 2"):
        text.read(text.start(3), inputs, 3)


def test_every_block_is_told_to_the_callback(model):
    told = [[], [], []]

    def hear(rows):
        for ear, row in zip(told, rows, strict=True):
            ear.extend(row)

    rows = generator(model)(text_inputs(model[2]), 7, on_tokens=hear)
    assert told == rows and all(len(row) == 7 for row in rows)


def test_sampling_repeats_with_its_seed_and_differs_with_another(model):
    text = generator(model, sampling=SamplingConfig(temperature=3.0))
    draw = lambda seed: text(text_inputs(model[2]), 12, seed=seed)  # noqa: E731
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_strong_repetition_penalty_never_says_a_token_twice(model):
    text = generator(model, sampling=SamplingConfig(repetition_penalty=1e6))
    for prompt, row in zip(model[2].tolist(), text(text_inputs(model[2]), 12), strict=True):
        assert len(set(row)) == len(row) and not set(row) & set(prompt)


def test_a_context_that_does_not_fit_is_refused_with_both_numbers(model):
    with pytest.raises(UserError, match=r"9 tokens.*limit \(max_len\) is 8"):
        generator(model, max_len=8)(text_inputs(model[2]), 1)
    with pytest.raises(UserError, match=r"13 tokens.*limit \(max_len\) is 12"):
        generator(model, max_len=12)(text_inputs(model[2]), 4)
