"""The drawn tasks ask what they say, the networks are what they say, and a whole training leaves whole results."""

import ast
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments import relations
from experiments.slot import BLOCKS, C2SE, C2XCA, C2Softmax
from harness import prose_of
from kit import equations, results_cells, results_needs, results_trial
from kit.drawn import CIRCLE, CLASSES, HARD, QUARTER, DrawnSpec, chance, colour, draw, make_drawn
from kit.places import NOTEBOOKS, RESULTS, SOURCES
from tssa_lib.train import SCENES
from tssa_lib.yolo import C2TSSA, YOLO, C2Plain

TINY = relations.Form("tiny", train=8, val=4, epochs=1)


# --- scenes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", CLASSES)
def test_a_specification_makes_the_same_scene_and_another_seed_another(task):
    spec = DrawnSpec(task)
    assert np.array_equal(draw(spec, "val", 3).image, draw(spec, "val", 3).image)
    assert not np.array_equal(draw(spec, "val", 3).image, draw(replace(spec, seed=1), "val", 3).image)
    assert not np.array_equal(draw(spec, "val", 3).image, draw(spec, "train", 3).image)


@pytest.mark.parametrize("task", CLASSES)
def test_shapes_keep_apart_and_inside(task):
    spec = DrawnSpec(task)
    for i in range(20):
        boxes = draw(spec, "train", i).boxes
        assert boxes.min() >= spec.gap and boxes.max() <= spec.size - spec.gap
        for a in range(len(boxes)):
            for b in range(a):
                apart = (boxes[a, :2] >= boxes[b, 2:] + spec.gap) | (boxes[b, :2] >= boxes[a, 2:] + spec.gap)
                assert apart.any()


