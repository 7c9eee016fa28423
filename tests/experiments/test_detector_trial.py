"""The trial on anybody's data at tiny size: its arms, its order, resumption, interventions, and what it says."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from experiments import blood_cells, detector_trial, detectors
from experiments.detector_trial import BLOCKS, Arm, Trial, changed, fused_softmax, interventions, pairs, run
from kit import results_cells as results
from tssa_lib import yolo
from tssa_lib.scenes import SceneSpec, make_scenes
from tssa_lib.silence import INTERVENTIONS
from tssa_lib.yolo import YOLO

NONE, SOFTMAX, OURS = Arm("none"), Arm("softmax"), Arm("TSSA improved", ("P3", "P5"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six scenes, with the validation pictures as test pictures, too."""
    file = make_scenes(SceneSpec(train=6, val=3, size=64, digits=(1, 2)), tmp_path_factory.mktemp("set"))
    file.write_text(file.read_text() + "test: images/val\n")
    return file


@pytest.fixture
def pretended(monkeypatch):
    """Training and measuring by table: what was done, in its order."""
    done = []

    def trained(plan, data, folder, size, weights, **settings):
        done.append(("train", folder.name, settings["seed"]))
        return folder / "last.pt", {"seconds": 1.0, "processor seconds": 1.0, "parameters": 1, "flops": 1}

    def measured(model, data, imgsz, device, split, batch, rect):
        done.append((split, model, batch))
        good = 0.1 if model.startswith("TSSA") else 0.0
        return {"mAP50": 0.6 + good + 0.01 * int(model[-1]), "mAP50-95": 0.3, "per_class": {"0": 0.6 + good}}

    monkeypatch.setattr(detectors, "trained", trained)
    monkeypatch.setattr(detectors, "measured", measured)
    monkeypatch.setattr(detector_trial, "opened", lambda folder: folder.name)
    monkeypatch.setattr(detector_trial, "interventions", lambda model: list(INTERVENTIONS) if "TSSA" in model else [])
    monkeypatch.setattr(detector_trial, "changed", lambda model, name: fused_softmax())
    return done


def of(data, **changes):
    return Trial(data, **{"imgsz": 64, "epochs": 1, "recipe": {"batch": 2, "lr0": 0.01}, **changes})


def test_arms_are_read_from_words_and_errors_say_what_there_is():
    assert Arm.read(" TSSA Published @p3+p5") == Arm("TSSA published", ("P3", "P5"))
    assert [row[2] for row in OURS.plan["backbone"]].count("C2TSSA") == 2 and str(SOFTMAX) == "softmax at P5"
    with pytest.raises(ValueError, match="expected a block of none, softmax, .*, got 'conv'"):
        Arm.read("conv")
    with pytest.raises(ValueError, match="expected places P5 and perhaps P4 and P3, got P9"):
        Arm.read("none@P9")
    with pytest.raises(ValueError, match="expected imgsz in multiples of 32, .*, got 208"):
        Trial(Path("my.yaml"), imgsz=208, epochs=1)


@pytest.mark.parametrize("shape", [(2, 128, 5, 7), (1, 128, 1, 1)])
def test_fused_softmax_is_stock_softmax_forward_and_backward(shape):
    torch.manual_seed(0)
    block, x = yolo.C2PSA(128, 128).eval(), torch.randn(shape)
    parameters = list(block.parameters())
    stock = block(x)
    there = torch.autograd.grad(stock.square().sum(), parameters)
    with fused_softmax():
        y = block(x)
        here = torch.autograd.grad(y.square().sum(), parameters)
    assert torch.allclose(y, stock, atol=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(here, there))
    assert torch.equal(block(x), stock), "nothing is left of it"


def test_fused_softmax_writes_no_matrix_of_tokens_by_tokens():
    N, largest = 40 * 40, [0]

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            out = f(*args, **(kwargs or {}))
            for made in out if isinstance(out, tuple) else (out,):
                largest[0] = max(largest[0], made.numel() if isinstance(made, torch.Tensor) else 0)
            return out

    block, x = yolo.C2PSA(128, 128).eval(), torch.randn(1, 128, 40, 40)
    with Largest():
        block(x)
    assert largest[0] >= N * N, "as Ultralytics writes it out"
    largest[0] = 0
    with fused_softmax(), Largest():
        block(x)
    assert largest[0] < N * N / 4


def test_silenced_softmax_is_what_is_left_when_all_attend_to_nothing():
    attention = yolo.C2PSA(128, 128).eval().m[0].attn
    x = torch.randn(1, 64, 3, 5)
    heads = attention.qkv(x).view(1, attention.num_heads, -1, 3, 5)
    v = heads[:, :, 2 * attention.key_dim :].reshape(1, 64, 3, 5)
    assert torch.allclose(detector_trial.silent(attention)(x), attention.proj(attention.pe(v)), atol=1e-6)


