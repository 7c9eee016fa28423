"""Is the recipe that looks at the data (`auto`) any worse than Ultralytics' default, at equal epochs?

    python -m experiments.recipes              about ten minutes of one idle core; resumable
    python -m experiments.recipes --so-far     read what is finished; train and write nothing

Blood cells and digit scenes, the published TSSA at P5 from scratch, three seeds, equal picture size and epochs;
"default" leaves all else to Ultralytics, "auto" to `tssa_lib.recipes.auto`. The last epoch's weights are measured on
the validation pictures. Writes data/results/recipes.json.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from experiments import detectors, record
from tssa_lib import paths, yolo
from tssa_lib.recipes import auto
from tssa_lib.scenes import SceneSpec, make_scenes
from tssa_lib.yolo import YOLO

SEEDS = range(3)
SETS: dict[str, dict[str, Any]] = {"blood cells": dict(imgsz=160, epochs=6), "scenes": dict(imgsz=96, epochs=6)}
SCENES = SceneSpec(train=240, val=80, size=96)
RECIPES = ("default", "auto")


def data_of(name: str) -> Path:
    return paths.shipped("blood_cells/data.yaml") if name == "blood cells" else make_scenes(SCENES, progress=True)


def settings(name: str, recipe: str, seed: int) -> dict[str, Any]:
    """What a training is asked for: size, epochs and seed are the same in both recipes."""
    given = {**SETS[name], "seed": seed, "device": "cpu", "cache": "ram", "plots": False}
    return auto(data_of(name), **given) if recipe == "auto" else given


def one(name: str, recipe: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one detector, or take it from `folder` where it is finished, and measure it."""
    asked = settings(name, recipe, seed)

    def make() -> dict[str, Any]:
        last, took = detectors.trained(yolo.with_attention(), data_of(name), folder, **asked)
        return {**took, **detectors.measured(YOLO(str(last)), data_of(name), asked["imgsz"])}

    found = detectors.kept(folder / "row.json", asked, make)
    return {"set": name, "recipe": recipe, "seed": seed, **found}


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(
        prog="python -m experiments.recipes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--so-far", action="store_true", help="read what is finished; train and write nothing")
    given = parser.parse_args(words)
    runs, rows = paths.data_dir() / "runs" / "recipes", []
    for seed in SEEDS:
        for name in SETS:
            for recipe in RECIPES:
                folder = runs / f"{name.replace(' ', '-')}-{recipe}-{seed}"
                if given.so_far and not (folder / "row.json").is_file():
                    continue
                rows.append(one(name, recipe, seed, folder))
                print(f"{name}, {recipe}, seed {seed}: mAP50 {rows[-1]['mAP50']:.3f}", flush=True)
    if not given.so_far:
        command = shlex.join(["python", "-m", "experiments.recipes", *words])
        found = {**record.manifest(command), "model": "yolo11n-tssa", "seeds": list(SEEDS), "rows": rows}
        print(f"wrote {record.write(record.RESULTS / 'recipes.json', found)}")


if __name__ == "__main__":
    main()
