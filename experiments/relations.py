"""When does a detector need its attention? Drawn scenes, six blocks in one slot, and a ladder of context.

    python -m experiments.relations --quick      about a minute: one small training of two blocks, a rehearsal
    python -m experiments.relations              all trainings that are not there yet, then the results
    python -m experiments.relations --assemble   the results from the trainings that are there

The tasks are those of `kit.drawn`; the blocks those of `experiments.slot`. A *local* detector (three strided
convolutions, the block, Detect at stride 8) sees less than the scene, so *rare* and *cue* ask the block; the other
networks give the convolutions more context, step by step, up to YOLO11n's. Everything else is equal: the scenes and
their order, the recipe (`RECIPE`), the start of what the blocks have in common, the last epoch's weights.

Every training is a file of its own in data/runs/relations/, so a stopped run goes on where it was. `needs.json` has a
row a training: {task, network, block, seed, mAP50, per_class, receptive_field, interventions, …}, where `per_class` is
mAP50 by class and `interventions` holds the same two for each intervention of `tssa_lib.silence`. `use.json` has a row
a measurement, and may hold rows of other detectors as well:
{detector, task, block, seed, intervention, mAP50, per_class}, where intervention None is the detector as trained.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments import detectors, record
from experiments.slot import BLOCKS, row
from kit.drawn import DrawnSpec, chance, make_drawn
from tssa_lib.paths import data_dir
from tssa_lib.scenes import digest
from tssa_lib.silence import INTERVENTIONS, intervene, tssa_layers
from tssa_lib.train import SCENES, validate
from tssa_lib.yolo import YAML, YOLO

# The same for every task, network and block. Colours are the question, so none is changed; a scene is never cut. Biases
# warm up as the weights do: Ultralytics' 0.1 is for SGD, and under AdamW it shifts what the block sees (its own
# `optimizer="auto"` turns it off for the same reason). The rate was chosen on other scenes (seed 0) by the detector
# without a block: with 0.003 it had not found all discs after 24 epochs, with 0.01 it had.
RECIPE = {
    **SCENES,
    **dict(batch=8, nbs=8, lr0=0.01, cls=1.0, warmup_bias_lr=0.0, fliplr=0.5, flipud=0.5),
    **dict(hsv_h=0.0, hsv_s=0.0, hsv_v=0.0, scale=0.0, translate=0.0, erasing=0.0),
}


@dataclass(frozen=True)
class Form:
    """How large the trainings are."""

    name: str
    train: int  # scenes
    val: int
    epochs: int


FULL = Form("full", train=400, val=100, epochs=24)
QUICK = Form("quick", train=64, val=16, epochs=1)


def spec(task: str, form: Form) -> DrawnSpec:
    """The scenes of a task."""
    return DrawnSpec(task, train=form.train, val=form.val, seed=1)


# --- networks -----------------------------------------------------------------------------------

NETWORKS = ("local", "deeper", "SPPF", "neck", "yolo11n")  # a step of the ladder each, in order
STEM = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [64, 3, 2]]]  # to stride 8


def plan(network: str, block: str) -> dict[str, Any]:
    """The model dictionary of a network with a block of `slot.BLOCKS` at the end of its backbone.

    local    three strided convolutions, then the block, then Detect at stride 8
    deeper   and a C2f before the block
    SPPF     and an SPPF after that
    neck     and two stages more, to stride 32, with the SPPF and the block at their end, and a way back up to stride 8
    yolo11n  YOLO11n itself, with the block in place of its attention

    >>> len(plan("local", "none")["backbone"])
    4
    """
    if network not in NETWORKS:
        raise ValueError(f"expected a network of {', '.join(NETWORKS)}, got {network!r}")
    if network == "yolo11n":
        return _yolo11n(block)
    deeper, pool, slot = [-1, 1, "C2f", [64, True]], [-1, 1, "SPPF", [64, 5]], row(block, 64, 2, e=1.0)
    backbone = {
        "local": [*STEM, slot],
        "deeper": [*STEM, deeper, slot],
        "SPPF": [*STEM, deeper, pool, slot],
        "neck": [*STEM, deeper, [-1, 1, "Conv", [64, 3, 2]], deeper, [-1, 1, "Conv", [64, 3, 2]], deeper, pool, slot],
    }[network]
    up = [-1, 1, "nn.Upsample", [None, 2, "nearest"]]
    head = (
        [up, [[-1, 5], 1, "Concat", [1]], deeper, up, [[-1, 3], 1, "Concat", [1]], deeper] if network == "neck" else []
    )
    last = len(backbone) + len(head) - 1
    head = [*head, [[last], 1, "Detect", ["nc"]]]
    return {"nc": 2, "scales": {"n": [1.0, 1.0, 1024]}, "scale": "n", "backbone": backbone, "head": head}


def _yolo11n(block: str) -> dict[str, Any]:
    from tssa_lib.yolo import AFTER, with_attention

    found = {**with_attention(("P5",), "C2Plain"), "scale": "n"}
    found["backbone"][AFTER["P5"]] = row(block, 1024, repeats=2)
    return found


def build(network: str, block: str, folder: Path) -> YOLO:
    """The untrained detector; its model YAML is written into `folder`, from where Ultralytics reads it again."""
    path = folder / f"{'yolo11n' if network == 'yolo11n' else network.lower() + '-n'}-{block.replace(' ', '-')}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    YAML.save(path, plan(network, block))
    return YOLO(str(path))


def receptive_field(network: str, width: int = 1536) -> int:
    """Side in pixels of the square of the picture that a class score at stride 8 can depend on, without the block.

    Found by the gradient: all weights positive, all activations linear, maxima as means, so that what can be reached
    is reached. `ValueError` when the field is as wide as the picture it is looked for in.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model = build(network, "none", Path(folder)).model.double().train()
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.constant_(m.weight, 1 / m.weight[0].numel())
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        if isinstance(getattr(m, "act", None), nn.Module):
            m.act = nn.Identity()
        if isinstance(getattr(m, "bn", None), nn.Module):
            m.bn = nn.Identity()
        if isinstance(getattr(m, "m", None), nn.MaxPool2d):
            m.m = nn.AvgPool2d(m.m.kernel_size, m.m.stride, m.m.padding)
    scores: list[torch.Tensor] = []
    hook = model.model[-1].cv3[0].register_forward_hook(lambda m, x, y: scores.append(y))
    x = torch.ones(1, 3, 64, width, dtype=torch.float64, requires_grad=True)
    model(x)
    hook.remove()
    scores[0][..., scores[0].shape[-1] // 2].sum().backward()
    reached = x.grad[0].abs().sum((0, 1)).nonzero()
    field = int(reached.max() - reached.min()) + 1
    if field >= width - 32:
        raise ValueError(f"expected a receptive field narrower than {width} px, got {field}")
    return field


# --- one training -------------------------------------------------------------------------------


def one(
    task: str, network: str, block: str, seed: int, form: Form, folder: Path, device: str = "cpu"
) -> dict[str, Any]:
    """Train and measure one detector; what it gave is kept in `folder`, and read from there the next time."""
    name = f"{task}-{network}-{block.replace(' ', '-')}-{seed}"
    asked = {"task": task, "network": network, "block": block, "seed": seed}
    asked |= {"scenes": asdict(spec(task, form)), "plan": plan(network, block), "recipe": RECIPE, "epochs": form.epochs}

    def make() -> dict[str, Any]:
        data, size = make_drawn(spec(task, form)), spec(task, form).size
        settings = {**RECIPE, "imgsz": size, "epochs": form.epochs, "seed": seed, "device": device}
        last, took = detectors.trained(plan(network, block), data, folder / name, **settings)
        model = YOLO(str(last))
        found = {
            **measure(model, data, size, device),
            "interventions": {w: measure(model, data, size, device, w) for w in INTERVENTIONS if tssa_layers(model)},
            "receptive_field": receptive_field(network),
            "parameters": took["parameters"],
            "seconds": took["seconds"],
            "processor_seconds": took["processor seconds"],
            "data": digest(data.parent),
        }
        shutil.rmtree(folder / name)
        return found

    return detectors.kept(folder / f"{name}.json", asked, make)


def measure(model: YOLO, data: Path, size: int, device: str = "cpu", what: str | None = None) -> dict[str, Any]:
    """mAP50 and its value for each class on the validation scenes, as trained or under an intervention.

    Scenes stay square (`rect=False`): Ultralytics else adds a border of half a stride, tokens never trained with.
    """
    settings = {"imgsz": size, "rect": False, "batch": 16, "device": device}
    with contextlib.nullcontext() if what is None else intervene(model, what):
        scores, per_class = validate(model, data, **settings)
    return {"mAP50": scores["mAP50"], "per_class": per_class}


# --- all of them --------------------------------------------------------------------------------

CONTEXT = ("none", "softmax", "TSSA improved")  # the blocks of the ladder
Training = tuple[str, str, str, int]  # task, network, block, seed


def todo(seeds: int, tasks: Sequence[str], networks: Sequence[str], blocks: Sequence[str]) -> list[Training]:
    """The trainings in the order in which they are worth most, so that a stopped run has whole comparisons.

    First *rare* on the local detector with all blocks, then the ladder, then the other tasks; seed by seed.
    """
    seen = range(seeds)
    found = [("rare", "local", b, s) for s in seen for b in BLOCKS]
    found += [("rare", n, b, s) for s in seen for n in NETWORKS[1:] for b in CONTEXT]
    found += [(t, "local", b, s) for s in seen for t in ("own", "cue", "twin") for b in BLOCKS]
    return [x for x in found if x[0] in tasks and x[1] in networks and x[2] in blocks]


def needs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `needs.json` from the kept trainings."""
    names = ("task", "network", "block", "seed")
    return [
        {
            **{k: r["asked"][k] for k in names},
            **{k: v for k, v in r.items() if k != "asked"},
            "epochs": r["asked"]["epochs"],
        }
        for r in rows
    ]


def use(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `use.json` from those of `needs.json`: one a measurement, TSSA alone has interventions."""
    return [
        {
            "detector": r["network"],
            **{k: r[k] for k in ("task", "block", "seed")},
            "intervention": what,
            "mAP50": measured["mAP50"],
            "per_class": measured["per_class"],
        }
        for r in rows
        if r["interventions"]
        for what, measured in {None: r, **r["interventions"]}.items()
    ]


def _place(row: dict[str, Any]) -> tuple[int, ...]:
    """Where a row of `needs.json` stands."""
    orders = ("task", ["own", "rare", "cue", "twin"]), ("network", NETWORKS), ("block", list(BLOCKS))
    return (*(order.index(row[name]) for name, order in orders), row["seed"])


def assemble(folder: Path, form: Form, out: Path, command: str) -> Path:
    """Write `needs.json` and the rows of these detectors in `use.json`, beside it, from what `folder` holds.

    Rows that the file has already, of the same recipe and form, stay beside the new ones, and `earlier` says which
    commands made them. Rows of other detectors in `use.json` stay. `ValueError` when there is no training.
    """
    kept = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))]
    now = json.loads(json.dumps(RECIPE))
    kept = [r for r in kept if r["asked"]["recipe"] == now and r["asked"]["epochs"] == form.epochs]
    kept = [
        r
        for r in kept
        if r["asked"]["plan"] == json.loads(json.dumps(plan(r["asked"]["network"], r["asked"]["block"])))
    ]
    said = {
        "form": asdict(form),
        "recipe": {k: v for k, v in now.items() if k not in ("imgsz", "epochs")},
    }
    fresh = {_place(r): r for r in needs(kept)}
    if not fresh:
        raise ValueError(
            f"expected finished trainings of this recipe and form in {folder}, found none: nothing is written"
        )
    before = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    same = {name: before.get(name) for name in said} == said
    stay = {_place(r): r for r in before["rows"]} if same else {}
    rows = [row for _, row in sorted({**stay, **fresh}.items())]
    about = record.manifest(command)
    if stay.keys() - fresh.keys():
        about["earlier"] = [*before.get("earlier", []), {name: before.get(name) for name in about}]
    about |= {
        "minutes": round(sum(r["seconds"] for r in rows) / 60, 1),
        "processor_minutes": round(sum(r["processor_seconds"] for r in rows) / 60, 1),
        "seeds": sorted({r["seed"] for r in rows}),
    }
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    result = {
        **about,
        **said,
        "scenes": {task: asdict(spec(task, form)) for task in tasks},
        "chance": {task: chance(spec(task, form)) for task in tasks},
        "receptive_fields": {r["network"]: r["receptive_field"] for r in rows},
        "rows": rows,
    }
    record.write(out, result)
    beside = out.with_name(out.name.replace("needs", "use"))
    known = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    others = [r for r in known.get("rows", []) if r["detector"] not in NETWORKS]
    if ours := use(rows):
        record.write(beside, {**known, **about, "rows": [*ours, *others]})
    return out


