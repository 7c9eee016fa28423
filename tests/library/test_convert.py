"""Data as they come: the same boxes as YOLO labels, COCO JSON and VOC XML come out as the same data set."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tssa_lib.convert import as_yaml
from tssa_lib.dataset import check_data, describe, report
from tssa_lib.yolo import YAML

NAMES, BOXES = ("cat", "dog"), {"a": [(0, 8, 6, 16, 12)], "b": [(1, 0, 0, 32, 24), (0, 4, 30, 8, 10)], "c": []}
WIDE, HIGH = 64, 48  # pixels; a box is its class, left, top, width, height


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(sum(path.as_posix().encode())).integers(0, 255, (HIGH, WIDE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def yolo(folder: Path, stems: str, within: str = "") -> None:
    for stem in stems:
        file = picture(folder / within / f"{stem}.png")
        rows = [
            (c, (x + w / 2) / WIDE, (y + h / 2) / HIGH, w / WIDE, h / HIGH) for c, x, y, w, h in BOXES.get(stem, [])
        ]
        file.with_suffix(".txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))


def coco(folder: Path, file: str, stems: str, pictures: str) -> None:
    """Ids as tools write them: classes from 3 on, with gaps; pictures by text."""
    boxes = [(stem, *box) for stem in stems for box in BOXES.get(stem, [])]
    held = {
        "images": [{"id": i, "file_name": f"{s}.png", "width": WIDE, "height": HIGH} for i, s in enumerate(stems)],
        "annotations": [
            {"id": i, "image_id": stems.index(stem), "category_id": 3 + 4 * c, "bbox": box, "iscrowd": 0}
            for i, (stem, c, *box) in enumerate(boxes)
        ],
        "categories": [{"id": 3 + 4 * i, "name": name} for i, name in enumerate(NAMES)],
    }
    for stem in stems:
        picture(folder / pictures / f"{stem}.png")
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(held))


def voc(folder: Path, stems: str, within: str = "") -> None:
    for stem in stems:
        picture(folder / within / f"{stem}.png")
        things = "".join(
            f"<object><name>{NAMES[c]}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox></object>"
            for c, x, y, w, h in BOXES.get(stem, [])
        )
        (folder / within / f"{stem}.xml").write_text(f"<annotation><filename>x</filename>{things}</annotation>")


def boxes(yaml: Path) -> set[tuple]:
    """All boxes of a set: split, picture, name of the class, and its place in pixels."""
    described, found = check_data(yaml), set()
    for split in ("train", "val"):
        place = Path(described[split])
        lines = place.read_text().splitlines() if place.is_file() else []
        for p in [place.parent / line for line in lines] or place.iterdir():
            label = Path(str(p).replace("/images/", "/labels/")).with_suffix(".txt")
            for row in label.read_text().splitlines() if label.is_file() else []:
                c, x, y, w, h = map(float, row.split())
                place_in = (x - w / 2) * WIDE, (y - h / 2) * HIGH, w * WIDE, h * HIGH
                found.add((split, p.stem, described["names"][int(c)], *(round(v, 1) for v in place_in)))
    return found


def test_three_forms_of_one_set_agree(tmp_path):
    for split, stems in (("train", "ac"), ("val", "b")):
        yolo(tmp_path / "yolo", stems, split)
        coco(tmp_path / "coco", f"annotations/instances_{split}2017.json", stems, f"{split}2017")
        voc(tmp_path / "voc", stems, split)
    (tmp_path / "yolo" / "classes.txt").write_text("cat\ndog\n")
    want = {
        (split, stem, NAMES[c], *map(float, box))
        for split, stems in (("train", "ac"), ("val", "b"))
        for stem in stems
        for c, *box in BOXES[stem]
    }
    for form in ("yolo", "coco", "voc"):
        assert boxes(as_yaml(tmp_path / form)) == want, form
        assert {split: s.pictures for split, s in describe(tmp_path / form, progress=False).items()} == {
            "train": 2,
            "val": 1,
        }
    assert as_yaml(tmp_path / "coco") == tmp_path / "coco-yolo" / "data.yaml", "made once, and used again"
    assert not list(tmp_path.glob("tmp*"))


def test_without_splits_a_fifth_is_for_validation_and_always_the_same(tmp_path):
    yolo(tmp_path, "abcdefghij")
    assert YAML.load(as_yaml(tmp_path)) == {"train": "train.txt", "val": "val.txt", "names": ["0", "1"]}
    train, val = ((tmp_path / f"{split}.txt").read_text().split() for split in ("train", "val"))
    assert len(train) == 8 and len(val) == 2 and not set(train) & set(val)
    yolo(tmp_path, "k")
    as_yaml(tmp_path)
    again = [(tmp_path / f"{split}.txt").read_text().split() for split in ("train", "val")]
    assert len(sum(again, [])) == 11, "a picture that came later is in it"
    assert set(val) & set(again[1])
    assert "train" in report(describe(tmp_path, progress=False))


def test_a_yaml_that_is_there_is_used_and_not_written(tmp_path):
    yolo(tmp_path, "a", "images/train"), yolo(tmp_path, "b", "images/val")
    (tmp_path / "mine.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    assert as_yaml(tmp_path) == tmp_path / "mine.yaml" and not (tmp_path / "data.yaml").exists()


def test_one_json_without_splits_and_pictures_that_are_missing(tmp_path, caplog):
    coco(tmp_path, "all.json", "abcdef", "pictures")
    (tmp_path / "pictures" / "f.png").unlink()
    assert len(boxes(as_yaml(tmp_path / "all.json"))) == 3
    for file in (tmp_path / "pictures").iterdir():
        file.rename(file.with_name(f"other {file.name}"))
    with pytest.raises(ValueError, match="expected the pictures of the labels in .*, found none of 6, e.g. a.png"):
        as_yaml(tmp_path)


def test_outlines_become_polygons_and_equal_names_in_two_splits_stay_apart(tmp_path):
    """As Roboflow exports COCO: a JSON beside the pictures of each split."""
    place = tmp_path / "a set [1]"
    for split in ("train", "valid"):
        coco(place, f"{split}/_annotations.coco.json", "ab", split)
        file = place / split / "_annotations.coco.json"
        held = json.loads(file.read_text())
        for one in held["annotations"]:
            x, y, w, h = one["bbox"]
            one["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
        file.write_text(json.dumps(held))
    made = as_yaml(place).parent
    files = sorted(p.relative_to(made).as_posix() for p in made.rglob("*.txt"))
    assert files == [f"labels/{a}/{b}-{c}.txt" for a, b in (("train", "train"), ("val", "valid")) for c in "ab"]
    assert len((made / files[0]).read_text().split()) == 1 + 6, "class, and three corners"
    assert {split: s.pictures for split, s in describe(made, progress=False).items()} == {"train": 2, "val": 2}
    assert (made / "images/train/train-a.png").read_bytes() == (place / "train" / "a.png").read_bytes()


def test_what_is_no_data_set_is_said(tmp_path):
    with pytest.raises(ValueError, match="expected a data YAML, or a folder with pictures and labels"):
        as_yaml(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"expected YOLO labels, COCO JSON or VOC XML .* a.png is sought at .*a.txt"):
        as_yaml(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="expected YOLO labels"):
        as_yaml(tmp_path)
    (tmp_path / "notes.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected images, annotations and categories in .*notes.json"):
        as_yaml(tmp_path / "notes.json")
