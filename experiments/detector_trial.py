"""Does *your* detector need attention? The fair trial on anybody's data, in one command.

    python -m experiments.detector_trial --data my.yaml --imgsz 640 --epochs 100 --seeds 5
    python -m experiments.detector_trial --data my.yaml --places P3,P4,P5 --weights stock batch=16 device=0
    python -m experiments.detector_trial --data my.yaml --blocks "none,softmax@P5,TSSA improved@P3+P4+P5"

Every block is trained with every seed by one recipe, seed by seed, and its last epoch's weights are measured. Blocks
are compared in pairs of equal seeds (Student's t). Then each layer is asked whether the detector uses it: silenced,
with uniform memberships, with the gates of another picture, with constant gates. The test split, if the data has one,
is not looked at before every training is done. It ends with a sentence: TSSA, softmax, or nothing.

Each finished step is a file of its own: stop it whenever you like, the same command goes on. `--so-far` reads what is
there without training. Time: seeds × blocks trainings, each as long as one training of yours.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import detectors, record
from experiments.slot import FusedSoftmax
from kit import results_cells as results
from tssa_lib import yolo
from tssa_lib.__main__ import _settings as as_settings
from tssa_lib.paths import data_dir
from tssa_lib.silence import INTERVENTIONS, intervene, tssa_layers
from tssa_lib.train import CELLS, FULL, check_data, stock_weights
from tssa_lib.yolo import IMPROVED, YOLO

from ultralytics.nn.modules.block import Attention

BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("C2Plain", {}),
    "softmax": ("C2PSA", {}),
    "TSSA published": ("C2TSSA", {}),
    "TSSA improved": ("C2TSSA", IMPROVED),
    "TSSA heads 16": ("C2TSSA", dict(head_width=16)),
}
# As they are tried on a data set: the customary one for pictures of any size, and minutes on a CPU for small ones.
RECIPES = {"full": FULL, "small": CELLS}


@dataclass(frozen=True)
class Arm:
    """A block and where in the detector it stands."""

    block: str
    places: tuple[str, ...] = ("P5",)

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ValueError(f"expected a block of {', '.join(BLOCKS)}, got {self.block!r}")

    def __str__(self) -> str:
        return f"{self.block} at {'+'.join(self.places)}"

    @property
    def plan(self) -> dict[str, Any]:
        """The rows of its YOLO11. `ValueError` for places that there aren't."""
        kind, switches = BLOCKS[self.block]
        return yolo.with_attention(self.places, kind, **switches)

    @classmethod
    def read(cls, words: str, places: Sequence[str] = ("P5",)) -> Arm:
        """An arm as written in `--blocks`: a block's name, in any case, and perhaps its places behind an @.

        >>> str(Arm.read("tssa improved@P3+P5")), str(Arm.read("none", ("P4", "P5")))
        ('TSSA improved at P3+P5', 'none at P4+P5')
        """
        name, _, there = words.strip().partition("@")
        known = {block.lower(): block for block in BLOCKS}
        arm = cls(known.get(name.strip().lower(), name), tuple(there.upper().split("+")) if there else tuple(places))
        arm.plan  # noqa: B018  (says what is wrong with the places)
        return arm


@dataclass(frozen=True)
class Trial:
    """What every training of a trial shares."""

    data: Path
    imgsz: int
    epochs: int
    size: str = "n"  # of the YOLO11
    weights: str | None = None  # carried over before: "stock", a checkpoint, or nothing
    device: str = "cpu"
    recipe: dict[str, Any] = field(default_factory=lambda: dict(CELLS))

    def __post_init__(self) -> None:
        if self.imgsz % 32 or self.imgsz < 32:
            raise ValueError(f"expected imgsz in multiples of 32, YOLO11's largest stride, got {self.imgsz}")

    def asked(self, arm: Arm, seed: int) -> dict[str, Any]:
        """What one training depends on."""
        kind, switches = BLOCKS[arm.block]
        shared = {k: v for k, v in asdict(self).items() if k not in ("data", "device")}
        own = {"block": arm.block, "places": arm.places, "kind": kind, "switches": switches, "seed": seed}
        return {**own, **shared, "data": digest(self.data)}


# --- one detector -------------------------------------------------------------------------------


def place(arm: Arm, seed: int, folder: Path) -> Path:
    """Where the steps of one detector are kept."""
    return folder / f"{arm.block.replace(' ', '-')}-{'-'.join(arm.places)}-{seed}"