def run(form: Form, trainings: Sequence[Training], folder: Path, device: str = "cpu") -> None:
    """All trainings that `folder` doesn't hold yet."""
    from tqdm.auto import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(trainings, desc=f"{form.name} relations", unit="training") as bar:
        for task, network, block, seed in bar:
            bar.set_postfix_str(f"{task}, {network}, {block}, seed {seed}")
            one(task, network, block, seed, form, folder, device)


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(
        prog="python -m experiments.relations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="none and TSSA improved on tiny scenes: a rehearsal")
    parser.add_argument("--assemble", action="store_true", help="train nothing, write the results from what is there")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (default: 3)")
    parser.add_argument(
        "--tasks", nargs="+", choices=["own", "rare", "cue", "twin"], default=["own", "rare", "cue", "twin"]
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument(
        "--device", default="0" if torch.cuda.is_available() else "cpu", help="cpu, or the number of a GPU"
    )
    parser.add_argument("--epochs", type=int, help=f"of each training (default: {FULL.epochs}, quick: {QUICK.epochs})")
    parser.add_argument("--folder", type=Path, help="where finished trainings are kept (default: data/runs/relations)")
    parser.add_argument(
        "--out", type=record.place, help="the JSON (default: data/results/needs.json, quick: beside the trainings)"
    )
    given = parser.parse_args(words)
    if given.seeds < 1:
        parser.error(f"expected --seeds >= 1, got {given.seeds}")
    if given.epochs is not None and given.epochs < 1:
        parser.error(f"expected --epochs >= 1, got {given.epochs}")
    form = QUICK if given.quick else FULL
    form = replace(form, epochs=given.epochs or form.epochs)
    folder = given.folder or data_dir() / "runs" / ("relations-quick" if given.quick else "relations")
    out = given.out or (folder / "out" / "needs.json" if given.quick else record.RESULTS / "needs.json")
    started = time.perf_counter()
    if not given.assemble:
        trainings = todo(given.seeds, given.tasks, given.networks, given.blocks)
        if given.quick:
            trainings = [("rare", "local", "none", 0), ("rare", "local", "TSSA improved", 0)]
        run(form, trainings, folder, given.device)
    assemble(folder, form, out, shlex.join(["python", "-m", "experiments.relations", *words]))
    print(f"wrote {out} after {(time.perf_counter() - started) / 60:.1f} minutes")
    if given.quick:
        print("a rehearsal: too small to decide anything")


if __name__ == "__main__":
    main()
