"""The fair trial at tiny size: its data, one training of each block, resumption, and its statistics."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

from experiments import detectors, trial
from experiments.trial import (
    BLOCKS,
    FULL,
    IMPROVED,
    SWITCHES,
    Form,
    in_context,
    one,
    scenes,
)
from harness import prose_of
from kit.places import NOTEBOOKS
from kit.results_trial import compare, difference, table
from tssa_lib import yolo
from tssa_lib.silence import INTERVENTIONS
from tssa_lib.train import Run
from tssa_lib.yolo import YOLO

LESSON_11 = NOTEBOOKS / "11_does_a_detector_need_it.ipynb"
TINY = Form("tiny", seeds=2, epochs=1, train=8, val=4, size=64, other_sizes=(96,), difficulties=("context",))


def test_the_class_of_an_object_depends_on_the_others_alone(tmp_path):
    data = scenes("context", TINY, tmp_path)
    easy = scenes("easy", TINY, tmp_path).parent
    seen = set()
    for label in sorted((data.parent / "labels").rglob("*.txt")):
        there, here = (
            [line.split() for line in (f / label.relative_to(data.parent)).read_text().splitlines()]
            for f in (easy, data.parent)
        )
        cue = any(row[0] in "01" for row in there)
        for before, after in zip(there, here, strict=True):
            assert after[1:] == before[1:] and after[0] == ("0" if before[0] in "01" else "1" if cue else "2")
            seen.add(after[0])
    assert len(seen) >= 2 and data.read_text().count(": ") >= 5
    assert scenes("context", TINY, tmp_path) == data
    pictures = [p.read_bytes() for f in (easy, data.parent) for p in sorted((f / "images" / "val").iterdir())]
    assert pictures[:4] == pictures[4:]
    with pytest.raises(ValueError, match="expected a difficulty of easy, hard, context, got 'odd'"):
        scenes("odd", TINY, tmp_path)
    assert in_context("") == ""


def test_with_and_without_a_cue_are_about_equally_frequent():
    """Otherwise the prior alone would score, and context could not show."""
    from tssa_lib.scenes import SceneSpec, scene

    spec = SceneSpec(train=150, val=1)
    drawn = [scene(spec, "train", i).labels.tolist() for i in range(150)]
    others = [min(labels) < 2 for labels in drawn for digit in labels if digit >= 2]
    assert 0.35 < sum(others) / len(others) < 0.65


def test_the_four_blocks_differ_in_the_slot_only():
    models = {}
    for name, (kind, switches) in BLOCKS.items():
        torch.manual_seed(0)
        models[name] = yolo.tasks.DetectionModel(
            {**yolo.with_attention(("P5",), kind, **switches), "scale": "n"}, verbose=False
        )
    start = {name: {k: v for k, v in m.state_dict().items() if ".attn." not in k} for name, m in models.items()}
    assert len(BLOCKS) == 4 and all(s.keys() == start["none"].keys() for s in start.values())
    assert all(torch.equal(v, start["none"][k]) for s in start.values() for k, v in s.items())
    Pi = {}
    x = torch.randn(1, 128, 20, 20, generator=torch.Generator().manual_seed(0))  # 640 px
    for name in ("tssa", "tssa improved"):
        attn = models[name].model[10].m[0].attn
        attn.qkv.bn.train()  # as at the first step of a training
        Pi[name] = attn.statistics(x).Pi
    entropy = {
        k: (torch.special.entr(v).sum(1).mean() / torch.log(torch.tensor(float(v.shape[1])))).item()
        for k, v in Pi.items()
    }
    assert entropy["tssa improved"] < 0.9 < 0.99 < entropy["tssa"], "the improved form starts selective"
    assert (
        FULL.seeds >= 5
        and len(FULL.difficulties) == 3
        and set(SWITCHES).isdisjoint(BLOCKS)
        and IMPROVED["normalize"] == "rms"
    )


def test_each_training_has_its_seed_and_the_last_epoch_is_measured_without_a_border(tmp_path, monkeypatch):
    asked, opened, measured = [], [], []
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    for room in (trial, detectors):
        monkeypatch.setattr(room, "YOLO", lambda path: opened.append(Path(path).name) or YOLO("yolo11n-tssa.yaml"))
    monkeypatch.setattr(
        detectors, "train", lambda data, model, weights, folder, quiet, **s: asked.append(s) or Run(folder, {}, {}, 1.0)
    )
    monkeypatch.setattr(
        detectors,
        "validate",
        lambda model, data, **k: measured.append((k["imgsz"], k["rect"])) or ({"mAP50": 0.1, "mAP50-95": 0.1}, {}),
    )
    for seed in (0, 3):
        one("tssa", "context", seed, TINY, tmp_path / "runs")
    assert [s["seed"] for s in asked] == [0, 3] and not any(s["val"] for s in asked)
    assert opened == 2 * ["yolo11n-trial.yaml", "last.pt"] and measured == 2 * [(64, False), (96, False)]


@pytest.mark.parametrize(
    "words, out, seeds, difficulties",
    [
        ([], "trial.json", [0, 1, 2, 3, 4], 3),
        (["--laptop", "--first-seed", "5"], "trial.json", [5, 6, 7, 8, 9], 3),
        (["--laptop", "--switches"], "switches.json", [0, 1, 2, 3, 4], 1),
        (["--quick", "--workers", "2"], None, [0, 1], 3),
    ],
)
def test_the_command_and_where_it_writes(words, out, seeds, difficulties, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    monkeypatch.setattr(trial, "trial", lambda *a: asked.extend(a) or {"differences": []})
    trial.main(words)
    form, path, _, blocks, *_, workers = asked
    assert path == (trial.RESULTS / out if out else tmp_path / "runs" / "trial" / "quick.json"), (
        "a rehearsal replaces no committed result"
    )
    assert (
        form.numbers == seeds
        and len(form.difficulties) == difficulties
        and workers == (2 if "--workers" in words else 1)
    )
    assert set(SWITCHES) <= set(blocks) if "--switches" in words else list(blocks) == list(BLOCKS)


def test_use_is_asked_of_every_detector_with_attention(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    monkeypatch.setattr(trial, "use", lambda *what: asked.append(what[:3]) or [{"detector": trial.USED}])
    monkeypatch.setattr(trial.detectors, "add_use", lambda rows, command, detector: (len(rows), command, detector))
    trial.main(["--laptop", "--use", "--seeds", "2", "--blocks", "none", "tssa"])
    assert asked == [("tssa", "easy", 0), ("tssa", "easy", 1)], "none has nothing to be silenced"


@pytest.mark.slow
def test_a_trial_runs_is_stopped_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TSSA_DATA", str(tmp_path / "data"))
    blocks = ("none", "tssa improved")
    with monkeypatch.context() as stopped:
        done = []
        stopped.setattr(detectors, "train", lambda *a, **k: trial_train(*a, **k) if len(done) < 2 else 1 / 0)
        trial_train = __import__("tssa_lib.train", fromlist=["train"]).train
        stopped.setattr(detectors, "validate", lambda *a, **k: done.append(1) or ({"mAP50": 0.1, "mAP50-95": 0.1}, {}))
        with pytest.raises(ZeroDivisionError):
            trial.trial(TINY, tmp_path / "trial.json", tmp_path / "runs", blocks)
    kept = sorted(p.name for p in (tmp_path / "runs").glob("*.json"))
    assert kept == ["context-none-0.json"] and not (tmp_path / "trial.json").exists()
    results = trial.trial(TINY, tmp_path / "trial.json", tmp_path / "runs", blocks)
    assert results == json.loads((tmp_path / "trial.json").read_text())
    assert [r["mAP50"] for r in results["rows"]].count(0.1) == 1, "the finished training was not done again"
    assert len(results["rows"]) == 4 and (tmp_path / "trial.png").read_bytes().startswith(b"\x89PNG")
    first, ours = results["rows"][0], results["rows"][1]
    assert 0 <= ours["mAP50 at 96 px"] <= 1 and ours["seconds"] > 0 and ours["parameters"] == first["parameters"] + 8
    assert results["torch"] == torch.__version__ and results["cores"] and len(results["data"]["context"]) == 64
    assert results["command"].startswith("python -m experiments.trial") and results["seeds"] == [0, 1]
    plan = next((tmp_path / "runs").glob("context-tssa-improved-0/run*/weights/last.pt"))
    attn = YOLO(str(plan)).model.model[10].m[0].attn
    assert (attn.num_heads, attn.normalize) == (8, "rms") and (attn.temp - 4).abs().max() < 0.5
    assert trial.trial(TINY, tmp_path / "two.json", tmp_path / "runs", blocks, workers=2)["rows"] == results["rows"], (
        "in one order"
    )
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("last.pt")}
    rows = trial.use("tssa improved", "context", 0, TINY, tmp_path / "runs")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("last.pt")} == before, "nothing is trained again"
    assert [r["intervention"] for r in rows] == [None, *INTERVENTIONS]
    assert {(r["detector"], r["task"], r["block"], r["seed"]) for r in rows} == {
        (trial.USED, "context", "TSSA improved", 0)
    }
    untouched = next(r for r in results["rows"] if r["asked"] == {**ours["asked"], "seed": 0})
    assert rows[0]["mAP50"] == untouched["mAP50"] and all(0 <= r["mAP50"] <= 1 for r in rows)
    again = one("tssa improved", "context", 0, replace(TINY, epochs=2), tmp_path / "other")
    assert again["asked"]["form"]["epochs"] == 2, "another form is another training"


def test_paired_differences_against_the_textbook():
    a, b = [0.9, 0.8, 0.85, 0.7], [0.8, 0.75, 0.84, 0.6]
    d = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    half = 3.182446305 * d.std() / 2  # Student's t, 3 degrees of freedom, 97.5 %
    found = difference(a, b)
    assert found["mean"] == pytest.approx(d.mean().item()) and found["high"] - found["mean"] == pytest.approx(
        half.item(), rel=1e-6
    )
    assert found["mean"] - found["low"] == pytest.approx(half.item(), rel=1e-6)
    with pytest.raises(ValueError, match="expected two results or more, in pairs, got 1 and 1"):
        difference([1.0], [0.5])


def test_seeds_are_paired_by_number_and_the_verdict_follows_the_interval():
    def row(block, seed, value):
        return {"asked": {"difficulty": "easy", "block": block, "seed": seed}, "mAP50": value}

    (zero,) = compare([row(b, s, 0.0) for b in ("none", "tssa") for s in range(3)])
    assert zero["p"] is None and table({"differences": [zero]}).endswith("nothing learned yet")
    rows = [row("none", s, 0.1 * s) for s in range(5)] + [row("tssa", s, 0.1 * s + 0.02 + 0.001 * s) for s in (4, 2, 0)]
    (found,) = compare(rows)
    assert found["seeds"] == 3 and found["mean"] == pytest.approx(0.022) and found["low"] > 0
    assert table({"differences": [found]}).endswith("a difference")
    (back,) = compare([*rows[:5], row("tssa", 0, 0.5), row("tssa", 1, -0.3)])
    assert table({"differences": [back]}).endswith("no difference within the interval")


# ---- the committed trials: whole, and lesson 11 says of them what they hold --------------------------------------
def test_the_committed_trial_is_whole():
    stored, _ = recomputed("trial")
    form, rows = stored["form"], stored["rows"]
    assert len(rows) == form["seeds"] * 3 * len(BLOCKS) and list(stored["blocks"]) == list(BLOCKS)
    assert len({r["data"] for r in rows}) == 3 and stored["data"].keys() == set(form["difficulties"])


def test_the_committed_switches_are_whole_and_share_the_trial_s_control():
    stored, _ = recomputed("switches")
    assert list(stored["blocks"]) == ["none", "tssa", *SWITCHES, "tssa improved"] and len(stored["rows"]) == 9 * 5
    trial_rows = [r for r in recomputed("trial")[0]["rows"] if r["asked"]["difficulty"] == "easy"]
    published = lambda rows: {r["asked"]["seed"]: r["mAP50"] for r in rows if r["asked"]["block"] == "tssa"}
    assert published(trial_rows) == published(stored["rows"]), "the same trainings"


def test_the_question_was_asked_again_with_new_seeds_alone():
    stored, _ = recomputed("again")
    assert stored["form"]["difficulties"] == ["easy"] and list(stored["blocks"]) == list(BLOCKS)
    assert not set(stored["seeds"]) & set(recomputed("trial")[0]["seeds"])


def test_lesson_11_shows_the_differences_that_the_files_hold():
    shown = "\n".join(
        o.get("text", "") for cell in nbformat.read(LESSON_11, as_version=4).cells for o in cell.get("outputs", [])
    )
    for name in ("trial", "again"):
        assert table(recomputed(name)[0]) in shown, f"{name}.json has changed: build lesson 11 again"


def test_lesson_11_says_of_the_differences_what_the_files_hold():
    """Each sentence stands in the lesson exactly if it is true of the committed rows, whatever they say."""
    prose = prose_of(LESSON_11)
    holds = lambda d: d["low"] < 0 < d["high"]
    of = lambda name, against: [d for (m, a, *_), d in recomputed(name)[1].items() if (m, a) == ("mAP50", against)]
    switches = [d for d in of("switches", "tssa") if d["block"] != "none"]
    easy = [r for r in recomputed("trial")[0]["rows"] if r["asked"]["difficulty"] == "easy"]
    first, new, both = (
        {d["block"]: d for d in compare(rows)}
        for rows in (easy, recomputed("again")[0]["rows"], easy + recomputed("again")[0]["rows"])
    )
    alone = [r["mAP50"] for r in easy + recomputed("again")[0]["rows"] if r["asked"]["block"] == "none"]
    claims = {
        "At the trained size, nothing:** every interval holds zero": all(map(holds, of("trial", "none"))),
        "Nor is the improved form seen to help": all(
            map(holds, (d for d in of("trial", "tssa") if d["block"] == "tssa improved"))
        ),
        "seven intervals, all with zero in them": len(switches) == 7 and all(map(holds, switches)),
        "All seven lie at or below zero": all(d["mean"] <= 0 for d in switches),
        "Smaller, with zero well inside the interval": new["tssa"]["mean"] < first["tssa"]["mean"]
        and holds(new["tssa"]),
        "an interval for published TSSA that excludes zero, barely": 0 < both["tssa"]["low"] < 0.01,
        "it is by no more than another seed does": max(both[b]["mean"] for b in ("tssa", "tssa improved"))
        < 2**0.5 * statistics.stdev(alone),  # the spread of a difference between two seeds
    }
    assert {claim: claim in prose for claim in claims} == claims


def recomputed(name: str) -> tuple[dict, dict]:
    """A committed result and its differences by (metric, against, difficulty, block), held against its rows."""
    stored = json.loads((trial.RESULTS / f"{name}.json").read_text())
    form, rows = stored["form"], stored["rows"]
    kept = {(d["metric"], d["against"], d["difficulty"], d["block"]): d for d in stored["differences"]}
    controls = {against for _, against, *_ in kept}
    metrics = ("mAP50", "mAP50-95", *map(trial.at_size, form["other_sizes"]))
    fresh = [d for m in metrics for against in controls for d in compare(rows, m, against)]
    assert fresh and form["seeds"] >= 5 and {r["asked"]["seed"] for r in rows} == set(stored["seeds"])
    for d in fresh:
        again = kept[d["metric"], d["against"], d["difficulty"], d["block"]]
        assert again.keys() == d.keys() and again["seeds"] == d["seeds"] == form["seeds"]
        assert [again[k] for k in ("mean", "low", "high", "level")] == pytest.approx(
            [d[k] for k in ("mean", "low", "high", "level")], abs=1e-9
        )
    return stored, kept
