"""The benchmark: what it counts is exact, what it stores is whole, and what it says follows from what it stores."""

import doctest
import json
import math

import pytest
import torch

from experiments import linear_time as bench
from kit import cost
from kit import results_linear_time as results
from kit.attention import XCA, Attention, Chunked
from tssa_lib.tssa import TSSA


@pytest.fixture(scope="module")
def stored() -> dict:
    return results.load()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---- the references ------------------------------------------------------------------------------------
def test_published_is_the_layer_and_floor_its_two_maps():
    layer, x = TSSA(12, 3, qkv_bias=True, temp=9.0).double(), torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(cost.published(layer, x), layer(x), rtol=1e-12, atol=1e-12)
    want = x @ layer.qkv.weight.T + layer.qkv.bias
    torch.testing.assert_close(cost.floor(layer, x), want @ layer.to_out[0].weight.T + layer.to_out[0].bias)


# ---- counting: growth in N, deterministic ------------------------------------------------------------------
GROWTH = {
    "TSSA": 1,
    "XCA": 1,
    "rate gradient, p × p": 1,
    "chunked, 64": 1,
    "Nyström, 64": 1,
    "softmax, written out": 2,
    "CRATE's MSSA": 2,
}


@pytest.mark.parametrize("name", GROWTH)
def test_counted_operations_grow_as_they_should(name):
    sizes = [2**i * 6400 for i in range(8)]
    macs = [cost.operations(cost.RIVALS[name](128, 4, N), N, 128) for N in sizes]
    assert results.exponent(sizes, macs) == pytest.approx(GROWTH[name], abs=0.01)


@pytest.mark.parametrize("name, power", [("TSSA", 1), ("XCA", 1), ("softmax, written out", 2)])
def test_the_largest_tensor_grows_as_it_should(name, power):
    sizes = [400, 800, 1600, 3200]
    largest = []
    for N in sizes:
        with torch.no_grad(), cost.Moved() as bytes_:
            cost.RIVALS[name](128, 4, N)(torch.randn(1, N, 128))
        largest.append(bytes_.largest)
    assert results.exponent(sizes, largest) == pytest.approx(power, abs=0.01)


def test_bytes_moved_by_hand():
    x = torch.randn(3, 5)
    with cost.Moved() as bytes_:
        (x + 1).view(15) * x.view(15)
    assert bytes_.moved == 4 * (15 + 15 + 3 * 15) and bytes_.largest == 60


def test_kept_bytes_by_hand():
    x = torch.randn(10, 4, requires_grad=True)
    assert cost.kept_bytes(torch.nn.Linear(4, 3), x) == 160, (
        "a linear map keeps its input, and its weight is a parameter"
    )
    assert cost.kept_bytes(lambda x: (x * x).exp().sum(), x) == 320, "x once, and the exponential's own result"


def test_operations_leave_the_count_to_shapes():
    assert cost.operations(Attention(64, 2), 100, 64) == 4 * 100 * 64**2 + 2 * 100**2 * 64
    assert cost.operations(Chunked(64, 2, chunk=10), 100, 64) == 4 * 100 * 64**2 + 2 * 100 * 10 * 64
    assert cost.operations(XCA(64, 2), 100, 64) == 4 * 100 * 64**2 + 2 * 100 * 32 * 64


