"""Media fill their placeholders by rank, and a Thinker's parts fit or say why not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.errors import UserError
from omnijax.models import presets
from omnijax.models.thinker import Thinker, text_inputs
from omnijax.models.thinker.inputs import empty_media
from omnijax.models.thinker.merge import gather_features

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = presets.tiny()
ROWS = st.lists(
    st.tuples(
        st.lists(st.booleans(), min_size=9, max_size=9),
        st.lists(st.booleans(), min_size=6, max_size=6),
    ),
    min_size=2,
    max_size=2,
)


@given(ROWS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_kth_placeholder_of_a_row_takes_its_kth_valid_feature(rows):
    slots = jnp.array([row[0] for row in rows])
    valid = jnp.array([row[1] for row in rows])
    features = jnp.arange(1.0, 13.0).reshape(2, 6, 1) * jnp.ones((1, 1, 2))
    placed, filled = jax.jit(gather_features)(features, valid, slots)
    for b in range(2):
        given_, wanted = iter(np.flatnonzero(valid[b])), np.zeros(9)
        for t in np.flatnonzero(slots[b]):
            source = next(given_, None)  # placeholders past the last feature stay as they are
            wanted[t] = 0 if source is None else features[b, source, 0]
        np.testing.assert_array_equal(placed[b, :, 0], wanted)
        np.testing.assert_array_equal(filled[b], wanted > 0)


def test_gradients_reach_exactly_the_features_that_were_placed():
    slots, valid = jnp.array([[True, False, True]]), jnp.array([[False, True, True, True]])
    value = lambda features: gather_features(features, valid, slots)[0].sum()  # noqa: E731
    gradient = jax.grad(value)(jnp.ones((1, 4, 2)))
    np.testing.assert_array_equal(gradient[0, :, 0], [0, 1, 1, 0])


def test_every_part_s_parameters_are_made_from_text_alone():
    shapes = jax.eval_shape(
        Thinker(CONFIG).init, jax.random.key(0), text_inputs(jnp.zeros((1, 5), jnp.int32))
    )["params"]
    assert set(shapes) == {"embed", "decoder", "audio", "vision", "lm_head"}
    assert "deepstack_0" in shapes["vision"]
    bare = dataclasses.replace(CONFIG, aut=None, vision=None, tie_embeddings=True)
    shapes = jax.eval_shape(
        Thinker(bare).init, jax.random.key(0), text_inputs(jnp.zeros((1, 5), jnp.int32))
    )["params"]
    assert set(shapes) == {"embed", "decoder"}


DEEP = (
    dataclasses.replace(CONFIG.vision, layers=3, deepstack_layers=(0, 1, 2)),
    dataclasses.replace(CONFIG.decoder, layers=2, accept_hidden_layer=None),
)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"vocab_size": 0}, ("vocab_size", "0")),
        ({"audio_token_id": 64}, ("audio_token_id", "64")),
        ({"image_token_id": -1}, ("image_token_id", "-1")),
        ({"image_token_id": 63}, ("image_token_id", "video_token_id", "63")),
        ({"aut": dataclasses.replace(CONFIG.aut, out_width=48)}, ("aut.out_width", "48", "32")),
        ({"vision": dataclasses.replace(CONFIG.vision, out_width=16)}, ("vision", "16", "32")),
        ({"decoder": DEEP[1], "vision": DEEP[0]}, ("deepstack_layers has 3 levels", "has 2")),
    ],
)
def test_what_does_not_fit_is_named_with_its_number(change, words):
    with pytest.raises(UserError) as error:
        dataclasses.replace(CONFIG, **change)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("part", "media"), [("aut", "audio"), ("vision", "vision")])
def test_media_without_an_encoder_are_refused_before_anything_runs(part, media):
    inputs = text_inputs(jnp.zeros((1, 4), jnp.int32))
    inputs = inputs._replace(**{media: getattr(empty_media(CONFIG, inputs), media)})
    model = Thinker(dataclasses.replace(CONFIG, **{part: None}))
    with pytest.raises(UserError, match=f"has media for {part}, which this model lacks"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))
