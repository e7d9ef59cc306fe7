import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.generate.sampling import (
    SamplingConfig,
    keep_top_k,
    keep_top_p,
    penalise_repeats,
    sample,
)

LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]]))
UNSEEN = jnp.zeros((2, 4), bool)


def draws(config, count=4000):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda key: sample(LOGITS, UNSEEN, key, config))(keys))


def test_temperature_zero_takes_the_largest_logit():
    assert sample(LOGITS, UNSEEN, jax.random.key(0), SamplingConfig()).tolist() == [0, 3]


def test_samples_follow_the_softmax_at_temperature_one():
    tokens = draws(SamplingConfig(temperature=1.0))
    for row in range(2):
        frequency = np.bincount(tokens[:, row], minlength=4) / len(tokens)
        np.testing.assert_allclose(frequency, np.exp(LOGITS[row]), atol=0.03)


def test_temperature_sharpens_as_a_power_of_the_probabilities():
    tokens = draws(SamplingConfig(temperature=0.5))
    expected = np.exp(2 * LOGITS[0]) / np.exp(2 * LOGITS[0]).sum()
    np.testing.assert_allclose(np.bincount(tokens[:, 0], minlength=4) / 4000, expected, atol=0.03)


def test_top_k_keeps_exactly_the_k_likeliest():
    assert np.isfinite(keep_top_k(LOGITS, 2)).tolist() == [
        [True, True, False, False],
        [False, False, True, True],
    ]


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    assert np.isfinite(keep_top_p(LOGITS, 0.6)).tolist() == [
        [True, True, False, False],
        [False, False, True, True],
    ]


def test_top_p_never_empties_a_row():
    assert np.isfinite(keep_top_p(LOGITS, 1e-6)).sum(axis=-1).tolist() == [1, 1]


def test_repetition_penalty_lowers_seen_tokens_of_either_sign_and_no_other():
    logits = jnp.array([[2.0, -2.0, 1.0]])
    seen = jnp.array([[True, True, False]])
    assert penalise_repeats(logits, seen, 2.0).tolist() == [[1.0, -4.0, 1.0]]


@pytest.mark.parametrize(
    "field, value",
    [
        ("temperature", -1.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("repetition_penalty", 0.0),
    ],
)
def test_an_impossible_setting_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field} is {value}"):
        SamplingConfig(**{field: value})