def test_every_detector_has_its_interventions_and_is_afterwards_as_before():
    x = torch.randn(2, 256, 3, 4, generator=torch.Generator().manual_seed(0))
    for block, expected in (("tssa", list(INTERVENTIONS)), ("psa", ["silenced"]), ("plain", [])):
        model = YOLO(f"yolo11n-{block}.yaml")
        slot = model.model.eval().model[10]
        assert interventions(model) == expected
        with torch.no_grad():
            before = slot(x)
            for name in expected[:1]:
                with changed(model, name):
                    assert not torch.allclose(slot(x), before, atol=1e-3)
                assert torch.equal(slot(x), before)


def test_no_picture_is_left_alone_in_a_batch():
    for count in range(2, 100):
        assert count % pairs(count, 16) != 1 and 2 <= pairs(count, 16) <= 16


def test_pairs_first_and_the_test_pictures_last(data, tmp_path, pretended):
    found = run(of(data), [NONE, OURS], [0, 3], tmp_path, "python -m x")
    trained = [what for what in pretended if what[0] == "train"]
    assert trained == [
        ("train", f"{arm}-{seed}", seed) for seed in (0, 3) for arm in ("none-P5", "TSSA-improved-P3-P5")
    ]
    first_test = [what[0] for what in pretended].index("test")
    assert {what[0] for what in pretended[first_test:]} == {"test"} and len(pretended[first_test:]) == 4
    assert all(what[2] == 2 or what[0] == "train" for what in pretended)
    assert found["pictures"] == {"train": 6, "val": 3, "test": 3} and found["command"] == "python -m x"
    assert [(row["arm"], row["seed"]) for row in found["rows"]][:2] == [
        ("none at P5", 0),
        ("TSSA improved at P3+P5", 0),
    ]
    assert [use["intervention"] for use in found["rows"][1]["use"]] == list(INTERVENTIONS)
    json.dumps(found)


