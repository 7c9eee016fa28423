"""The benchmark for a GPU: rehearsed from start to end without one, and what is read from its rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments import linear_time_gpu as bench
from kit import results_linear_time_gpu as results

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux alone")
    out = tmp_path_factory.mktemp("gpu") / "linear_time_gpu.json"
    command = [sys.executable, "-m", "experiments.linear_time_gpu", "--rehearse", "--out", str(out)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "notebooks")])
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text("utf-8")), out


def test_the_rehearsal_goes_through_every_cell(rehearsal):
    stored, out = rehearsal
    planned = [section for section, *_ in bench.cells(bench.TINY)]
    assert {s: planned.count(s) for s in planned} == {s: len(stored[s]) for s in planned}
    assert stored["rehearsal"] and "card" not in stored and stored["command"].endswith("--rehearse --out " + str(out))
    for cell in stored["layer"] + stored["update"] + stored["tiles"]:
        assert all(form["median"] > 0 for form in cell["forms"].values())
    assert all(cell["median"] > 0 for cell in stored["detectors"])
    assert {c["block"] for c in stored["detectors"]} == results.DETECTORS.keys()
    assert "|" in results.markdown({**stored, "card": "none"})


def test_what_is_timed_is_right(rehearsal):
    close = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 5e-3}
    for cell in rehearsal[0]["equality"]:
        assert cell["repeatable"] and max(cell["relative error"].values()) < close[cell["dtype"]], cell


def test_a_rehearsal_is_no_result(rehearsal, tmp_path):
    with pytest.raises(ValueError, match="expected a run of `python -m experiments.linear_time_gpu` on a GPU"):
        results.load(rehearsal[1])
    assert results.load(tmp_path / "none.json") is None


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        bench.main([])
    assert "expected an NVIDIA GPU, found none; --rehearse" in capsys.readouterr().err


def made_up() -> dict:
    """A run of round numbers: 1 s published, 0.5 s ours; a copy of 100 bytes a second, of which the update moves 60."""
    form = lambda seconds, peak: {"median": seconds, "peak_bytes": peak}
    each = [(dtype, part) for dtype in ("float32", "bfloat16") for part in ("forward", "forward + backward")]
    at = {**results.LARGE, "K": 8}
    layer = [
        {**at, "dtype": d, "pass": p, "forms": {"TSSA": form(0.5, 55), "published": form(1.0, 100)}} for d, p in each
    ]
    update = [
        {**at, "dtype": d, "pass": p, "layout": "tokens first", "bytes": 60, "forms": {"kernels": form(1.0, 1)}}
        for d, p in each
    ]
    about = dict(card="a card", torch="2", cuda="13", triton="3", date="today", limits={"bytes_per_second": 100.0})
    unfit = {"block": "softmax, written out", "pixels": 640, "dtype": "float16", "not_run": "OutOfMemoryError"}
    return {**about, "rehearsal": False, "layer": layer, "update": update, "detectors": [unfit]}


def test_goals_and_tables_follow_from_the_rows():
    found = results.goals(made_up())
    assert [g["measured"] for g in found] == [0.5, 0.5, 0.55, 0.5, 0.5, 0.55, 0.6, 0.6]
    assert [g["met"] for g in found] == [False, True, True, True, True, True, True, True]
    text = results.markdown(made_up())
    assert "| 0.45 | 0.50 | not met |" in text and "| 0.55 | 0.60 | met |" in text
    assert "| 640 | float16 | not run |  |  |" in text and "a copy moves 0 GB/s" in text
    empty = {**made_up(), "layer": [], "update": [], "detectors": []}
    assert all(g["met"] is None for g in results.goals(empty)) and "not measured" in results.markdown(empty)


def test_a_committed_run_names_its_card():
    stored = results.load()
    if stored is None:
        pytest.skip("no card has been measured yet")
    assert stored["card"] and stored["command"] == results.COMMAND and len(results.goals(stored)) == 8