def one(trial: Trial, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """Train a detector and measure it on the validation pictures."""
    here, asked = place(arm, seed, folder), trial.asked(arm, seed)

    def train() -> dict[str, Any]:
        settings = {**trial.recipe, "imgsz": trial.imgsz, "epochs": trial.epochs, "seed": seed, "device": trial.device}
        weights = stock_weights(trial.size) if trial.weights == "stock" else trial.weights
        return detectors.trained(arm.plan, trial.data, here, trial.size, weights, **settings)[1]

    with fused_softmax():
        took = detectors.kept(here / "train.json", asked, train)
        val = detectors.kept(here / "val.json", asked, lambda: scores(trial, opened(here), "val"))
    return {"arm": str(arm), **took, "val": without(val)}


def ask(trial: Trial, arm: Arm, seed: int, folder: Path) -> list[dict[str, Any]]:
    """What the finished detector uses: a row for each change of its attention."""
    here = place(arm, seed, folder)
    with fused_softmax():
        return detectors.kept(
            here / "use.json", trial.asked(arm, seed), lambda: {"use": used(trial, partial(opened, here))}
        )["use"]


def on_test_pictures(trial: Trial, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """The finished detector on the test pictures: for the end."""
    here = place(arm, seed, folder)
    with fused_softmax():
        return without(
            detectors.kept(here / "test.json", trial.asked(arm, seed), lambda: scores(trial, opened(here), "test"))
        )


def without(found: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if k != "asked"}


def opened(folder: Path) -> YOLO:
    """The detector of a finished training, with the weights of its last epoch."""
    return YOLO(str(folder / "run" / "weights" / "last.pt"))


def scores(trial: Trial, model: YOLO, split: str) -> dict[str, Any]:
    """A detector's metrics on a split, in batches of at least two pictures, of the shape that it was trained on."""
    batch, rect = pairs(pictures(trial.data, split), trial.recipe.get("batch", 16)), trial.recipe.get("rect", False)
    return detectors.measured(model, trial.data, trial.imgsz, trial.device, split=split, batch=batch, rect=rect)


def used(trial: Trial, again: Callable[[], YOLO]) -> list[dict[str, Any]]:
    """What is left on the validation pictures when a detector's attention is changed: one row an intervention.

    again: opens the detector, as validation fuses it.
    """
    found = []
    for name in interventions(again()):
        model = again()
        with changed(model, name):
            left = scores(trial, model, "val")
        found.append({"intervention": name, "mAP50": left["mAP50"], "per_class": left["per_class"]})
    return found


def interventions(model: YOLO) -> list[str]:
    """What can be done to a detector: everything with TSSA, silence with softmax, nothing without attention.

    >>> [interventions(YOLO(f"yolo11n-{block}.yaml")) for block in ("psa", "plain")]
    [['silenced'], []]
    """
    if tssa_layers(model):
        return list(INTERVENTIONS)
    return ["silenced"] if any(isinstance(m, Attention) for m in model.model.modules()) else []


@contextmanager
def changed(model: YOLO, intervention: str) -> Iterator[None]:
    """A detector with its attention changed: `silence.intervene`, and for softmax attention silence alike.

    Silenced, softmax attention adds nothing to its values' positional convolution, as silenced TSSA does.
    """
    if tssa_layers(model):
        with intervene(model, intervention):
            yield
        return
    layers = [m for m in model.model.modules() if isinstance(m, Attention)]
    for layer in layers:
        layer.forward = silent(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def silent(layer: Attention) -> Callable[[Tensor], Tensor]:
    """Softmax attention's answer without what it attended to: proj(pe(v))."""

    def forward(x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        heads = layer.qkv(x).view(B, layer.num_heads, -1, H, W)  # (B, K, 2·key_dim + head_dim, H, W)
        v = heads[:, :, 2 * layer.key_dim :].flatten(1, 2)  # (B, C, H, W)
        return layer.proj(layer.pe(v))

    return forward


@contextmanager
def fused_softmax() -> Iterator[None]:
    """Ultralytics' attention computed by `scaled_dot_product_attention`: the same output, without the N × N matrix."""
    stock, Attention.forward = Attention.forward, FusedSoftmax.forward
    try:
        yield
    finally:
        Attention.forward = stock


# --- the data -----------------------------------------------------------------------------------


def pictures(data: Path, split: str) -> int:
    """How many pictures a split of a data YAML has."""
    from ultralytics.data.utils import IMG_FORMATS

    found = check_data(data)[split]
    count = 0
    for place in map(Path, found if isinstance(found, list) else [found]):
        if place.is_file():  # a list of pictures
            count += sum(bool(line.strip()) for line in place.read_text().splitlines())
        else:
            count += sum(p.suffix[1:].lower() in IMG_FORMATS for p in place.rglob("*"))
    return count


def pairs(count: int, batch: int) -> int:
    """The largest batch up to `batch` that leaves no picture alone: gates are swapped within a batch.

    >>> pairs(87, 16), pairs(33, 16), pairs(1, 16)
    (16, 15, 16)
    """
    return next((b for b in range(batch, 1, -1) if count % b != 1), batch)


def digest(data: Path) -> str:
    """SHA-256 over the data YAML and over names and sizes of its pictures and labels: another set is another trial."""
    described = check_data(data)
    total = hashlib.sha256(data.read_bytes())
    for split in ("train", "val", "test"):
        found = described.get(split) or []
        for place in map(Path, found if isinstance(found, list) else [found]):
            labels = Path("labels".join(str(place).rsplit("images", 1)))
            for file in sorted(p for root in {place, labels} if root.is_dir() for p in root.rglob("*")):
                if file.is_file() and file.suffix != ".cache":
                    total.update(f"{split} {file.name} {file.stat().st_size}\n".encode())
    return total.hexdigest()


# --- the trial ----------------------------------------------------------------------------------


def run(trial: Trial, arms: Sequence[Arm], seeds: Sequence[int], folder: Path, command: str = "",
        workers: int = 1, so_far: bool = False) -> dict[str, Any]:  # fmt: skip
    """All trainings, then the test split: the whole result, ready to be written.

    so_far: read what is finished, train nothing and leave the test split alone. `ValueError` when nothing is.
    """
    from tqdm.auto import tqdm

    described = check_data(trial.data)
    todo = [(trial, arm, seed, folder) for seed in seeds for arm in arms]  # seed by seed: pairs first
    if so_far:
        todo = [what for what in todo if (place(*what[1:]) / "val.json").is_file()]
        if not todo:
            raise ValueError(f"expected finished trainings in {folder}, found none")
    order = [(str(arm), seed) for _, arm, seed, _ in todo]
    rows = list(tqdm(detectors.each(one, todo, workers), total=len(todo), desc="trainings", unit="training"))
    rows.sort(key=lambda row: order.index((row["arm"], row["asked"]["seed"])))
    for row, what in zip(rows, tqdm(todo, desc="what they use", unit="detector")):
        row["use"] = ask(*what) if not so_far or (place(*what[1:]) / "use.json").is_file() else []
    if described.get("test") and not so_far:
        for row, what in zip(rows, todo):
            row["test"] = on_test_pictures(*what)
    own = ("block", "places", "kind", "switches", "seed")  # of one training
    shared = {k: v for k, v in trial.asked(arms[0], 0).items() if k not in own}
    found = {
        **record.manifest(command),
        "workers": workers,
        **shared,
        "names": list(described["names"].values()),
        "pictures": {split: pictures(trial.data, split) for split in ("train", "val", "test") if described.get(split)},
        "arms": {str(arm): {"block": arm.block, "places": arm.places} for arm in arms},
        "seeds": list(seeds),
        "rows": [
            {
                "arm": row["arm"],
                "seed": row["asked"]["seed"],
                **{k: v for k, v in row.items() if k not in ("arm", "asked")},
            }
            for row in rows
        ],
    }
    return {**found, "verdict": results.verdict(found)}


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(
        prog="python -m experiments.detector_trial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="an Ultralytics data YAML")
    parser.add_argument("--places", default="P5", help="of all blocks without places of their own (default: P5)")
    parser.add_argument(
        "--blocks",
        default="none,softmax,TSSA published,TSSA improved",
        help=f"by commas, perhaps with places: {', '.join(BLOCKS)}; softmax@P5 (default: %(default)s)",
    )
    parser.add_argument("--imgsz", type=int, required=True, help="pixels")
    parser.add_argument("--epochs", type=int, required=True, help="of each training")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each block (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="others than 0, 1, … to ask anew (default: 0)")
    parser.add_argument("--size", choices="nsmlx", default="n", help="of the YOLO11 (default: n)")
    parser.add_argument("--weights", default="none", help="carried over: stock (downloaded), a checkpoint, or none")
    parser.add_argument("--recipe", choices=RECIPES, default="full", help="full: customary; small: minutes on a CPU")
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu", help="cpu, or a GPU's number")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time (default: 1)")
    parser.add_argument("--folder", type=Path, help="of finished steps (default: data/runs/trials/<data's name>)")
    parser.add_argument("--out", type=record.place, help="the JSON (default: trial.json in the folder)")
    parser.add_argument("--so-far", action="store_true", help="read what is finished; train nothing, write nothing")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the recipe: any setting of Ultralytics")
    given = parser.parse_args(words)
    if given.seeds < 2:
        parser.error(f"expected --seeds >= 2, as differences are paired, got {given.seeds}")
    arms = [Arm.read(words, given.places.upper().split(",")) for words in given.blocks.split(",")]
    data = given.data.resolve()
    taken = {"imgsz": "--imgsz", "epochs": "--epochs", "seed": "--first-seed", "device": "--device", "data": "--data"}
    recipe = {**RECIPES[given.recipe], **as_settings(given.settings, taken), "plots": False}
    trial = Trial(
        data,
        given.imgsz,
        given.epochs,
        given.size,
        None if given.weights == "none" else given.weights,
        given.device,
        {k: v for k, v in recipe.items() if k not in ("imgsz", "epochs")},
    )
    folder = given.folder or data_dir() / "runs" / "trials" / (data.parent.name if data.stem == "data" else data.stem)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    command = shlex.join(["python", "-m", "experiments.detector_trial", *words])
    found = run(trial, arms, seeds, folder, command, given.workers, given.so_far)
    print(results.table(found))
    print(results.use_table(found))
    print(found["verdict"])
    if not given.so_far:
        print(f"wrote {record.write(given.out or folder / 'trial.json', found)}")


if __name__ == "__main__":
    main()
