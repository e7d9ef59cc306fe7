"""That it measures and says what it measured; no test asserts how long anything takes."""

import json

import pytest
from rich.console import Console

from experiments import bench
from experiments._timing import REJECT, Case, Spread, Timed, measure
from experiments.bench import Sizes
from omnijax.errors import UserError

TINIEST = Sizes(
    lengths=(32,), heads=2, head_dim=16, growth_lengths=(32, 64), stack_layers=16,
    stack_batches=(1, 2), stack_context=16, conv=(64, 8), expert_tokens=(8, 1), train_rows=1,
    train_tokens=64, decode_tokens=4, seconds=0.2, rounds=2, sample_seconds=0.0, model="tiny",
)  # fmt: skip


def test_the_slopes_are_exponents_of_time_and_memory():
    def row(form, length):
        ms = length**1.5
        spread = Spread(ms, ms, ms, ms, ms)
        return Timed(
            f"gdn, T {length}, {form}", spread, 1.0, 1, 0, 1.0, "token", None, length, length
        )

    rows = [row(form, 2**n) for form in ("forward", "with backward") for n in (4, 5, 9)]
    found = bench._bench_gdn.slopes(rows)
    assert found["forward, time"] == pytest.approx(1.5)
    assert found["with backward, memory"] == pytest.approx(1.0)
    assert len(found) == 4


@pytest.mark.usefixtures("quick_compile")
def test_the_floor_of_a_decode_step_counts_what_must_be_moved():
    config = bench._bench_gdn.stack_config(TINIEST)
    assert config.layers == 16
    one, two = (bench._bench_gdn.decode_gbyte(config, 16, batch) for batch in (1, 2))
    longer = bench._bench_gdn.decode_gbyte(config, 48, 1)
    keys_and_values = 2 * 32 * 4 * config.kv_heads * config.head_dim * 4  # of 4 attention layers
    assert longer - one == pytest.approx(keys_and_values / 1e9)
    assert one < two < 2 * one


@pytest.mark.usefixtures("quick_compile")
def test_a_step_is_timed_beside_its_parts():
    (cases,) = bench.train(TINIEST)
    names = [case.name.partition(": ")[2] for case in cases]
    assert names == [
        "loss", "gradient", "update by AdamW", "update by Muon", "step with Muon",
    ]  # fmt: skip
    assert [case.unit for case in cases] == ["token", "token", "call", "call", "token"]


@pytest.mark.parametrize(
    "names",
    [("mel", "conv", "torch"), pytest.param(tuple(bench.TABLES), marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_every_table_keeps_medians_and_spreads_and_where_they_were_measured(tmp_path, names):
    console = Console(record=True, width=130)
    bench.run(list(names), TINIEST, tmp_path, console.print)
    shown = console.export_text()
    skipped = {name for name in names if bench._bench_torch.why_not(name)}
    assert skipped <= {"torch", "torch_sharded", "torch_decode"}
    assert all(f"{name}: skipped" in shown for name in skipped)
    assert {path.stem for path in tmp_path.glob("*.json")} == set(names) - skipped
    for name in set(names) - skipped:
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["rejected_over"] == REJECT and len(result["control_milliseconds"]) > 2
        assert result["environment"]["jax"] and result["environment"]["cores"] >= 1
        assert result["sizes"]["rounds"] == 2 and result["limits"]["gflop_per_second"] > 0
        assert result["rows"]
        for row in result["rows"]:
            ms = row["milliseconds"]
            assert 0 < ms["least"] <= ms["quarter"] <= ms["median"]
            assert ms["median"] <= ms["three_quarters"] <= ms["most"]
            assert row["first_call_seconds"] > 0 and row["kept"] + row["rejected"] == 2
            assert row["name"][:20] in shown


def test_a_name_stands_whole_beside_rejected_samples_and_long_figures():
    spread = Spread(*[0.00123456] * 5)
    name = "causal conv, T 4096, D 3072, with backward"
    row = Timed(name, spread, 100.0, 1, 12, 123_456_789.0, "token", 0.5, 1, 123_456_789)
    console = Console(record=True, width=130)
    limits = {"gflop_per_second": 200.0, "gbytes_per_second": 7.0}
    console.print(bench._table("conv", [row], limits))
    shown = console.export_text()
    assert name in shown and "1 of" in shown


class Disturbed:
    """A machine on which somebody else works in the second of three rounds."""

    def __init__(self):
        self.controls = []

    def control(self):
        # One control before the rounds and one after each of the six samples.
        self.controls.append(2.0 if len(self.controls) in (3, 4) else 1.0)
        return self.controls[-1]

    def least_seconds(self, case):
        return case.gflop


def test_samples_beside_a_slow_control_are_rejected_on_both_sides_and_counted():
    order = []

    def case(name):
        return Case(name, lambda: lambda: order.append(name), per=10, unit="token")

    rows = measure([case("a"), case("b")], Disturbed(), rounds=3, sample_seconds=0.0)
    assert order[4:] == ["a", "b"] * 3  # Two calls of each to compile and to calibrate.
    assert [(row.name, row.kept, row.rejected) for row in rows] == [("a", 1, 2), ("b", 2, 1)]
    assert all(row.share_of_limit is None and row.unit == "token" for row in rows)


def test_a_table_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setattr(bench, "ONLY", type("Flag", (), {"value": ["gdn", "nothing"]}))
    with pytest.raises(UserError, match="no table is called 'nothing'; there are gdn, growth"):
        bench.main()