# ---- measuring, in the small ----------------------------------------------------------------------------------
def test_interleaved_takes_turns_and_reports_the_median():
    seen = []
    took = cost.interleaved({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, budget=0.0, most=9, least=4)
    assert seen == ["a", "b"] * 5 and {t["repeats"] for t in took.values()} == {4}
    assert all(0 <= t["low"] <= t["median"] <= t["high"] for t in took.values())


def test_interleaved_reports_median_and_quartiles_without_the_first_round(monkeypatch):
    now, took = [0.0], iter([99.0, 1.0, 1.0, 1.0, 9.0])
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    (t,) = cost.interleaved({"a": lambda: now.__setitem__(0, now[0] + next(took))}, budget=0.0, least=4).values()
    assert t == {"median": 1.0, "low": 1.0, "high": 7.0, "repeats": 4}


def test_a_quick_run_replaces_no_committed_one(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    monkeypatch.setattr(bench, "run", lambda quick, command: stored)
    bench.main(["--quick", "--threads", str(torch.get_num_threads())])
    assert json.loads((tmp_path / "runs" / "bench.json").read_text("utf-8")) == stored


def test_a_small_run_has_what_the_readers_need():
    cells = [bench.layer_cell(64, N, train, 0.01, compile=False) for N in (50, 90) for train in (False, True)]
    assert all(c["seconds"].keys() >= {"published", "floor", "fast"} for c in cells)
    rivals = bench.rivals_cell(70, 0.01, dim=64)
    assert rivals["seconds"].keys() == rivals["counts"].keys() == cost.RIVALS.keys()
    assert all(c["macs"] > 0 and c["moved"] > c["largest"] > 0 and c["kept"] > 0 for c in rivals["counts"].values())


def test_the_command_says_what_it_does_and_what_it_expects(capsys):
    with pytest.raises(SystemExit) as e:
        bench.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert (
        e.value.code == 0 and "--quick" in text and "eight minutes" in text and "data/results/linear_time.json" in text
    )
    with pytest.raises(SystemExit):
        bench.main(["--threads", "0"])
    assert "expected --threads >= 1, got 0" in capsys.readouterr().err


# ---- the committed run -------------------------------------------------------------------------------------------
def test_the_committed_run_is_whole(stored):
    assert not stored["quick"] and stored["command"].startswith("python -m ")
    assert {(c["dim"], c["N"], c["pass"]) for c in stored["layer"]} == {
        (dim, N, p) for dim in (128, 256) for N in bench.TOKENS for p in ("forward", "forward + backward")
    }
    assert [c["N"] for c in stored["rivals"]] == list(bench.TOKENS[:4])
    assert {
        "load",
        "load_end",
        "torch",
        "python",
        "cpu",
        "cores",
        "threads",
        "date",
        "wall_seconds",
        "limits",
        "kept",
    } <= stored.keys()
    for cell in stored["layer"] + stored["rivals"]:
        for t in cell["seconds"].values():
            assert 0 < t["low"] <= t["median"] <= t["high"] and t["repeats"] >= 3
    assert "/" not in stored["cpu"] and not any(part in json.dumps(stored) for part in ("/home", "/root", "/tmp"))


def test_the_stored_counts_are_what_is_counted_today(stored):
    cell = stored["rivals"][1]
    for name in ("TSSA", "softmax (SDPA)", "XCA"):
        layer = cost.RIVALS[name](128, 4, cell["N"])
        assert cell["counts"][name]["kept"] == cost.kept_bytes(
            layer, torch.randn(1, cell["N"], 128, requires_grad=True)
        )
        assert cell["counts"][name]["macs"] == cost.operations(layer, cell["N"], 128)


def test_targets_and_table_follow_from_the_cells(stored):
    made = json.loads(json.dumps(stored))
    for cell in made["layer"]:
        softmax = {"softmax (SDPA)": {"median": 9.0}} if "softmax (SDPA)" in cell["seconds"] else {}
        cell["seconds"] = {"published": {"median": 3.0}, "floor": {"median": 1.0}, "fast": {"median": 1.5}} | softmax
    goals = results.targets(made)
    assert [t["measured"] for t in goals[:7]] == [0.25, 0.25, 0.25, 0.25, 1.5, 0.25, 0.25]
    assert [t["met"] for t in goals[:7]] == [True, True, True, True, False, True, True]
    assert goals[8]["measured"] == 6.0 and goals[8]["met"] and goals[9]["measured"] == 0.0
    text = results.markdown(made)
    assert "| ≤ 0.4 | 0.25 | met |" in text and "| ≤ 1.25 | 1.50 | not met |" in text
    assert "| 128 | 6,400 | forward | 3,000.00 | 1,000.00 | 1,500.00 |" in text


def test_goals_that_do_not_hang_on_the_clock_are_met(stored):
    kept = next(t for t in results.targets(stored) if "kept" in t["goal"])
    assert kept["met"] and kept["measured"] == stored["kept"]["fast"] / stored["kept"]["published"]


def test_exponent_and_no_file(tmp_path):
    assert results.exponent([1, 2, 4], [5, 10, 20]) == pytest.approx(1)
    assert math.isclose(results.exponent([1, 10], [1, 1000]), 3)
    with pytest.raises(ValueError, match="expected the results of .* in none.json, found no such file"):
        results.load(tmp_path / "none.json")


def test_doctests():
    assert doctest.testmod(bench).failed == 0
