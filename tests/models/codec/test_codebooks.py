"""How codes are learned: each sentence of `codebooks.py` by itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.models.codec import QuantiserConfig, SplitRVQ
from omnijax.models.codec.codebooks import (
    CodebookState,
    codebook_use,
    draw,
    kept_codebooks,
    kmeans,
    quantise_for_training,
    split,
    start_codebooks,
    update_codebooks,
)
from omnijax.models.codec.quantiser import Residuals, nearest, quantise

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = QuantiserConfig(
    features=6, codebooks=4, size=8, width=3, decay=0.5, dropout=1.0, plain=0.0
)
RVQ = SplitRVQ(CONFIG)
ROWS, FRAMES = 5, 7


@pytest.fixture(scope="module")
def features():
    return jax.random.normal(jax.random.key(1), (ROWS, FRAMES, CONFIG.features))


@pytest.fixture(scope="module")
def params(features):
    return jax.jit(RVQ.init)(jax.random.key(0), features)


def trained(params, features, key=None, valid=None):
    valid = jnp.ones((ROWS, FRAMES), bool) if valid is None else valid
    return RVQ.apply(params, features, valid, key, method=quantise_for_training)


def test_each_codebook_quantises_what_the_one_before_left(params, features):
    x, _ = RVQ.apply(params, features, method="project")
    codebooks = params["params"]["codebooks"][:3]
    chain = quantise(x, codebooks)
    left = np.asarray(x)
    for q in range(3):
        distances = ((left[..., None, :] - np.asarray(codebooks[q])) ** 2).sum(-1)
        np.testing.assert_array_equal(chain.codes[q], distances.argmin(-1))
        left = left - np.asarray(codebooks[q])[distances.argmin(-1)]
    np.testing.assert_allclose(chain.inputs[2] - chain.values[2], left, atol=1e-5)


def test_without_dropout_training_sees_the_features_that_the_codes_give(params, features):
    out = jax.jit(trained)(params, features)
    np.testing.assert_allclose(out.features, RVQ.apply(params, features), atol=1e-5)
    codes = RVQ.apply(params, features, method="encode")
    np.testing.assert_array_equal(jnp.moveaxis(out.residuals.codes, 0, -1), codes)
    semantic = RVQ.apply(params, codes[..., :1], method="decode")
    np.testing.assert_allclose(out.semantic, semantic, atol=1e-5)


def test_the_gradient_passes_straight_through(params, features):
    weights = jax.random.normal(jax.random.key(2), features.shape)

    def loss(x):
        return jnp.sum(trained(params, x).features * weights)

    def linear(x):  # the quantiser left out
        return jnp.sum(RVQ.apply(params, *RVQ.apply(params, x, method="project"), method="restore")
                       * weights)  # fmt: skip

    ours, expected = jax.jit(lambda x: (jax.grad(loss)(x), jax.grad(linear)(x)))(features)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_share_of_the_rows_is_not_quantised_and_its_codes_are_learned_all_the_same():
    config = dataclasses.replace(CONFIG, dropout=0.0, plain=0.5)
    rvq = SplitRVQ(config)
    features = jax.random.normal(jax.random.key(1), (40, ROWS, config.features))
    params = jax.jit(rvq.init)(jax.random.key(0), features)
    valid = jnp.ones(features.shape[:2], bool)
    out = rvq.apply(params, features, valid, jax.random.key(3), method=quantise_for_training)
    linear = rvq.apply(params, *rvq.apply(params, features, method="project"), method="restore")
    plain = np.abs(out.features - linear).max((1, 2)) < 1e-5
    coded = np.abs(out.features - rvq.apply(params, features)).max((1, 2)) < 1e-4
    np.testing.assert_array_equal(plain, ~coded)
    assert 8 < plain.sum() < 32
    assert np.asarray(out.used).all()


def test_the_commitment_pulls_the_input_to_its_codes_and_no_code_to_its_input(params, features):
    def loss(params, x):
        return trained(params, x).commitment

    by_params, by_input = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, features)
    assert not np.any(by_params["params"]["codebooks"])
    assert np.any(by_params["params"]["semantic_in"])
    value = loss(params, features)
    assert float(loss(params, features - 0.01 * by_input)) < float(value)
    out = trained(params, features)
    expected = np.square(np.asarray(out.residuals.inputs - out.residuals.values)).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_dropout_keeps_a_prefix_of_the_codebooks_and_never_drops_the_semantic_one():
    kept = np.asarray(kept_codebooks(jax.random.key(0), 400, CONFIG))
    counts = kept.sum(0)
    np.testing.assert_array_equal(kept, np.arange(4)[:, None] < counts)
    assert set(counts) == {1, 2, 3, 4}
    some = dataclasses.replace(CONFIG, dropout=0.25)
    assert (
        0.6 < (np.asarray(kept_codebooks(jax.random.key(1), 400, some)).sum(0) == 4).mean() < 0.95
    )


def test_a_row_that_keeps_a_prefix_sounds_as_its_first_codes_alone(params, features):
    key = jax.random.key(7)
    out = jax.jit(trained)(params, features, key)
    counts = np.asarray(out.used).sum(0)[:, 0]
    assert len(set(counts)) > 1
    codes = jnp.moveaxis(out.residuals.codes, 0, -1)
    for row, count in enumerate(counts):
        alone = RVQ.apply(params, codes[row : row + 1, :, :count], method="decode")
        np.testing.assert_allclose(out.features[row], alone[0], atol=1e-5)


def one_codebook(x, codes, size=4):
    """Residuals of one codebook over a row of frames."""
    inputs = jnp.asarray(x, jnp.float32)[None, None]
    return Residuals(jnp.asarray(codes)[None, None], inputs, jnp.zeros_like(inputs))


def test_a_code_moves_to_the_mean_of_what_chose_it():
    config = dataclasses.replace(CONFIG, size=2, width=1, dead_below=0.0, decay=0.5)
    state = CodebookState(jnp.ones((1, 2)), jnp.array([[[0.0], [10.0]]]))
    x = np.array([[1.0], [3.0], [12.0]])
    residuals = one_codebook(x, [0, 0, 1], 2)
    used = jnp.ones((1, 1, 3), bool)
    after = update_codebooks(state, residuals, used, jax.random.key(0), config)
    # usage 0.5 * 1 + 0.5 * 2, sum 0.5 * 0 + 0.5 * 4; and 0.5 + 0.5, 5 + 6.
    np.testing.assert_allclose(after.usage, [[1.5, 1.0]])
    np.testing.assert_allclose(after.codebooks, [[[2 / 1.5], [11.0]]], rtol=1e-6)
    for _ in range(40):
        after = update_codebooks(after, residuals, used, jax.random.key(0), config)
    np.testing.assert_allclose(after.codebooks, [[[2.0], [12.0]]], rtol=1e-5)


def test_frames_that_do_not_count_move_nothing():
    config = dataclasses.replace(CONFIG, size=2, width=1, dead_below=0.0)
    state = CodebookState(jnp.ones((1, 2)), jnp.array([[[0.0], [10.0]]]))
    used = jnp.array([[[True, False, False]]])
    x = np.array([[1.0], [99.0], [99.0]])
    after = update_codebooks(state, one_codebook(x, [0, 0, 1], 2), used, jax.random.key(0), config)
    np.testing.assert_allclose(after.codebooks, [[[0.5], [10.0]]])


def test_a_dead_code_takes_half_of_the_most_used_one_and_the_others_stay():
    config = dataclasses.replace(CONFIG, size=4, width=2, decay=0.5, dead_below=0.2)
    centres = jnp.array([[0.0, 0.0], [1.0, 1.0], [50.0, 50.0], [-50.0, 9.0]])
    usage = jnp.array([[4.0, 5.0, 0.01, 4.0]])
    state = CodebookState(usage, centres[None])
    x = centres[jnp.array([0, 1, 1, 3])]
    codes = nearest(x, centres)
    used = jnp.array([[[True, True, True, True]]])
    after = update_codebooks(state, one_codebook(x, codes), used, jax.random.key(0), config)
    # 0.5 * 5 + 0.5 * 2 is shared.
    np.testing.assert_allclose(after.usage, [[2.5, 1.75, 1.75, 2.5]])
    revived, given = np.asarray(after.codebooks[0, 2]), np.asarray(after.codebooks[0, 1])
    apart = np.abs(revived - given).max()
    assert 0 < apart < 0.05 * np.std(centres)
    living = np.array([0, 1, 3])
    np.testing.assert_allclose(after.codebooks[0, living], centres[living], atol=1e-5)


def test_of_more_dead_codes_than_others_each_that_can_gives_once_and_the_rest_wait():
    usage = jnp.array([0.0, 3.0, 0.0, 0.0, 8.0, 1.5])
    codebook = jnp.arange(6.0)[:, None]
    after, moved = split(jax.random.key(0), usage, codebook, jnp.float32(1.0))
    # The last could not give without falling under 1 itself.
    np.testing.assert_allclose(after, [4.0, 1.5, 1.5, 0, 4.0, 1.5])
    np.testing.assert_allclose(np.round(moved[:, 0]), [4, 1, 1, 3, 4, 5])


def test_a_code_that_waits_without_any_use_stays_where_it_is():
    config = dataclasses.replace(CONFIG, size=4, width=2, decay=0.5, dead_below=0.9)
    centres = jnp.array([[1.0, 0.0], [5.0, 5.0], [6.0, 6.0], [7.0, 7.0]])
    state = CodebookState(jnp.array([[1.0, 0.0, 0.0, 0.0]]), centres[None])
    residuals = one_codebook(centres[:1], [0])
    used = jnp.ones((1, 1, 1), bool)
    after = update_codebooks(state, residuals, used, jax.random.key(0), config)
    np.testing.assert_allclose(after.usage, [[0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(after.codebooks[0, 2:], centres[2:])


def test_codes_of_what_lies_about_zero_in_all_directions_stay_in_use():
    """As what late codebooks code does; put at random inputs, a quarter of them were used."""
    config = dataclasses.replace(CONFIG, size=128, width=64, decay=0.95)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((400, 1, 200, 64)), jnp.float32)
    used = jnp.ones((1, 1, 200), bool)

    def step(state, inputs):
        x, key = inputs
        codes = nearest(x, state.codebooks[0])[None]
        residuals = Residuals(codes, x[None], jnp.zeros_like(x)[None])
        return update_codebooks(state, residuals, used, key, config), codes

    state = CodebookState(jnp.ones((1, 128)), x[0, :, :128])
    keys = jax.random.split(jax.random.key(0), len(x))
    _, codes = jax.jit(lambda state: jax.lax.scan(step, state, (x, keys)))(state)
    assert len(np.unique(codes[-20:])) == 128


def test_a_codebook_dropped_in_the_whole_batch_revives_nothing():
    config = dataclasses.replace(CONFIG, size=4, width=2, dead_below=0.5)
    usage = jnp.array([[4.0, 4.0, 0.01, 4.0]])
    state = CodebookState(usage, jnp.arange(8.0).reshape(1, 4, 2))
    x, used = jnp.full((3, 2), 99.0), jnp.zeros((1, 1, 3), bool)
    after = update_codebooks(state, one_codebook(x, [0, 0, 0]), used, jax.random.key(0), config)
    np.testing.assert_allclose(after.codebooks, state.codebooks, rtol=1e-5)


def test_kmeans_finds_clusters_that_lie_apart_and_leaves_out_what_does_not_count():
    truth = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
    rng = np.random.default_rng(0)
    x = np.concatenate([truth[i] + 0.1 * rng.standard_normal((20, 2)) for i in range(4)])
    x = np.concatenate([x, np.full((50, 2), 1e3)]).astype(np.float32)
    weight = jnp.asarray(np.r_[np.ones(80), np.zeros(50)], jnp.float32)
    best = np.inf
    for seed in range(4):  # Lloyd's algorithm may start two centres in one cluster
        centres, counts = kmeans(jax.random.key(seed), jnp.asarray(x), weight, 4, 10)
        assert float(jnp.sum(counts)) == 80 and float(jnp.max(centres)) < 20
        ordered = np.asarray(centres)[np.lexsort(np.round(np.asarray(centres)).T[::-1])]
        best = min(best, np.abs(ordered - truth[np.lexsort(truth.T[::-1])]).max())
    assert best < 0.2


def test_drawn_rows_count_and_none_comes_twice_while_there_are_enough():
    x = jnp.arange(6.0)[:, None]
    weight = jnp.array([1.0, 1, 0, 1, 1, 0])
    assert sorted(np.asarray(draw(jax.random.key(0), x, weight, 4))[:, 0]) == [0, 1, 3, 4]
    assert set(np.asarray(draw(jax.random.key(1), x, weight, 9))[:, 0]) == {0, 1, 3, 4}


def test_the_start_codes_the_batch_better_than_random_codes_and_uses_them(params, features):
    valid = jnp.ones((ROWS, FRAMES), bool)
    state = RVQ.apply(params, features, valid, jax.random.key(3), method=start_codebooks)
    started = {"params": params["params"] | {"codebooks": state.codebooks}}
    before, after = trained(params, features), trained(started, features)
    assert float(after.commitment) < 0.5 * float(before.commitment)
    share, perplexity = codebook_use(after.residuals.codes, after.used, CONFIG.size)
    assert float(share.min()) == 1.0  # 35 frames, 8 codes: each is somebody's nearest
    assert float(perplexity.min()) > 4 and float(perplexity.max()) <= CONFIG.size + 1e-3


def test_use_and_perplexity_count_codes_that_are_chosen():
    codes = jnp.array([[[0, 0, 1, 1]], [[2, 2, 2, 3]]])
    used = jnp.array([[[True] * 4], [[True, True, True, False]]])
    share, perplexity = codebook_use(codes, used, 4)
    np.testing.assert_allclose(share, [0.5, 0.25])
    np.testing.assert_allclose(perplexity, [2.0, 1.0], rtol=1e-5)
