"""A data set, looked at before hours are spent on it: its YAML, its pictures, its labels, and why one can't be used.

Ultralytics leaves out what it can't use and says so in a line among many; here it is an error that names the file and
the reason. Reading and the rules for labels are Ultralytics' own.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tssa_lib import quiet
from tssa_lib.convert import as_yaml, is_picture

from ultralytics.data import dataset as ultralytics_dataset
from ultralytics.data.utils import check_det_dataset, img2label_paths, verify_image_label
from ultralytics.utils import LOGGER, YAML
from ultralytics.utils.patches import imread

SHOWN = 5  # bad files that a message names
IGNORED = r"(/\S.*): ignoring corrupt image/label: (.*)"  # a file, and Ultralytics' reason
ARCHIVE = re.compile(r"https?://\S+\.(zip|tar|gz|tgz|xz|bz2|txz|tbz2)")  # another `download` is a script, which is run


def check_data(data: str | Path) -> dict[str, Any]:
    """Read a data YAML, download the data set if the YAML says how, and check that pictures are there.

    data: a data YAML, a folder of pictures with labels, or a COCO JSON (`convert.as_yaml`). Returns Ultralytics'
    description of it. `FileNotFoundError` for a missing YAML or folder of pictures, `ValueError` for missing keys,
    class numbers that don't run from 0, or a folder without pictures. An address of an archive is downloaded; where
    `download` is a script, it is run from Ultralytics' own YAMLs alone.
    """
    script, path = False, Path(data).expanduser()
    if path.is_dir() or (path.suffix == ".json" and path.is_file()):
        path = as_yaml(path.resolve())
    if path.is_file():
        download = _check_keys(path).get("download")
        script = bool(download) and not ARCHIVE.fullmatch(str(download))
    elif path.parent != Path("."):  # a bare name may be one of Ultralytics' own, e.g. coco8.yaml
        raise FileNotFoundError(f"expected a data YAML, found no file {path}")
    try:
        described = check_det_dataset(path.resolve() if path.is_file() else str(data), autodownload=not script)
        for split in ("train", "val", *(["test"] if script and described.get("test") else [])):
            for place in described[split] if isinstance(described[split], list) else [described[split]]:
                _check_pictures(path.name, split, Path(place))
    except FileNotFoundError as error:
        if not script:
            raise
        told = f"`download` in {path.name} is a script, which is not run: read it, and run it yourself"
        raise FileNotFoundError(f"{error}\n{told}") from error
    if letters := quiet.undrawable("".join(map(str, described["names"].values()))):
        LOGGER.warning(f"no font here has {letters[:20]}: pictures will show empty boxes in names of classes")
    return described


def _check_keys(path: Path) -> dict[str, Any]:
    found = YAML.load(path)
    if not isinstance(found, dict):
        raise ValueError(f"expected a data YAML with train, val and names, got {path.name} without any keys")
    missing = [key for key in ("train", "val") if not found.get(key)]
    missing += [] if "names" in found or "nc" in found else ["names"]
    if missing:
        is_model = " (is it a model YAML?)" if "backbone" in found else ""
        raise ValueError(
            f"expected the keys train, val and names in {path.name}, got {sorted(map(str, found))}: "
            f"{', '.join(missing)} missing{is_model}"
        )
    names = found.get("names")
    if isinstance(names, dict) and sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise ValueError(
            f"expected the classes in names of {path.name} to be numbered 0 to {len(names) - 1}, got "
            f"{', '.join(map(str, list(names)[:SHOWN]))}{', …' if len(names) > SHOWN else ''}: "
            "number them from 0, there and in the labels"
        )
    return found


def _check_pictures(name: str, split: str, place: Path) -> None:
    if not place.exists():
        raise FileNotFoundError(f"expected the {split} images of {name}, found no {place}")
    if place.is_dir() and not any(is_picture(p) for p in place.rglob("*")):
        raise ValueError(f"expected {split} images of {name} in {place}, got a folder without any")


def check_readable(source: Any) -> None:
    """`FileNotFoundError` or `ValueError` for pictures that aren't there or can't be read; patterns and URLs pass."""
    if source is None or (isinstance(source, str) and not source.strip()):
        raise ValueError(f"expected a picture, a folder or a pattern, got {source!r}")
    for path in source if isinstance(source, (list, tuple)) else [source]:
        if isinstance(path, (str, Path)) and "://" not in str(path) and "*" not in str(path):
            _check_file_or_folder(Path(path))


def _check_file_or_folder(path: Path) -> None:
    if path.is_dir():
        files = [p for p in sorted(path.iterdir()) if is_picture(p)]
    elif path.exists() or not path.suffix:
        files = [path] if is_picture(path) else []
    else:
        raise FileNotFoundError(f"expected a picture, found no file {path}")
    for file in files:
        if not _readable(file):
            empty = "" if file.stat().st_size else ", an empty file"
            raise ValueError(f"expected an image that can be read, got {file}{empty}")


def _readable(file: Path) -> bool:
    try:
        return imread(str(file)) is not None  # as the trainer and the predictor read
    except Exception:  # whatever a decoder raises for a broken file
        return False


# ---- what can't be used, and why ---------------------------------------------------------------------------
def refuse_bad_files(dataset: Any, split: str, mend: str = "", drop: bool = False) -> None:
    """`ValueError` that names the pictures of an Ultralytics data set which were left out, each with its reason.

    Also for a data set without a single box, on which a detector learns and scores nothing. `mend` is appended. With
    `drop` what was left out is a warning.
    """
    if not hasattr(dataset, "get_img_files"):  # classification has folders, not labels
        return
    found = set(dataset.get_img_files(dataset.img_path))
    bad = sorted(p for p in found - set(dataset.im_files) if not Path(p).name.startswith("."))
    if bad:
        reasons = "\n".join(f"  {Path(p).name}: {why_bad(p, dataset)}" for p in bad[:SHOWN])
        more = f"\n  … and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        if not drop:
            raise ValueError(
                f"expected readable {split} images with valid labels, got {len(bad)} of {len(found)} that aren't:\n"
                f"{reasons}{more}\nmend or remove them{mend}"
            )
        LOGGER.warning(f"left out {len(bad)} of {len(found)} {split} images, which can't be used:\n{reasons}{more}")
    if not sum(len(label["cls"]) for label in dataset.labels):
        sought = Path(img2label_paths(dataset.im_files[:1])[0])
        raise ValueError(
            f"expected boxes in the labels of the {split} images, got none for {len(dataset.im_files)} images; "
            f"the label of {Path(dataset.im_files[0]).name} is sought at {sought}"
        )


def why_bad(picture: str, dataset: Any) -> str:
    """Ultralytics' reason for leaving a picture out."""
    path = Path(picture)
    if not path.is_file():
        return "a folder, not a picture" if path.is_dir() else "no such file"
    if path.stat().st_size == 0:
        return "an empty file"
    points, dims = dataset.data.get("kpt_shape", (0, 0)) if dataset.use_keypoints else (0, 0)
    (label,) = img2label_paths([picture])
    classes = len(dataset.data["names"])
    checked = verify_image_label((picture, label, "", dataset.use_keypoints, classes, points, dims, dataset.single_cls))
    message = str(checked[-1]).rsplit("corrupt image/label: ", 1)[-1].splitlines()
    return message[0] if message and message[0] else "Ultralytics leaves it out without a reason"


