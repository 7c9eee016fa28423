"""Blood cells: the ready detector that comes with the project, and the trial of attention on real pictures.

    python -m experiments.blood_cells ready     about eight minutes of one idle core
    python -m experiments.blood_cells use       a minute: what the ready detector loses without its attention
    python -m experiments.blood_cells trial     about fifty minutes of one idle core; resumable

`ready` trains YOLO11n with TSSA at P3, P4 and P5, in the form that the derivation suggests, keeps its last epoch in
data/detectors/blood_cells.pt and writes data/results/blood_cells_ready.json: one seed, measured once.
`use` puts its rows into data/results/use.json. `trial` writes data/results/blood_cells.json, and its rows of use into
use.json.

Every arm has its control at the same places: the same blocks, feed-forward parts included, without a token mixer.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from experiments import detectors, record
from experiments.detector_trial import Arm, Trial, run, scores, used, without
from kit import results_cells as results
from tssa_lib import paths, weights
from tssa_lib.train import CELLS
from tssa_lib.yolo import YOLO

DATA = paths.shipped("blood_cells/data.yaml")
DETECTOR = record.RESULTS.parent / "detectors" / "blood_cells.pt"
READY = {**CELLS, "imgsz": 224, "epochs": 20, "batch": 8, "nbs": 8, "lr0": 0.003}
EVERYWHERE = ("P3", "P4", "P5")
TRIAL = dict(imgsz=160, epochs=8, batch=8, nbs=8, lr0=0.004)  # what five seeds of five arms can take
ARMS = (
    Arm("none"),
    Arm("none", EVERYWHERE),
    Arm("softmax"),
    Arm("TSSA published"),
    Arm("TSSA improved", EVERYWHERE),
)
SEEDS = range(5)


def make_ready(folder: Path, command: str) -> dict[str, Any]:
    """Train TSSA at three places, keep the weights as numbers alone in `DETECTOR`, and measure what was kept."""
    arm = Arm("TSSA improved", EVERYWHERE)
    recipe = {**READY, "seed": 0, "device": "cpu"}

    def make() -> dict[str, Any]:
        return detectors.trained(arm.plan, DATA, folder, **recipe)[1]

    took = without(detectors.kept(folder / "train.json", recipe, make))
    weights.keep(YOLO(str(folder / "run" / "weights" / "last.pt")), DETECTOR, recipe["imgsz"])
    rows = []
    for split in ("val", "test"):
        found = detectors.measured(weights.load(DETECTOR), DATA, recipe["imgsz"], split=split)
        rows.append({"split": split, **found})
    about = {**record.manifest(command), "detector": str(arm), "seed": 0, "recipe": recipe}
    return {**about, **took, "bytes": DETECTOR.stat().st_size, "rows": rows}


def use_of_ready() -> dict[str, Any]:
    """The ready detector on the validation pictures, as trained and with its attention changed: as a trial has it."""
    trial = Trial(DATA, READY["imgsz"], READY["epochs"], recipe={"batch": 8})
    arm = str(Arm("TSSA improved", EVERYWHERE))
    row = {"arm": arm, "seed": 0, "val": scores(trial, weights.load(DETECTOR), "val")}
    return {"rows": [{**row, "use": used(trial, lambda: weights.load(DETECTOR))}]}


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(
        prog="python -m experiments.blood_cells",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("ready", "use", "trial"))
    parser.add_argument("--so-far", action="store_true", help="trial: read what is finished; train and write nothing")
    given = parser.parse_args(words)
    command = shlex.join(["python", "-m", "experiments.blood_cells", *words])
    runs = paths.data_dir() / "runs" / "blood_cells"
    if given.what == "use":
        rows = results.use_rows(use_of_ready(), "blood cells, ready", "blood cells")
        for row in rows:
            print(row["intervention"] or "as trained", round(row["mAP50"], 4), row["per_class"])
        print(f"wrote {detectors.add_use(rows, command, 'blood cells, ready')}")
        return
    if given.what != "trial":
        found = make_ready(runs / "ready", command)
        for row in found["rows"]:
            print(row["split"], {k: round(v, 3) for k, v in row.items() if k.startswith("mAP")}, row["per_class"])
        print(f"wrote {record.write(record.RESULTS / 'blood_cells_ready.json', found)}")
        return
    recipe = {k: v for k, v in {**CELLS, **TRIAL}.items() if k not in ("imgsz", "epochs")}
    trial = Trial(DATA, TRIAL["imgsz"], TRIAL["epochs"], recipe=recipe)
    found = run(trial, ARMS, SEEDS, runs / "trial", command, so_far=given.so_far)
    print(results.table(found), results.use_table(found), found["verdict"], sep="\n")
    if not given.so_far:
        print(f"wrote {record.write(record.RESULTS / 'blood_cells.json', found)}")
        rows = results.use_rows(found, "blood cells", "blood cells")
        print(f"wrote {detectors.add_use(rows, command, 'blood cells')}")


if __name__ == "__main__":
    main()
