"""The fair trial: one slot in YOLO11, four blocks, everything else equal; paired differences with 95 % intervals.

    python -m experiments.trial --quick --workers 2      a rehearsal that decides nothing: seven minutes on two cores
    python -m experiments.trial --laptop --workers 2     60 trainings: an hour and a half on two cores
    python -m experiments.trial                          the same with more and larger scenes: sized for one GPU
    python -m experiments.trial --laptop --switches      one change of TSSA at a time, in easy: 30 trainings more
    python -m experiments.trial --laptop --use --seeds 3 what easy's detectors lose without their attention: use.json

The slot is row 10, where YOLO11 has attention (lesson 10). Every block starts from the same numbers, sees the same
scenes in the same order and is trained by the same recipe from scratch. Each finished training is a file of its own, so
a stopped trial goes on where it was. A comparison of means is not enough: with few seeds, scatter between seeds is as
large as what one looks for, so blocks are compared seed by seed (Student's t for paired samples).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments import detectors, record
from experiments.detector_trial import Trial, scores, used
from kit.results_cells import use_rows
from kit.results_trial import at_size, compare, figure, table
from tssa_lib import yolo
from tssa_lib.paths import data_dir
from tssa_lib.scenes import SceneSpec, digest, make_scenes
from tssa_lib.train import SCENES
from tssa_lib.yolo import IMPROVED, YOLO

# What the derivation suggests (lesson 6): logits that don't depend on resolution, narrower heads, and a temperature
# at which Π is selective at the start. With 16 coordinates a head, the logits' spread over heads is about θ·√(2/16).
BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("C2Plain", {}),
    "softmax": ("C2PSA", {}),
    "tssa": ("C2TSSA", {}),
    "tssa improved": ("C2TSSA", IMPROVED),
}
SWITCHES = {  # one change at a time, for `--blocks`
    "tssa rms": ("C2TSSA", dict(normalize="rms")),
    "tssa rms temp": (
        "C2TSSA",
        dict(normalize="rms", temp=4.0),
    ),  # beside "tssa rms": a temperature needs logits of fixed size
    "tssa heads 32": ("C2TSSA", dict(head_width=32)),
    "tssa heads 16": ("C2TSSA", dict(head_width=16)),
    "tssa code": ("C2TSSA", dict(normalize="code")),
    "tssa tied": ("C2TSSA", dict(tied=True)),
}
USED = "digits, YOLO11n"  # what use.json calls the detectors of the trial
DIFFICULTIES = ("easy", "hard", "context")
RESULTS = record.RESULTS


@dataclass(frozen=True)
class Form:
    """How large a trial is."""

    name: str
    seeds: int  # trainings of each block and difficulty
    epochs: int
    train: int  # scenes
    val: int
    size: int  # pixels, trained at
    other_sizes: tuple[int, ...]  # pixels, validated at besides
    difficulties: tuple[str, ...] = DIFFICULTIES
    first: int = 0  # seed

    @property
    def numbers(self) -> list[int]:
        """The seeds."""
        return list(range(self.first, self.first + self.seeds))


FULL = Form("full", seeds=5, epochs=20, train=600, val=300, size=128, other_sizes=(192, 256))
LAPTOP = Form("laptop", seeds=5, epochs=18, train=320, val=120, size=96, other_sizes=(128, 160, 192))
QUICK = Form("quick", seeds=2, epochs=8, train=128, val=48, size=96, other_sizes=(128,))


# --- data ---------------------------------------------------------------------------------------


def scenes(difficulty: str, form: Form, root: str | Path | None = None) -> Path:
    """The `data.yaml` of a difficulty: "easy", "hard" (small and pale digits) or "context".

    In "context" a digit's class depends on what else is in the picture. Class 0 are the cues, zeros and ones; class 1
    any other digit while a cue is somewhere in the picture, class 2 any other digit while there is none. Nobody can
    tell 1 from 2 by looking at the digit alone. `ValueError` for another difficulty.

    >>> tiny = Form("tiny", 1, 1, train=4, val=2, size=64, other_sizes=(96,))
    >>> scenes("context", tiny).parent.name[:7]
    'context'
    """
    large = form.size >= 128
    spec = SceneSpec(
        train=form.train,
        val=form.val,
        size=form.size,
        digits=(2, 5) if large else (1, 3),
        side=(20, 44) if large else (16, 28),
    )
    if difficulty == "easy":
        return make_scenes(spec, root)
    if difficulty == "hard":
        return make_scenes(replace(spec, side=(14, 26) if large else (12, 20), contrast=(50, 110)), root)
    if difficulty != "context":
        raise ValueError(f"expected a difficulty of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
    plain = make_scenes(spec, root).parent
    folder = plain.with_name(f"context-{plain.name}")
    if not (folder / "data.yaml").is_file():  # which is written last
        for split in ("train", "val"):
            (folder / "images" / split).mkdir(parents=True, exist_ok=True)
            (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
            for picture in sorted((plain / "images" / split).iterdir()):
                (folder / "images" / split / picture.name).write_bytes(picture.read_bytes())
                label = Path("labels", split, f"{picture.stem}.txt")
                (folder / label).write_text(in_context((plain / label).read_text()))
        (folder / "data.yaml").write_text(
            "train: images/train\nval: images/val\nnames:\n  0: cue\n  1: with a cue\n  2: without a cue\n"
        )
    return folder / "data.yaml"


def in_context(labels: str) -> str:
    """YOLO label lines of one scene with the classes of "context".

    >>> in_context("7 a\\n0 b\\n"), in_context("7 a\\n5 b\\n")
    ('1 a\\n0 b\\n', '2 a\\n2 b\\n')
    """
    rows = [line.split(" ", 1) for line in labels.splitlines()]
    other = 1 if any(int(digit) < 2 for digit, _ in rows) else 2
    return "".join(f"{0 if int(digit) < 2 else other} {box}\n" for digit, box in rows)


# --- one training -------------------------------------------------------------------------------


def one(block: str, difficulty: str, seed: int, form: Form, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Train and measure one detector; what it gave is kept in `folder`, and read from there the next time."""
    name = f"{difficulty}-{block.replace(' ', '-')}-{seed}"
    kind, switches = {**BLOCKS, **SWITCHES}[block]
    size = {
        k: v for k, v in asdict(form).items() if k not in ("name", "seeds", "difficulties", "first")
    }  # what one training depends on
    asked = {"block": block, "difficulty": difficulty, "seed": seed, "form": size, "kind": kind, "switches": switches}

    def make() -> dict[str, Any]:
        data = scenes(difficulty, form)
        settings = {**SCENES, "imgsz": form.size, "epochs": form.epochs, "seed": seed, "device": device}
        last, took = detectors.trained(yolo.with_attention(("P5",), kind, **switches), data, folder / name, **settings)
        model = YOLO(str(last))
        at = {size: detectors.measured(model, data, size, device) for size in (form.size, *form.other_sizes)}
        return {
            "mAP50": at[form.size]["mAP50"],
            "mAP50-95": at[form.size]["mAP50-95"],
            **{at_size(size): at[size]["mAP50"] for size in form.other_sizes},
            **took,
            "data": digest(data.parent),
        }

    return detectors.kept(folder / f"{name}.json", asked, make)


