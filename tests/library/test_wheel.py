"""The wheel, alone: built, unpacked, and used in a process that sees neither the checkout nor its tests."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

USE = """
import os, sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in (getattr(f, "__module__", "") + repr(f)).lower()]
sys.path[:] = [sys.argv[1], *(p for p in sys.path if p and os.path.abspath(p) != sys.argv[2])]

import tssa_lib
assert tssa_lib.__file__.startswith(sys.argv[1]), tssa_lib.__file__
assert "torch" not in sys.modules and "ultralytics" not in sys.modules, "nothing heavy comes unasked"
assert {"TSSA", "look", "train"} <= set(dir(tssa_lib))

import torch
from tssa_lib import TSSA, YOLO, look, memberships, paths
assert paths.checkout() is None
assert TSSA(8, 2)(torch.ones(1, 5, 8)).shape == (1, 5, 8) and callable(memberships)

from tssa_lib.scenes import SceneSpec, make_scenes
from tssa_lib.train import SCENES, export, predict, train
data = make_scenes(SceneSpec(train=8, val=2, size=64, digits=(1, 2)), "scenes")
run = train(data, "yolo11n-tssa-improved.yaml", folder="run", quiet=True, **{**SCENES, "imgsz": 64, "epochs": 1})
model = YOLO(str(run.best))
picture = sorted(data.parent.glob("images/val/*"))[0]
assert len(predict(model, picture)) == 1
(layer,) = look(model, picture).layers
assert layer.Pi.shape[:2] == (1, 8) and layer.grid == (2, 2)
assert export(model, "torchscript", imgsz=64).is_file()
assert os.listdir(".") and not [m for m in sys.modules if m.split(".")[0] in ("kit", "experiments", "tests")]
print("used", tssa_lib.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git knows of the package: no build folder lies about in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for file in sorted((ROOT / "tssa_lib").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            copy = source / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"tssa_lib"}
    known = {f"tssa_lib/{f.relative_to(ROOT / 'tssa_lib').as_posix()}" for f in (ROOT / "tssa_lib").rglob("*.*")}
    assert {n for n in known if not n.endswith(".pyc")} == {n for n in names if n.startswith("tssa_lib/")}
    (commands,) = [n for n in names if n.endswith("entry_points.txt")]
    assert "tssa = tssa_lib.__main__:main" in zipfile.ZipFile(wheel).read(commands).decode()
    assert {"tssa_lib/py.typed", "tssa_lib/yolo11-tssa.yaml", "tssa_lib/pictures/flower.png"} <= names


def test_the_wheel_works_where_there_is_no_checkout(wheel, tmp_path, monkeypatch):
    target, home = tmp_path / "installed", tmp_path / "somewhere else"
    zipfile.ZipFile(wheel).extractall(target)
    home.mkdir()
    for name in ("PYTHONPATH", "YOLO_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TSSA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # where nobody has settings of Ultralytics
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = subprocess.run(
        [sys.executable, "-c", USE, str(target), str(ROOT)], cwd=home, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("used ")
