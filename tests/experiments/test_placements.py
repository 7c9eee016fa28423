"""TSSA beside softmax at P5, P4 and P3: what is measured, what is kept, and that the stored counts are today's."""

import json

import pytest
import torch

from experiments import placements, slot
from harness import prose_of
from kit import cost
from kit.places import NOTEBOOKS
from kit.results_placements import ARMS, BLOCKS, MODELS, SIZES, find
from tssa_lib import yolo
from tssa_lib.yolo import YOLO


@pytest.mark.parametrize("name", MODELS)
def test_every_placement_builds_and_keeps_the_strides(name):
    _, block, places = name[:-5].split("-")
    model = YOLO(name).model
    found = [m for m in model.model if isinstance(m, yolo.C2PSA)]
    assert len(found) == len(places) // 2 and all(isinstance(m, yolo.C2TSSA) == (block == "tssa") for m in found)
    assert model.stride.tolist() == [8, 16, 32] and model.yaml["yaml_file"] == name
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, 96, 160))[0].shape == (1, 84, 12 * 20 + 6 * 10 + 3 * 5)


def test_measuring_again_keeps_what_was_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(placements, "seconds", lambda names, size: {name: [(0.002, 0.001)] * 3 for name in names})
    monkeypatch.setattr(placements, "peak", lambda name, size: 5.0)
    placements.measure([64], ["p5"], tmp_path / "p.json")
    rows = placements.measure([96], ["p5"], tmp_path / "p.json")["rows"]
    assert [(r["size"], r["model"]) for r in rows] == [(s, f"yolo11n-{b}-p5.yaml") for s in (64, 96) for b in BLOCKS]
    assert all((r["wall_ms"], r["processor_ms"], r["runs"], r["peak_mib"]) == (2.0, 1.0, 3, 5.0) for r in rows)
    rows = placements.measure([96], ["p4p5"], tmp_path / "p.json", share=0.0)["rows"]
    assert len(rows) == 12
    assert [r["model"] for r in rows if "not_run" in r] == [f"yolo11n-{b}-p4p5.yaml" for b in BLOCKS]


def test_sdpa_is_the_same_detector():
    """Same parameters, same output: what the written-out form and SDPA differ in is how they compute."""
    torch.manual_seed(0)
    written = placements.network("yolo11n-psa-p3p4p5.yaml")
    sdpa = placements.network("yolo11n-sdpa-p3p4p5.yaml")
    assert sum(isinstance(m, slot.FusedSoftmax) for m in sdpa.modules()) == 3
    sdpa.load_state_dict(written.state_dict())
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.allclose(sdpa(x)[0], written(x)[0], rtol=1e-4, atol=1e-3)


def test_counted_costs_are_those_of_the_stored_results():
    """The committed results belong to this code; TSSA's statistics may be counted either way, hence one percent."""
    rows = json.loads(placements.RESULT.read_text())["rows"]
    assert {(r["model"], r["size"]) for r in rows} == {(m, s) for m in ARMS for s in SIZES}
    for row in (r for r in rows if r["size"] == 1280):
        found = cost.count(placements.named(row["model"]).model, row["size"])
        assert found.macs == pytest.approx(row["macs"], rel=1e-2) and found.largest == row.get("largest", found.largest)
        assert found.attention_macs == pytest.approx(row["attention_macs"], rel=1e-2)


def test_lesson_10_says_of_the_times_what_the_file_holds():
    """Each sentence stands in the lesson exactly if it is true of the committed rows, whatever they say."""
    prose = prose_of(NOTEBOOKS / "10_inside_yolo11.ipynb")
    rows = json.loads(placements.RESULT.read_text())["rows"]

    def over(block: str, against: str, what: str) -> list[float]:
        return [find(rows, block, "p3p4p5", s)[what] / find(rows, against, "p3p4p5", s)[what] for s in SIZES]

    slower = over("sdpa", "tssa", "wall_ms")
    claims = {
        "while TSSA stays within about a tenth of no attention": max(over("tssa", "plain", "wall_ms")) < 1.12,
        "SDPA's term in $n^2$ shows in the time of the whole detector, and grows with the picture": slower[0] > 1.5
        and slower == sorted(slower),
        "In memory SDPA and TSSA are alike": all(0.5 < r < 1.5 for r in over("sdpa", "tssa", "peak_mib")),
    }
    assert {claim: claim in prose for claim in claims} == claims
