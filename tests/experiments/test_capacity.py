"""Sets of tokens ask what they say, blocks carry what they say, and a whole training leaves whole results."""

import json
import math

import pytest
import torch

from experiments import capacity
from kit import results_needs
from kit.places import ROOT
from tssa_lib.tssa import TSSA


def drawn(task, colours=24, count=200):
    x, y = capacity.sets(task, count, colours, torch.Generator().manual_seed(0))
    colour = (torch.atan2(x[..., 1], x[..., 0]) * colours / (2 * math.pi)).round().long() % colours
    return x, y, colour


@pytest.mark.parametrize("task", capacity.TASKS)
def test_answers_are_those_of_the_colours(task):
    _, y, colour = drawn(task)
    same = (colour[:, :, None] == colour[:, None]).sum(-1)  # how many of its colour, itself included
    assert torch.equal(y == 1, same == 2 if task == "twin" else same < capacity.TOKENS / 2)
    assert torch.all(y.sum(1) == 2) if task == "twin" else set(y.sum(1).tolist()) == {1, 2, 3}


@pytest.mark.parametrize("task", capacity.TASKS)
def test_a_token_alone_tells_nothing(task):
    _, y, colour = drawn(task, colours=12, count=4000)
    shares = torch.stack([y[colour == c].mean() for c in range(12)])
    assert (shares - y.mean()).abs().max() < 0.04


def test_sets_are_deterministic_and_points_of_the_circle():
    x, y, _ = drawn("twin")
    again, same, _ = drawn("twin")
    assert torch.equal(x, again) and torch.equal(y, same)
    assert torch.allclose(x.norm(dim=-1), torch.ones(x.shape[:2]), atol=1e-6)


@pytest.mark.parametrize("block", capacity.BLOCKS)
def test_only_a_mixer_lets_tokens_hear_of_each_other(block):
    torch.manual_seed(0)
    net = capacity.Net(block, 16).eval()
    x, _, _ = drawn("twin", count=4)
    changed = x.clone()
    changed[:, 5:] = changed[:, 5:].flip(-1)
    moved = (net(x) - net(changed))[:, :5].abs().max() > 1e-6
    assert moved == (block != "none")


@pytest.mark.parametrize("block", capacity.BLOCKS)
def test_the_order_of_tokens_does_not_matter(block):
    torch.manual_seed(0)
    net = capacity.Net(block, 16).eval()
    x, _, _ = drawn("twin", count=4)
    order = torch.randperm(capacity.TOKENS)
    assert torch.allclose(net(x[:, order]), net(x)[:, order], atol=1e-5)


@pytest.mark.parametrize("block", ["TSSA published", "TSSA improved"])
def test_tssa_carries_as_many_numbers_as_its_layer_has_moments(block):
    layer = capacity.mixer(block, 16)
    assert isinstance(layer, TSSA)
    assert layer.statistics(torch.rand(1, 10, 16)).second_moments[0].numel() == capacity.numbers_carried(block, 16)


def test_crosstalk_is_what_equal_inner_products_give():
    """Welch's bound is met by the simplex: C = m + 1 unit vectors, inner products −1/m."""
    m, others = 8, capacity.TOKENS - 2
    assert capacity.crosstalk(m, m + 1) == pytest.approx(math.sqrt(others) / m)
    assert capacity.crosstalk(48, 48) == 0.0
    assert capacity.crosstalk(16, 48) > capacity.crosstalk(32, 48)


def test_a_training_is_kept_and_the_results_are_whole(tmp_path):
    cells = (("twin", 12), ("rare", 24))
    for block in capacity.BLOCKS:
        rows = capacity.some(block, 16, 2, 3, tmp_path, cells)
        assert capacity.some(block, 16, 2, 3, tmp_path, cells) == rows
        assert [(r["task"], r["seed"]) for r in rows] == [("twin", 0), ("twin", 1), ("rare", 0), ("rare", 1)]
    out = capacity.assemble(tmp_path, 3, tmp_path / "out" / "capacity.json", "python -m experiments.capacity")
    whole(json.loads(out.read_text()))


def test_networks_side_by_side_are_as_each_alone():
    cells = [("twin", 12), ("rare", 12)]
    both = capacity.together("TSSA improved", 8, cells, [0, 1], 4)
    alone = [capacity.together("TSSA improved", 8, [cell], [seed], 4)[0] for cell in cells for seed in (0, 1)]
    assert both == pytest.approx(alone, abs=1e-3)


def test_nothing_trained_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="nothing is written"):
        capacity.assemble(tmp_path, 3, tmp_path / "capacity.json", "x")
    assert not (tmp_path / "capacity.json").exists()


def whole(results):
    assert {"command", "date", "torch", "minutes", "seeds", "training", "rows"} <= results.keys()
    for row in results["rows"]:
        assert row["task"] in capacity.TASKS and row["block"] in capacity.BLOCKS
        assert 0 <= row["AP"] <= 1 and row["numbers"] == capacity.numbers_carried(row["block"], row["width"])
        assert (row["crosstalk"] is not None) == row["block"].startswith("TSSA")


def test_committed_results_are_whole_and_draw():
    results = results_needs.load("capacity")
    whole(results)
    assert results_needs.capacity_figure(results).axes[0].get_title()


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="rare, twin"):
        capacity.sets("odd", 1, 12, torch.Generator())
    with pytest.raises(ValueError, match="got 'loud'"):
        capacity.mixer("loud", 16)


def test_the_readmes_say_what_the_sets_say():
    """The order of the blocks stands there exactly if the committed rows hold it, at both widths."""
    rows = results_needs.load("capacity")["rows"]
    order = ("SE", "XCA", "TSSA improved", "softmax")
    steps = [
        results_needs.paired(rows, above, below, "AP", task="twin", width=width, colours=48)
        for width in sorted({r["width"] for r in rows})
        for below, above in zip(order, order[1:])
    ]
    holds = len(steps) == 6 and all(d["low"] > 0 and d["seeds"] == 6 for d in steps)
    said = {
        "README.md": "TSSA (improved) comes out above channel gates and cross-covariance, and below softmax, with "
        "twice the width as well:\n  the intervals of six seeds exclude zero",
        "README.zh-CN.md": "TSSA（improved）的结果高于通道门控和互协方差，低于 softmax，"
        "宽度加倍后依然如此：六个种子的置信区间都不含零",
        "site/zh/guide.md": "改进型 TSSA 低于 softmax，六个种子的置信区间不含零",
    }
    assert {file: words in (ROOT / file).read_text(encoding="utf-8") for file, words in said.items()} == dict.fromkeys(
        said, holds
    )