# --- what the detectors make of their attention ---------------------------------------------------


def use(block: str, difficulty: str, seed: int, form: Form, folder: Path, device: str = "cpu") -> list[dict[str, Any]]:
    """The rows of `use.json` of one detector, as trained and with its attention changed; trained if it isn't there."""
    name = f"{difficulty}-{block.replace(' ', '-')}-{seed}"
    last = folder / name / "run" / "weights" / "last.pt"
    if not last.is_file():
        (folder / f"{name}.json").unlink(missing_ok=True)
    asked = one(block, difficulty, seed, form, folder, device)["asked"]
    called = {"tssa": "TSSA published", "tssa improved": "TSSA improved"}.get(block, block)
    again = partial(YOLO, str(last))  # opened anew each time, as validation fuses it

    def make() -> dict[str, Any]:
        as_trained = Trial(scenes(difficulty, form), form.size, form.epochs, device=device, recipe={})
        return {"val": scores(as_trained, again(), "val"), "use": used(as_trained, again)}

    found = detectors.kept(folder / f"{name}-use.json", asked, make)
    return use_rows({"rows": [{"arm": called, "seed": seed, **found}]}, USED, difficulty)


# --- the comparison -----------------------------------------------------------------------------


def trial(
    form: Form,
    out: Path,
    folder: Path,
    blocks: Sequence[str] = tuple(BLOCKS),
    device: str = "cpu",
    command: str = "python -m experiments.trial",
    workers: int = 1,
) -> dict[str, Any]:
    """All trainings of a form, those that `folder` holds already excepted; writes `out` and a figure beside it."""
    import matplotlib.pyplot as plt
    from tqdm.auto import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    todo = [(b, d, s) for s in form.numbers for d in form.difficulties for b in blocks]  # seed by seed: pairs first
    for difficulty in form.difficulties:
        scenes(difficulty, form)  # made once, before several processes look for them
    finished = detectors.each(one, [(*what, form, folder, device) for what in todo], workers)
    rows = list(tqdm(finished, total=len(todo), desc=f"{form.name} trial", unit="training"))
    rows.sort(key=lambda r: todo.index((r["asked"]["block"], r["asked"]["difficulty"], r["asked"]["seed"])))
    metrics = ("mAP50", "mAP50-95", *map(at_size, form.other_sizes), "seconds", "processor seconds")
    pairs = [b for b in ("none", "softmax", "tssa", "tssa rms") if b in blocks]
    fixed = {"imgsz", "epochs"}  # which the form decides
    results = {
        **record.manifest(command),
        "gpu": torch.cuda.get_device_name() if device != "cpu" else None,
        "workers": workers,
        "form": asdict(form),
        "recipe": {k: v for k, v in SCENES.items() if k not in fixed},
        "seeds": form.numbers,
        "blocks": {b: {**BLOCKS, **SWITCHES}[b] for b in blocks},
        "data": {r["asked"]["difficulty"]: r["data"] for r in rows},
        "differences": [d for m in metrics for against in pairs for d in compare(rows, m, against)],
        "rows": rows,
    }
    results = json.loads(json.dumps(results))  # as it will be read
    record.write(out, results)
    if results["differences"] and "none" in blocks:
        drawn = figure(results)
        drawn.savefig(out.with_suffix(".png"), dpi=120, metadata={"Software": None})
        plt.close(drawn)
    return results