@contextlib.contextmanager
def reading_labels() -> Iterator[None]:
    """Labels are read, not taken from a cache file: opening one runs whatever code a stranger put into it.

    `ValueError` in our words where Ultralytics finds no label at all.
    """

    def none(path: Path) -> dict:
        raise FileNotFoundError(path)  # Ultralytics then scans the labels and writes a cache of its own

    with mock.patch.object(ultralytics_dataset, "load_dataset_cache_file", none):
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if none_valid := re.search(r"No valid images found in (.+)\.cache", str(error)):
                reasons = [f"  {Path(file).name}: {why}" for file, why in re.findall(IGNORED, str(error))]
                raise ValueError(
                    f"expected readable images with valid labels, got none in {none_valid[1]}:\n"
                    + "\n".join(reasons[:SHOWN])
                ) from error
            sought = re.search(r"No labels found in (.+)\.cache", str(error))
            if not sought:
                raise
            raise ValueError(
                f"expected a label (.txt) for the pictures, got none in {sought[1]}: they stand beside the folder "
                "`images`, in `labels`, under the names of the pictures"
            ) from error


# ---- what is in a data set -----------------------------------------------------------------------------------
@dataclass
class Split:
    """One split of a data set: pictures, boxes by class, and what looks wrong."""

    pictures: int = 0
    without_boxes: int = 0
    boxes: Counter = field(default_factory=Counter)  # class name → boxes
    sides: list[float] = field(default_factory=list)  # of every box: √(w·h), as a share of the picture's side
    shapes: list[tuple[int, int]] = field(default_factory=list)  # (height, width) of every picture
    odd: list[tuple[str, str]] = field(default_factory=list)  # (file, what is suspicious about a box)
    bad: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    digests: dict[str, str] = field(default_factory=dict)  # sha1 of the file → file


