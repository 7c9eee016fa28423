"""Data as they come: a data YAML for a folder with YOLO labels and no YAML, for COCO JSON, and for Pascal VOC XML.

Labels in YOLO's form stay where they are: data.yaml and lists of the pictures are written beside them, anew each time.
From COCO and VOC a folder `<name>-yolo` is made once, by Ultralytics' own converter; its pictures are hard links.
Folders and files named train, val or test say which split they are; else a fifth of the pictures is for validation,
chosen by their names, so that the same pictures are always in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from tssa_lib import yolo  # noqa: F401  (before Ultralytics: it keeps Ultralytics quiet)

from ultralytics.data.converter import convert_coco
from ultralytics.data.utils import IMG_FORMATS, img2label_paths
from ultralytics.utils import LOGGER, YAML

WRITTEN = "# written by tssa_lib for the pictures beside it, and again whenever the folder is used\n"
SHARE = 5  # one picture of so many is for validation


def as_yaml(data: Path) -> Path:
    """The data YAML of a folder of pictures and labels, or of a COCO JSON: found there, or written.

    `ValueError` where there are no pictures, no labels, or pictures that aren't those of the labels.
    """
    folder = data if data.is_dir() else data.parent.parent if data.parent.name == "annotations" else data.parent
    if data.is_dir():
        for file in sorted(data.glob("*.y*ml"), key=lambda file: file.name != "data.yaml"):
            if not file.read_text(encoding="utf-8").startswith(WRITTEN) and "train" in (YAML.load(file) or {}):
                return file
    made = folder.with_name(f"{folder.name}-yolo" if data.is_dir() else f"{folder.name}-{data.stem}-yolo") / "data.yaml"
    if made.is_file():
        LOGGER.info(f"{made.parent} was made from {data} earlier and is used; delete it to convert again")
        return made
    pictures = sorted(p for p in folder.rglob("*") if is_picture(p))
    if not pictures:
        raise ValueError(f"expected a data YAML, or a folder with pictures and labels, got {data} without a picture")
    if sets := _coco(data) or _voc(folder, pictures):
        return _converted(folder, sets, pictures, made)
    return _described(folder, pictures)


def is_picture(path: Path) -> bool:
    """Whether Ultralytics would take this path for a picture: by its suffix, hidden files and folders left out.

    >>> is_picture(Path("a/._b.jpg")), is_picture(Path("a/b.txt"))
    (False, False)
    """
    return path.suffix[1:].lower() in IMG_FORMATS and not path.name.startswith(".") and path.is_file()


def _split(path: Path) -> str | None:
    """train, val or test, where a path says so.

    >>> _split(Path("annotations/instances_val2017.json")), _split(Path("valid/a.jpg")), _split(Path("trains/a.jpg"))
    ('val', 'val', None)
    """
    found = re.search(r"(?<![a-z])(train|val|test)(?:ing|id|idation)?(?![a-z])", path.as_posix().lower())
    return found[1] if found else None


def _dealt(of: dict[str, str | None]) -> dict[str, str]:
    """A split for every key: as given, or where there is no validation, a fifth of what isn't for testing."""
    if {"train", "val"} <= set(of.values()):
        return {key: split or "train" for key, split in of.items()}
    pool = sorted((key for key in of if of[key] != "test"), key=lambda key: hashlib.sha1(key.encode()).digest())
    val = set(pool[: max(1, len(pool) // SHARE)])
    LOGGER.info(f"no split for validation: {len(val)} of {len(pool)} pictures are taken, the same ones every time")
    return {key: "val" if key in val else "train" if of[key] != "test" else "test" for key in of}


def _described(folder: Path, pictures: list[Path]) -> Path:
    """data.yaml and its lists, for pictures whose labels Ultralytics finds."""
    labels = [Path(label) for label in img2label_paths([str(p) for p in pictures])]
    rows = [
        row.split() for label in labels if label.is_file() for row in label.read_text("utf-8", "replace").splitlines()
    ]
    numbers = [int(row[0]) for row in rows if row and row[0].isdecimal()]
    if not numbers:
        raise ValueError(
            f"expected YOLO labels, COCO JSON or VOC XML for the {len(pictures)} pictures in {folder}, got none; "
            f"the YOLO label of {pictures[0].name} is sought at {labels[0]}"
        )
    named = [file for name in ("classes.txt", "obj.names", "*.names") for file in sorted(folder.rglob(name))]
    names = [name.strip() for name in named[0].read_text("utf-8-sig").splitlines() if name.strip()] if named else []
    split = _dealt({p.relative_to(folder).as_posix(): _split(p.relative_to(folder)) for p in pictures})
    names = names or [str(number) for number in range(max(numbers) + 1)]
    where = named[0].name if named else "the labels, which have numbers alone: write names into classes.txt"
    LOGGER.info(f"wrote {folder / 'data.yaml'}: {len(pictures)} pictures, {len(names)} classes from {where}")
    for part in set(split.values()):
        (folder / f"{part}.txt").write_text("".join(f"./{key}\n" for key in split if split[key] == part))
    lists = {part: f"{part}.txt" for part in ("train", "val", "test") if part in split.values()}
    (folder / "data.yaml").write_text(WRITTEN + json.dumps({**lists, "names": names}, indent=1) + "\n")
    return folder / "data.yaml"


# ---- COCO and VOC ----------------------------------------------------------------------------------------------
def _coco(data: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The files that hold boxes in COCO's form, and what is in them."""
    found = []
    for file in sorted(data.rglob("*.json")) if data.is_dir() else [data]:
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:  # no JSON, whatever it is called
            continue
        if isinstance(held, dict) and {"images", "annotations", "categories"} <= held.keys():
            found.append((file, held))
    if not data.is_dir() and not found:
        raise ValueError(f"expected images, annotations and categories in {data}, got another JSON")
    boxes = [(file, held) for file, held in found if file.name.startswith("instances_")]
    return boxes or found  # beside them, COCO itself has keypoints and captions of the same pictures


SIDES = ("xmin", "ymin", "xmax", "ymax")


def _voc(folder: Path, pictures: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Pascal VOC's XML files as COCO dictionaries, one for each folder and split."""
    lists = [(file.stem, set(file.read_text().split())) for file in folder.rglob("ImageSets/Main/*.txt")]
    sets: dict[Path, dict[str, Any]] = {}
    there = {p.stem: p for p in pictures}
    for file in sorted(folder.rglob("*.xml")):
        root = ElementTree.parse(file).getroot()
        if root.tag != "annotation" or file.stem not in there:
            continue
        part = next((part for part, stems in lists if part in ("train", "val", "test") and file.stem in stems), "")
        held = sets.setdefault(file.parent / part, {"images": [], "annotations": [], "categories": []})
        with Image.open(there[file.stem]) as picture:
            width, height = picture.size
        held["images"].append(dict(id=file.stem, file_name=there[file.stem].name, width=width, height=height))
        for thing in root.iter("object"):
            left, top, right, bottom = (float(thing.findtext(f"bndbox/{side}", "nan")) for side in SIDES)
            name, difficult = thing.findtext("name", "").strip(), thing.findtext("difficult", "0").strip() == "1"
            box = [left, top, right - left, bottom - top]
            held["annotations"].append(dict(image_id=file.stem, category_id=name, bbox=box, iscrowd=difficult))
            held["categories"].append({"id": name, "name": name})
    return list(sets.items())


def _converted(folder: Path, sets: list[tuple[Path, dict[str, Any]]], pictures: list[Path], made: Path) -> Path:
    """A folder with images, labels and data.yaml, whole or not at all."""
    called = defaultdict(list)
    for picture in pictures:
        called[picture.name].append(picture)
    names = list(
        dict.fromkeys(c["name"] for _, held in sets for c in sorted(held["categories"], key=lambda c: c["id"]))
    )
    images: dict[str, tuple[Path, dict[str, Any], list[dict[str, Any]]]] = {}
    split: dict[str, str | None] = {}
    lost = []
    for where, held in sets:
        part = _split(where.relative_to(folder))
        number = {c["id"]: names.index(c["name"]) + 1 for c in held["categories"]}  # the converter counts from 1
        boxes: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for one in held["annotations"]:
            boxes[one["image_id"]] += [{**one, "category_id": number[one["category_id"]]}] if one.get("bbox") else []
        for image in held["images"]:
            wanted = Path(image["file_name"])
            if not (found := called[wanted.name]):
                lost.append(wanted.name)
                continue
            fits = {p: (p.parent == where.parent, p.parts[-len(wanted.parts) :] == wanted.parts) for p in found}
            picture = max(found, key=lambda p: (*fits[p], _split(p.relative_to(folder)) == part))
            within = picture.relative_to(folder)
            key = within.name if len(found) == 1 else "-".join(within.parts)
            images[key], split[key] = (picture, image, boxes[image["id"]]), part or _split(within)
    if not images:
        raise ValueError(f"expected the pictures of the labels in {folder}, found none of {len(lost)}, e.g. {lost[0]}")
    dealt = _dealt(split)
    outlined = all(
        isinstance(b.get("segmentation"), list) and b["segmentation"] for *_, bs in images.values() for b in bs
    )
    with tempfile.TemporaryDirectory(dir=made.parent.parent) as partial:
        out, told = Path(partial, "yolo"), Path(partial, "coco")
        told.mkdir()
        for part in set(dealt.values()):
            of = [(key, i) for i, key in enumerate(images) if dealt[key] == part]
            kept = [{**images[key][1], "id": i, "file_name": key} for key, i in of]
            boxes_of = [{**b, "image_id": i} for key, i in of for b in images[key][2]]
            (told / f"{part}.json").write_text(json.dumps({"images": kept, "annotations": boxes_of}))
        convert_coco(str(told), str(out), use_segments=outlined, cls91to80=False)
        for key, (picture, *_) in images.items():
            (out / "images" / dealt[key]).mkdir(exist_ok=True)
            _link(picture, out / "images" / dealt[key] / key)
        parts = {part: f"images/{part}" for part in ("train", "val", "test") if part in dealt.values()}
        (out / "data.yaml").write_text(json.dumps({**parts, "names": names}, indent=1) + "\n")
        out.rename(made.parent)
    missing = f"; {len(lost)} pictures weren't found, e.g. {lost[0]}" if lost else ""
    LOGGER.info(f"wrote {made}: {len(images)} pictures, {len(names)} classes{missing}")
    return made


def _link(picture: Path, to: Path) -> None:
    try:
        os.link(picture, to)
    except OSError:  # another file system
        shutil.copy(picture, to)