def test_a_stopped_trial_goes_on_and_other_settings_are_another_trial(data, tmp_path, pretended, monkeypatch):
    with monkeypatch.context() as stopped:
        stopped.setattr(detectors, "measured", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(of(data), [NONE, OURS], [0, 1], tmp_path)
    assert [what[1] for what in pretended] == ["none-P5-0"], "trained, and stopped before it was measured"
    with pytest.raises(ValueError, match="expected finished trainings in .*, found none"):
        run(of(data), [NONE, OURS], [0, 1], tmp_path, so_far=True)
    run(of(data), [NONE, OURS], [0, 1], tmp_path)
    assert [what[1] for what in pretended if what[0] == "train"].count("none-P5-0") == 1
    before = len(pretended)
    assert "test" not in run(of(data), [NONE, OURS], [0, 1, 2], tmp_path, so_far=True)["rows"][0]
    run(of(data), [NONE, OURS], [0, 1], tmp_path)
    assert len(pretended) == before, "all is kept"
    run(of(data, epochs=2), [NONE], [0], tmp_path)
    assert ("train", "none-P5-0", 0) in pretended[before:]


def test_the_command(data, tmp_path, pretended, capsys):
    words = ["--data", str(data), "--imgsz", "64", "--epochs", "1", "--seeds", "2", "--folder", str(tmp_path)]
    detector_trial.main([*words, "--places", "P3,P5", "--blocks", "none,tssa improved,softmax@P5", "batch=3"])
    found = json.loads((tmp_path / "trial.json").read_text())
    assert list(found["arms"]) == ["none at P3+P5", "TSSA improved at P3+P5", "softmax at P5"]
    assert found["recipe"]["batch"] == 3 and found["seeds"] == [0, 1] and len(found["rows"]) == 6
    told = capsys.readouterr().out
    assert found["verdict"] in told and "silenced" in told and found["verdict"].startswith("TSSA: on the test pictures")
    with pytest.raises(SystemExit):
        detector_trial.main([*words[:-4], "--seeds", "1"])
    with pytest.raises(ValueError, match="expected --epochs in place of epochs=…"):
        detector_trial.main([*words, "epochs=2"])


# --- what it says -------------------------------------------------------------------------------


def table_of(**gains):
    """A trial with these gains over no attention, by block, and what each loses when silenced."""
    arms = {"none": (0.0, 0.0), **gains}
    noise = (0.01, -0.01, 0.0, 0.005, -0.005)
    rows = [
        {
            "arm": f"{arm.replace('_', ' ')} at P5",
            "seed": seed,
            "val": {"mAP50": 0.6 + gain + n * (1 + i), "per_class": {"cell": 0.5}},
            "use": [] if arm == "none" else [{"intervention": "silenced", "mAP50": 0.6 + gain - loss, "per_class": {}}],
        }
        for i, (arm, (gain, loss)) in enumerate(arms.items())
        for seed, n in enumerate(noise)
    ]
    named = {f"{arm.replace('_', ' ')} at P5": {"block": arm.replace("_", " "), "places": ["P5"]} for arm in arms}
    return {"arms": named, "names": ["cell"], "rows": rows}


@pytest.mark.parametrize(
    "gains, says, besides",
    [
        ({"softmax": (0.0, 0.0), "TSSA_improved": (0.001, 0.0)}, "Nothing: on the val pictures", "can't see"),
        ({"softmax": (0.0, 0.0), "TSSA_improved": (0.1, 0.2)}, "TSSA: ", "softmax at P5 +0.000 ["),
        ({"softmax": (0.1, 0.2), "TSSA_improved": (0.0, 0.0)}, "Softmax: ", "TSSA improved at P5 +0.000 ["),
        ({"softmax": (0.1, 0.2), "TSSA_improved": (0.1, 0.2)}, "TSSA: ", "softmax minus TSSA"),
        ({"softmax": (0.3, 0.2), "TSSA_improved": (0.1, 0.2)}, "Softmax: ", "softmax minus TSSA +0.200"),
        ({"TSSA_improved": (0.1, 0.0)}, "TSSA: ", "so what helps may not be"),
        ({"TSSA_improved": (-0.58, 0.0)}, "Nothing: ", "-0.580"),
        ({}, "Nothing can be said: it takes", ""),
    ],
)
def test_the_sentence_follows_the_intervals(gains, says, besides):
    sentence = results.verdict(table_of(**gains))
    assert sentence.startswith(says) and besides in sentence


def test_nothing_learned_is_no_finding():
    found = table_of(TSSA_improved=(0.0, 0.0))
    for row in found["rows"]:
        row["val"]["mAP50"] = 0.01
    assert results.verdict(found).startswith("Nothing can be said: no detector has learned")


def test_an_arm_is_held_against_the_control_at_its_places():
    found = {
        "arms": {
            str(a): {"block": a.block, "places": a.places} for a in (NONE, Arm("none", ("P3", "P5")), OURS, SOFTMAX)
        }
    }
    assert results.control(found, str(OURS)) == "none at P3+P5" and results.control(found, str(SOFTMAX)) == "none at P5"


def test_tables_rows_of_use_and_figures():
    found = table_of(softmax=(0.0, 0.0), TSSA_improved=(0.1, 0.2))
    assert "TSSA improved at P5" in results.table(found) and "against none at P5" in results.table(found)
    assert "-0.2" in results.use_table(found)
    rows = results.use_rows(found, "cells", "detection")
    assert len(rows) == 20 and rows[0]["intervention"] == results.UNTOUCHED
    assert rows[0].keys() == {"detector", "task", "block", "seed", "intervention", "mAP50", "per_class"}
    assert len(results.figure(found).axes) == len(results.figure_classes(found).axes) == 1


def test_rows_of_use_replace_those_of_the_same_detector_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(detectors.record, "RESULTS", tmp_path)
    for detector, value in (("a", 1), ("b", 2), ("a", 3)):
        detectors.add_use([{"detector": detector, "mAP50": value}], "python -m x", detector)
    found = json.loads((tmp_path / "use.json").read_text())
    rows = found["rows"]
    assert {d: m["command"] for d, m in found["made_by"].items()} == {"a": "python -m x", "b": "python -m x"}
    assert [(row["detector"], row["mAP50"]) for row in rows] == [("b", 2), ("a", 3)]


@pytest.mark.slow
def test_a_trial_trains_measures_and_asks(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TSSA_DATA", str(tmp_path / "made"))
    recipe = {**blood_cells.CELLS, "batch": 3, "nbs": 3}
    trial = of(data, recipe={k: v for k, v in recipe.items() if k not in ("imgsz", "epochs")})
    found = run(trial, [Arm("none", OURS.places), OURS, SOFTMAX], [0], tmp_path)
    none, ours, softmax = found["rows"]
    assert ours["parameters"] > none["parameters"] and ours["flops"] > 0 and none["use"] == []
    assert [use["intervention"] for use in ours["use"]] == list(INTERVENTIONS)
    assert [use["intervention"] for use in softmax["use"]] == ["silenced"]
    assert all(0 <= row[split]["mAP50"] <= 1 for row in found["rows"] for split in ("val", "test"))
    last = tmp_path / "TSSA-improved-P3-P5-0" / "run" / "weights" / "last.pt"
    assert last.is_file() and Path(YOLO(str(last)).ckpt_path) == last
    assert set(BLOCKS) >= {"none", "softmax", "TSSA published", "TSSA improved"}
