"""The comparison runs end to end at the least size, goes on, and compares like with like."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import _gdn_training as training
from experiments._gdn_cost import KINDS, crossover, slope
from experiments.gdn_vs_attention import Settings, run
from omnijax.errors import UserError
from omnijax.nn.cache import init_cache

TINIEST = Settings(
    patterns=("gdn", "attention"), tasks=("parity",), seeds=1, steps=2, rows=2, length=32,
    eval_lengths=(32,), eval_rows=2, width=16, layers=4, ffn=64, cost_lengths=(16,),
    kinds=("decode",), rounds=2, sample_seconds=0.0,
)  # fmt: skip


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("kinds", [("decode",), pytest.param(KINDS, marks=pytest.mark.slow)])
def test_a_run_writes_one_page_and_goes_on_with_what_is_missing(tmp_path, kinds):
    said = []
    settings = dataclasses.replace(TINIEST, kinds=kinds)
    page = run(settings, tmp_path, said.append)
    text = page.read_text()
    for words in ("parity", "state bytes", "faster from T", "slope", "In short"):
        assert words in text
    assert "<script" not in text and "http" not in text.replace("http://www.w3.org", "")
    first = json.loads((tmp_path / "results.json").read_text())
    assert {*first["runs"]} == {"parity/gdn/0.003/0", "parity/attention/0.003/0"}
    for result in first["runs"].values():
        assert {*result["scores"]} == {"32"}
        assert 0 <= result["validation"] <= 1
    assert {*first["cost"]} == {f"{kind}/16" for kind in kinds}
    for rows in first["cost"].values():
        assert [row["pattern"] for row in rows] == ["gdn", "attention"]
        assert all(row["milliseconds"]["median"] > 0 for row in rows)
    said.clear()
    run(settings, tmp_path, said.append)
    assert said == ["2 of 2 models are in " + str(tmp_path / "results.json")]
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["runs"] == first["runs"] and again["cost"] == first["cost"]


def test_results_of_other_settings_are_not_mixed(tmp_path):
    none = dataclasses.replace(TINIEST, tasks=(), cost_lengths=())
    run(none, tmp_path)
    other = dataclasses.replace(none, steps=7)
    with pytest.raises(UserError, match="made with steps 2, not 7: give another --into"):
        run(other, tmp_path)


@pytest.mark.parametrize("match", training.MATCHES)
def test_every_pattern_is_as_large_as_attention_by_the_measure_that_is_named(match):
    sizes = {"width": 64, "layers": 4, "ffn": 256, "length": 256}
    configs = training.matched(tuple(training.PATTERNS), match, **sizes)
    numbers = [training.measured(config, match, 256) for config in configs.values()]
    assert max(numbers) / min(numbers) < 1.01
    assert configs["attention"].ffn == 256
    for pattern, config in configs.items():
        assert config.pattern == training.PATTERNS[pattern]


@pytest.mark.usefixtures("quick_compile")
def test_bare_gdn_has_no_convolution_and_reads_in_pieces_as_at_once():
    config = training.decoder_config("bare", width=16, layers=1, ffn=16)
    model = training.Reader(config, 8)
    tokens = jax.random.randint(jax.random.key(1), (2, 24), 0, 8)
    params = jax.jit(model.init)(jax.random.key(0), tokens)
    leaves = jax.tree.leaves_with_path(params)
    taps = {leaf.shape[1] for path, leaf in leaves if "conv" in f"{path}"}
    assert taps == {1}  # behind the axis of periods
    read = jax.jit(model.apply)
    whole, _ = read(params, tokens)
    cache, pieces = init_cache(config, 2, 24), []
    for begin, end in ((0, 9), (9, 10), (10, 24)):
        logits, cache = read(params, tokens[:, begin:end], cache)
        pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=1e-5)


def test_mixers_that_are_too_large_to_match_are_refused():
    with pytest.raises(UserError, match="ffn is 1: gdn without any is already larger in param"):
        training.matched(("gdn",), "parameters", width=64, layers=4, ffn=1, length=64)


def test_flops_of_attention_grow_with_length_and_those_of_gdn_do_not():
    gdn, attention = (
        [
            training.flops(training.decoder_config(p, width=64, layers=4, ffn=128), n)
            for n in (512, 1024)
        ]
        for p in ("gdn", "attention")
    )
    assert gdn[0] == gdn[1] and attention[0] < attention[1]


def test_the_cache_of_attention_grows_with_length_and_the_state_of_gdn_does_not():
    gdn, attention = (
        [
            training.cache_bytes(training.decoder_config(p, width=64, layers=4, ffn=128), n)
            for n in (512, 1024)
        ]
        for p in ("gdn", "attention")
    )
    assert gdn[0] == gdn[1] and 2 * attention[0] == attention[1]


def test_the_text_task_asks_for_the_next_token():
    task = training.text_task(plans=30)
    tokens, targets, levels = task.draw(np.random.default_rng(0), 64)
    assert (tokens[1:] == targets[:-1]).all() and {*levels} == {0, 1, 2, 3}
    with pytest.raises(UserError, match="no task is called 'sums'; there are recall"):
        training.open_task("sums")


def times(*milliseconds):
    return [{"quarter": 0.9 * t, "median": t, "three_quarters": 1.1 * t} for t in milliseconds]


def test_a_crossover_lies_where_the_lines_cross_on_log_axes():
    lengths = [1, 10, 100]
    ours, theirs = times(10, 100, 1000), times(1, 100 / 10**0.5, 10_000)
    found = crossover(lengths, ours, theirs)
    assert lengths[1] < found.least < found.length < found.most < lengths[2]
    assert found.length == pytest.approx(10 ** (1 + 1 / 3))
    assert str(crossover(lengths, theirs, theirs)).startswith("beyond 100")
    assert str(crossover(lengths, times(1, 1, 1), times(2, 2, 2))) == "at most 1"


def test_a_slope_is_the_exponent_of_the_upper_half():
    lengths = [1, 2, 4, 8, 16, 32]
    assert slope(lengths, [9, 9, 9, 8**2, 16**2, 32**2]) == pytest.approx(2)
    assert slope([4], [1.0]) is None