def distance(a, b):
    return abs((a - b + CIRCLE // 2) % CIRCLE - CIRCLE // 2)


def test_own_is_told_by_the_hue():
    for i in range(20):
        drawn = draw(DrawnSpec("own"), "train", i)
        assert np.array_equal(drawn.labels, distance(drawn.hues, 0) > QUARTER)


def test_rare_is_the_minority_of_two_colours_far_apart():
    for i in range(40):
        drawn = draw(DrawnSpec("rare"), "train", i)
        rare, common = drawn.hues[drawn.labels == 1], drawn.hues[drawn.labels == 0]
        assert 1 <= len(rare) < len(common)
        assert len(set(rare)) == len(set(common)) == 1
        assert distance(rare[0], common[0]) >= QUARTER


def test_same_has_the_colour_of_the_square():
    for i in range(40):
        drawn = draw(DrawnSpec("cue"), "train", i)
        square = drawn.hues[drawn.labels == 2]
        assert len(square) == 1
        assert np.array_equal(drawn.labels[:-1] == 1, drawn.hues[:-1] == square[0])
        assert {0, 1} <= set(drawn.labels.tolist())


def test_twins_share_a_colour_that_nobody_else_has():
    for i in range(40):
        drawn = draw(DrawnSpec("twin"), "train", i)
        hues, counts = np.unique(drawn.hues, return_counts=True)
        assert sorted(counts)[-2:] == [1, 2]
        assert np.array_equal(drawn.labels == 1, drawn.hues == hues[counts.argmax()])


def test_hues_are_equally_saturated():
    colours = np.stack([colour(hue) for hue in range(CIRCLE)])
    assert (colours.max(1) == colours.max()).all() and (colours.min(1) == colours.min()).all()


def test_the_set_on_disk_is_yolos_and_is_made_once(tmp_path):
    spec = DrawnSpec("rare", train=3, val=2)
    data = make_drawn(spec, tmp_path)
    made = data.stat().st_mtime_ns
    assert make_drawn(spec, tmp_path) == data and data.stat().st_mtime_ns == made
    assert len(list((data.parent / "images/train").iterdir())) == 3
    drawn = draw(spec, "val", 1)
    rows = np.loadtxt(data.parent / "labels/val/00001.txt", ndmin=2)
    assert np.array_equal(rows[:, 0], drawn.labels)
    corners = np.hstack([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2]) * spec.size
    assert np.allclose(corners, drawn.boxes, atol=1e-3)


def test_chance_is_the_share_of_a_class():
    spec = DrawnSpec("rare", val=30)
    labels = np.concatenate([draw(spec, "val", i).labels for i in range(30)])
    assert chance(spec)["rare"] == pytest.approx(labels.mean())


# --- what a disc tells of itself ------------------------------------------------------------------


def precision_by_colour_alone(task):
    """Average precision of the hard class for a classifier of each disc's mean colour, over its share."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import average_precision_score

    def discs(split, count):
        x, y = [], []
        for i in range(count):
            drawn = draw(DrawnSpec(task), split, i)
            for label, (x0, y0, x1, y1) in zip(drawn.labels, drawn.boxes):
                if CLASSES[task][label] != "square":
                    q = (x1 - x0) // 4  # the middle half of the box is all disc
                    x.append(drawn.image[y0 + q : y1 - q, x0 + q : x1 - q].mean((0, 1)))
                    y.append(CLASSES[task][label] == HARD[task])
        return np.array(x), np.array(y)

    x, y = discs("train", 250)
    forest = RandomForestClassifier(60, min_samples_leaf=10, random_state=0).fit(x, y)
    x, y = discs("val", 250)
    return average_precision_score(y, forest.predict_proba(x)[:, 1]), y.mean()


def test_own_can_be_told_from_the_disc():
    precision, _ = precision_by_colour_alone("own")
    assert precision > 0.98


@pytest.mark.parametrize("task", ["rare", "cue", "twin"])
def test_the_others_can_not(task):
    precision, share = precision_by_colour_alone(task)
    assert abs(precision - share) < 0.06


def test_rare_is_told_by_counting():
    """The answer is in the scene: whoever counts the discs of each colour has it."""
    for i in range(40):
        drawn = draw(DrawnSpec("rare"), "val", i)
        counts = np.array([(drawn.hues == hue).sum() for hue in drawn.hues])
        assert np.array_equal(counts < len(counts) / 2, drawn.labels == 1)


# --- networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS)
def test_the_slot_holds_its_block_and_nothing_else_differs(block, tmp_path):
    kinds = {"none": C2Plain, "SE": C2SE, "XCA": C2XCA, "softmax": C2Softmax}
    layers = relations.build("local", block, tmp_path).model.model
    assert type(layers[3]) is kinds.get(block, C2TSSA)
    plain = relations.build("local", "none", tmp_path).model.model
    assert [type(m) for m in layers if m is not layers[3]] == [type(m) for m in plain if m is not plain[3]]


def test_improved_has_four_heads_and_published_one(tmp_path):
    heads = [relations.build("local", b, tmp_path).model.model[3].m[0].attn.num_heads for b in list(BLOCKS)[-2:]]
    assert heads == [1, 4]


@pytest.mark.parametrize("network", relations.NETWORKS)
@pytest.mark.parametrize("block", ["SE", "XCA", "TSSA improved"])
def test_every_network_takes_every_block(network, block, tmp_path):
    model = relations.build(network, block, tmp_path).model.eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 96, 96))[0].shape[1] == 4 + len(model.names)


def test_receptive_fields_grow_along_the_ladder():
    """By hand for the first: 15 px of three strided convolutions, two cells of 8 px for each of four 3x3 ones."""
    fields = [relations.receptive_field(network) for network in relations.NETWORKS[:3]]
    assert fields[0] == 15 + 4 * 2 * 8
    assert fields == sorted(set(fields))


def test_stopped_orders_are_whole_comparisons_first():
    order = relations.todo(2, list(CLASSES), relations.NETWORKS, list(BLOCKS))
    assert len(order) == len(set(order))
    assert order[: len(BLOCKS)] == [("rare", "local", block, 0) for block in BLOCKS]


# --- a whole run ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_is_kept_and_the_results_are_whole(tmp_path):
    folder, out = tmp_path / "runs", tmp_path / "needs.json"
    trainings = [("rare", "local", block, 0) for block in ("none", "TSSA improved")]
    relations.run(TINY, trainings, folder)
    kept = {p: p.stat().st_mtime_ns for p in folder.glob("*.json")}
    relations.run(TINY, trainings, folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*.json")} == kept and len(kept) == 2
    assert not list(folder.rglob("*.pt"))

    other = {"detector": "digits", "task": "digits", "block": "TSSA", "seed": 0, "intervention": None, "mAP50": 0.8}
    manifest = {"command": "x", "date": "x", "python": "x", "torch": "x"}
    (tmp_path / "use.json").write_text(json.dumps({**manifest, "rows": [{**other, "per_class": {}}]}))
    relations.assemble(folder, TINY, out, "python -m experiments.relations")
    needs, use = (json.loads((tmp_path / name).read_text()) for name in ("needs.json", "use.json"))
    whole(needs, use)
    assert [r["block"] for r in needs["rows"]] == ["none", "TSSA improved"]
    assert {r["intervention"] for r in use["rows"] if r["detector"] == "local"} == {None, *relations.INTERVENTIONS}
    assert [r["detector"] for r in use["rows"]].count("digits") == 1  # others' rows stay

    (folder / "rare-local-TSSA-improved-0.json").unlink()  # as on another machine
    relations.assemble(folder, TINY, out, "python -m experiments.relations --blocks none")
    again = json.loads(out.read_text())
    assert again["rows"] == needs["rows"] and "earlier" not in needs
    assert [e["command"] for e in again["earlier"]] == [needs["command"]]
    relations.assemble(folder, replace(TINY, val=TINY.val + 1), out, "x")  # other scenes: nothing of before stays
    assert [r["block"] for r in json.loads(out.read_text())["rows"]] == ["none"]


def test_nothing_trained_writes_nothing(tmp_path):
    (tmp_path / "needs.json").write_text("{}")
    with pytest.raises(ValueError, match="nothing is written"):
        relations.assemble(tmp_path / "empty", TINY, tmp_path / "needs.json", "x")
    assert (tmp_path / "needs.json").read_text() == "{}"


def whole(needs, use):
    assert {"command", "date", "torch", "ultralytics", "minutes", "seeds", "scenes", "chance", "recipe"} <= needs.keys()
    for row in needs["rows"]:
        assert row["task"] in CLASSES and row["network"] in relations.NETWORKS and row["block"] in BLOCKS
        for measured in (row, *row["interventions"].values()):
            assert 0 <= measured["mAP50"] <= 1
            assert all(0 <= v <= 1 for v in measured["per_class"].values())
        assert set(row["interventions"]) == (set(relations.INTERVENTIONS) if "TSSA" in row["block"] else set())
        assert row["receptive_field"] == needs["receptive_fields"][row["network"]]
    for row in use["rows"]:
        assert row.keys() == {"detector", "task", "block", "seed", "intervention", "mAP50", "per_class"}
        assert row["intervention"] in (None, *relations.INTERVENTIONS)


def test_committed_results_are_whole_and_draw():
    needs, use = results_needs.load("needs"), results_needs.load("use")
    mine = {**use, "rows": [r for r in use["rows"] if r["detector"] in relations.NETWORKS]}
    whole(needs, mine)
    assert len({(r["task"], r["network"], r["block"], r["seed"]) for r in needs["rows"]}) == len(needs["rows"])
    for figure in (results_needs.tasks_figure(needs), results_needs.ladder_figure(needs)):
        assert all(ax.get_title() for ax in figure.axes)
    assert results_needs.use_table(mine["rows"]).count("\n") >= 2


def test_the_answers_figure_draws_the_rows():
    asked, capacity = results_needs.load("needs"), results_needs.load("capacity")
    speed = json.loads((RESULTS / "linear_time.json").read_text())
    first, second, third = results_needs.answers_figure(asked, capacity, speed).axes
    names = [t.get_text().split("\n") for t in first.get_xticklabels()]
    bars = [line for line in first.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 3]
    network = {"sees a part": "local", "YOLO11n": "yolo11n"}
    for (where, block), bar in zip(names, bars, strict=True):
        of = [r for r in asked["rows"] if (r["task"], r["network"]) == ("rare", network[where])]
        if block == "TSSA silenced":
            rows = [r["interventions"]["silenced"] for r in of if r["block"] == "TSSA improved"]
        else:
            rows = [r for r in of if r["block"] == block]
        assert bar.get_ydata()[0] == pytest.approx(np.mean([r["per_class"]["rare"] for r in rows]))
    assert [t.get_text() for t in second.get_xticklabels()] == list(BLOCKS)
    drawn = dict(zip(("softmax", "TSSA"), (line.get_ydata() for line in third.lines)))
    assert drawn["softmax"][-1] > drawn["TSSA"][-2]


def test_lesson_11_says_of_the_results_what_the_files_hold():
    """Each sentence stands in the lesson exactly if it is true of the committed rows, whatever they say."""
    prose = prose_of(NOTEBOOKS / "11_does_a_detector_need_it.ipynb")
    rows, blood = results_needs.load("needs")["rows"], results_cells.load("blood_cells")

    def rare(network, block, what=None):
        of = {"task": "rare", "network": network}
        if what:
            return np.mean(results_needs.left(rows, block, what, "hard", **of))
        return np.mean(list(results_needs.by_block(rows, "hard", **of)[block].values()))

    kept = {n: rare(n, "TSSA improved", "silenced") / rare(n, "TSSA improved") for n in relations.NETWORKS}
    gain = results_needs.paired(rows, "TSSA improved", "none", task="rare", network="local")
    alone = results_needs.by_block(rows, "hard", task="rare", network="local")["none"].values()
    seen = [d for d in results_cells.differences(blood) if d["low"] > 0 or d["high"] < 0]
    lost = [d for d in results_cells.use_differences(blood) if d["intervention"] == "silenced"]
    use, silenced = results_needs.load("use")["rows"], []
    for block in {r["block"] for r in use if r["detector"].startswith("digits")}:
        of = [r for r in use if r["detector"].startswith("digits") and r["block"] == block]
        left, whole = ([r["mAP50"] for r in of if r["intervention"] == what] for what in ("silenced", None))
        silenced.append(results_trial.difference(left, whole))
    small = results_cells.values(blood, "TSSA published at P5"), results_cells.values(blood, "none at P5")
    claims = {
        "None: every interval holds zero (`data/results/trial.json`)": all(
            d["low"] <= 0 <= d["high"]
            for d in results_trial.load()["differences"]
            if (d["metric"], d["against"]) == ("mAP50", "none")
        ),
        "TSSA takes a detector from chance to nearly all, as softmax attention does": gain["low"] > 0.2
        and min(rare("local", b) for b in ("softmax", "TSSA improved")) > 0.9,
        "silenced, it is back at chance, and with another scene's gates most is lost": kept["local"] < 0.4
        and rare("local", "TSSA improved", "swapped") < rare("local", "TSSA improved") / 2,
        "With *neck* and with YOLO11n, silencing changes nothing": min(kept["neck"], kept["yolo11n"]) > 0.98,
        "without it, it stays near chance with every seed": max(alone) < 0.35 and kept["local"] < 0.4,
        "With *deeper*, silencing takes away what was learned": kept["deeper"] < 0.4,
        "softmax attention still does in YOLO11n": np.ptp(
            list(results_needs.by_block(rows, "hard", task="rare", network="yolo11n")["softmax"].values())
        )
        > 0.3,
        "*Own* needs nobody, and TSSA adds nothing": min(r["mAP50"] for r in rows if r["task"] == "own") > 0.98,
        "*Rare* is answered by anything that hears the scene": all(
            rare("local", block) > 0.85 for block in BLOCKS if block != "none"
        ),
        "one interval of the three excludes zero: published TSSA stands about a hundredth above its control, "
        "with every seed": len(seen) == 1
        and seen[0]["arm"].startswith("TSSA published")
        and 0.005 < seen[0]["mean"] < 0.02
        and all(small[0][seed] > small[1][seed] for seed in small[0]),
        "Of published TSSA nothing, not even in the third decimal": all(
            abs(d["mean"]) < 0.0005 for d in lost if d["arm"].startswith("TSSA published")
        ),
        "on drawn scenes, digits and blood cells alike, it takes nothing that these seeds could show": all(
            d["low"] <= 0 <= d["high"] or abs(d["mean"]) < 0.005 for d in [*lost, *silenced]
        )
        and kept["yolo11n"] > 0.98,
    }
    assert {claim: claim in prose for claim in claims} == claims


def test_lesson_11_trains_what_the_trial_trained():
    """A lesson imports no experiment, so it writes plans, scenes and recipe down again: here they are held equal."""
    code = "\n".join(equations.cells(SOURCES / "11_does_a_detector_need_it.py", "code"))
    names = {"plan": None, "plans": None, "spec": None, "recipe": None}
    found = dict(DrawnSpec=DrawnSpec, SCENES=SCENES)
    for node in ast.parse(code).body:  # the first statement that makes each, and nothing else of the lesson
        made = {node.name} if isinstance(node, ast.FunctionDef) else set()
        made |= {t.id for t in node.targets if isinstance(t, ast.Name)} if isinstance(node, ast.Assign) else set()
        if made & names.keys() - found.keys():
            exec(compile(ast.Module([node], []), "lesson 11", "exec"), found)
    form = relations.FULL
    assert found["spec"] == relations.spec("rare", form)
    assert found["recipe"] == {**relations.RECIPE, "imgsz": found["spec"].size, "epochs": form.epochs}
    assert found["plans"] == {
        name: relations.plan("local", block) for name, block in {"none": "none", "TSSA": "TSSA improved"}.items()
    }


def test_intervals_and_pairs_are_computed_when_read():
    rows = [
        {
            "task": "rare",
            "network": "local",
            "block": block,
            "seed": seed,
            "mAP50": value,
            "per_class": {"rare": value / 2},
        }
        for block, values in {"none": (0.5, 0.4, 0.6), "SE": (0.9, 0.85, 0.95)}.items()
        for seed, value in enumerate(values)
    ]
    found = results_needs.paired(rows, "SE", "none", task="rare")
    assert found["mean"] == pytest.approx(0.4) and found["low"] < 0.4 < found["high"] and found["seeds"] == 3
    assert results_needs.by_block(rows, "hard")["SE"][0] == 0.45
    with pytest.raises(ValueError):
        results_needs.paired(rows, "SE", "softmax")


def test_measuring_under_an_intervention_leaves_the_detector_as_it_was(tmp_path):
    data = make_drawn(DrawnSpec("rare", train=2, val=4), tmp_path)
    model = relations.build("local", "TSSA improved", tmp_path)
    assert isinstance(model, YOLO)
    before = relations.measure(model, data, 96)
    relations.measure(model, data, 96, what="silenced")
    assert relations.measure(model, data, 96) == before