def main(words: list[str] | None = None) -> None:
    from tqdm.auto import tqdm

    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(
        prog="python -m experiments.trial", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="the rehearsal: two seeds, tiny scenes, eight epochs")
    sizes.add_argument(
        "--laptop", action="store_true", help="five seeds, scenes and epochs for two CPU cores and an hour or two"
    )
    parser.add_argument(
        "--switches", action="store_true", help="one change of TSSA at a time, in easy, instead of the four blocks"
    )
    parser.add_argument(
        "--use", action="store_true", help="silence the attention of easy's detectors, and more: rows of use.json"
    )
    parser.add_argument(
        "--seeds", type=int, help="trainings of each block and difficulty (default: 5, with --quick: 2)"
    )
    parser.add_argument(
        "--first-seed", type=int, default=0, help="others than 0, 1, … to test anew what these suggested (default: 0)"
    )
    parser.add_argument("--epochs", type=int, help="of each training (default: 20, or what the form says)")
    parser.add_argument("--difficulties", nargs="+", choices=DIFFICULTIES, help="default: all three")
    parser.add_argument("--blocks", nargs="+", choices=[*BLOCKS, *SWITCHES], help="default: the four of the trial")
    parser.add_argument(
        "--device", default="0" if torch.cuda.is_available() else "cpu", help="cpu, or the number of a GPU"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="trainings at a time; they share PyTorch's threads (default: 1)"
    )
    parser.add_argument(
        "--folder", type=Path, help="where finished trainings are kept (default: data/runs/trial/<form>)"
    )
    parser.add_argument(
        "--out",
        type=record.place,
        help="the JSON (default: data/results/trial.json or switches.json, quick: data/runs/trial/quick.json)",
    )
    given = parser.parse_args(words)
    if given.workers < 1:
        parser.error(f"expected --workers >= 1, got {given.workers}")
    if given.epochs is not None and given.epochs < 1:
        parser.error(f"expected --epochs >= 1, got {given.epochs}")
    if given.seeds is not None and given.seeds < 2:
        parser.error(f"expected --seeds >= 2, as differences are paired, got {given.seeds}")
    form = QUICK if given.quick else LAPTOP if given.laptop else FULL
    if given.switches or given.use:
        form = replace(form, difficulties=("easy",))
    asked = dict(
        seeds=given.seeds,
        first=given.first_seed,
        epochs=given.epochs,
        difficulties=tuple(given.difficulties) if given.difficulties else None,
    )
    form = replace(form, **{k: v for k, v in asked.items() if v is not None})
    runs = data_dir() / "runs" / "trial"
    out = given.out or (
        runs / "quick.json" if given.quick else RESULTS / ("switches.json" if given.switches else "trial.json")
    )
    blocks = (
        given.blocks or ["none", "tssa", *SWITCHES, "tssa improved"] if given.switches else given.blocks or list(BLOCKS)
    )
    folder, command = given.folder or runs / form.name, shlex.join(["python", "-m", "experiments.trial", *words])
    if given.use:
        todo = [(b, d, s) for s in form.numbers for d in form.difficulties for b in blocks if b != "none"]
        with tqdm(todo, desc="use", unit="detector") as bar:
            rows = [r for what in bar for r in use(*what, form, folder, given.device)]
        print(f"wrote {detectors.add_use(rows, command, USED)}")
        return
    results = trial(form, out, folder, blocks, given.device, command, given.workers)
    print(
        f"mAP50 minus that of the block without attention, {form.seeds} seeds, 95 % intervals of paired differences\n"
        f"{table(results)}"
    )
    print(f"wrote {out}" + (" (a rehearsal: too small to decide anything)" if given.quick else ""))


if __name__ == "__main__":
    main()