def describe(data: str | Path, progress: bool = True) -> dict[str, Split]:
    """What a data set holds, split by split, without training: classes, counts, sizes, and files that can't be used."""
    from tqdm import tqdm

    described = check_data(data)
    found = {}
    for split in ("train", "val", "test"):
        places = described.get(split)
        if not places:
            continue
        found[split] = Split()
        pictures = sorted(_pictures(places))
        for picture in tqdm(pictures, desc=split, unit="picture", disable=not progress, leave=False):
            _add(found[split], picture, described)
    return found


def look_at(data: str | Path, most: int = 200) -> tuple[Split, int, list[str]]:
    """A sample of the training pictures, evenly spaced, how many there are, and the names of the classes."""
    described = check_data(data)
    pictures, sample = sorted(_pictures(described["train"])), Split()
    for picture in pictures[:: -(-len(pictures) // most)]:
        _add(sample, picture, described)
    if not sample.shapes:
        raise ValueError(f"expected readable training images, got {len(sample.bad)} that aren't: {sample.bad[0][1]}")
    return sample, len(pictures), list(described["names"].values())


def _pictures(places: Any) -> Iterator[Path]:
    for place in places if isinstance(places, list) else [places]:
        place = Path(place)
        if place.is_file():  # a list of pictures, a line each
            yield from (place.parent / line.strip() for line in place.read_text().splitlines() if line.strip())
        else:
            yield from (p for p in place.rglob("*") if is_picture(p))


def _add(split: Split, picture: Path, described: dict[str, Any]) -> None:
    split.pictures += 1
    names, points = described["names"], described.get("kpt_shape", (0, 0))
    (label,) = img2label_paths([str(picture)])
    checked = verify_image_label((str(picture), label, "", bool(points[0]), len(names), *points, False))
    if checked[0] is None:
        split.bad.append((picture.name, str(checked[-1]).rsplit("corrupt image/label: ", 1)[-1].splitlines()[0]))
        return
    rows, (high, wide) = checked[1], checked[2]
    split.shapes.append((high, wide))
    split.without_boxes += not len(rows)
    if "duplicate" in checked[-1]:
        split.odd.append((picture.name, "the same box twice"))
    for number, _, _, width, height in rows:
        split.boxes[names[int(number)]] += 1
        split.sides.append(float((width * height) ** 0.5))
        sides = width * wide, height * high
        if min(sides) < 3 or max(sides) > 20 * min(sides) or width * height > 0.95:
            split.odd.append((picture.name, f"a box of {sides[0]:.0f}×{sides[1]:.0f} pixels"))
    split.digests[hashlib.sha1(picture.read_bytes()).hexdigest()] = picture.name


def report(found: dict[str, Split]) -> str:
    """`describe`, in words: a table of boxes by class, sizes, and what looks wrong."""
    lines = []
    names = list(dict.fromkeys(name for split in found.values() for name in split.boxes))
    width = max([5, *map(len, names)])
    lines.append(" " * width + "".join(f"{split:>10}" for split in found))
    lines.append(f"{'pictures':{width}}" + "".join(f"{s.pictures:10,}" for s in found.values()))
    for name in names:
        lines.append(f"{name:{width}}" + "".join(f"{s.boxes[name]:10,}" for s in found.values()))
    for split, s in found.items():
        if s.sides:
            small, middle, large = (sorted(s.sides)[int(q * (len(s.sides) - 1))] for q in (0.05, 0.5, 0.95))
            lines.append(
                f"{split}: a box is {middle:.0%} of the picture's side ({small:.0%} to {large:.0%}), by √(w·h)"
            )
        if s.without_boxes:
            lines.append(
                f"{split}: {s.without_boxes} of {s.pictures} pictures have no box (background, if that is meant)"
            )
        if s.shapes:
            low, high = min(s.shapes), max(s.shapes)
            lines.append(f"{split}: pictures of {low[1]}×{low[0]}" + (f" to {high[1]}×{high[0]}" * (low != high)))
        lines += [f"{split}: {file} holds {why}: is it meant?" for file, why in s.odd[:SHOWN]]
        if len(s.odd) > SHOWN:
            lines.append(f"{split}: … and {len(s.odd) - SHOWN} more odd boxes")
        lines += [f"{split}: {file} can't be used: {why}" for file, why in s.bad[:SHOWN]]
        if len(s.bad) > SHOWN:
            lines.append(f"{split}: … and {len(s.bad) - SHOWN} more")
        lines += [f"{split}: no box of {name}" for name in names if not s.boxes[name]]
    for one, other in itertools.combinations(found, 2):
        if twice := found[one].digests.keys() & found[other].digests.keys():
            example = found[one].digests[next(iter(twice))]
            lines.append(f"{one} and {other} share {len(twice)} pictures, e.g. {example}: scores will flatter")
    return "\n".join(lines)
