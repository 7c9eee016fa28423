"""Ultralytics, imported quietly: its settings and a font in a folder of ours, nothing asked of the network.

There is no telemetry, version check, package installation or font download. Environment variables that are already
set win (`YOLO_CONFIG_DIR`, `YOLO_OFFLINE`, `YOLO_AUTOINSTALL`). Data sets and weights asked for by name are still
downloaded. Every file that imports Ultralytics imports this one first.
"""

import glob
import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import torch  # noqa: F401  (before ultralytics, which else holds torch to one thread)

from tssa_lib.paths import data_dir


def make_quiet() -> bool:
    """Settings and a font for Ultralytics, in a folder of ours, before it is first imported.

    True when they are new: the first import then fills the settings in, and would say so.
    """
    os.environ.setdefault("YOLO_OFFLINE", "True")  # no telemetry, no version check
    os.environ.setdefault("YOLO_AUTOINSTALL", "False")  # no pip behind one's back
    home = Path(os.environ.setdefault("YOLO_CONFIG_DIR", str(data_dir() / "ultralytics")))
    folder = home.expanduser() / "Ultralytics"
    settings = folder / "settings.json"
    fonts = [folder / name for name in ("Arial.ttf", "Arial.Unicode.ttf")]  # it would download these
    if all(file.exists() for file in (settings, *fonts)):
        return False
    from matplotlib import get_data_path

    folder.mkdir(parents=True, exist_ok=True)
    for font in fonts:
        if not font.exists():
            shutil.copy(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), font)
    if not settings.exists():
        places = {f"{kind}_dir": str(data_dir() / kind) for kind in ("datasets", "weights", "runs")}
        partial = folder / f"settings.{os.getpid()}.tmp"
        partial.write_text(json.dumps({"settings_version": "0.0.8", **places, "sync": False}))
        partial.replace(settings)
    return True


if make_quiet():
    logging.disable(logging.WARNING)

from ultralytics.utils import checks  # noqa: E402

logging.disable(logging.NOTSET)


def find(pattern: str, root: str = "", **options: bool) -> list[str]:
    """`glob.glob`, with the folder that Ultralytics is installed in taken as it is called.

    Ultralytics finds its own files (yolo11.yaml, coco8.yaml, botsort.yaml) by a pattern that begins with that folder:
    in one called "my [lessons]" it finds none, as brackets stand for one letter there.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp(suffix="[lessons]"))
    >>> (folder / "a.yaml").touch()
    >>> len(find(f"{folder}/*.yaml", str(folder))), glob.glob(f"{folder}/*.yaml")
    (1, [])
    """
    root = root or str(checks.ROOT.parent)
    inside = pattern.startswith(root)
    return glob.glob(glob.escape(root) + pattern[len(root) :] if inside else pattern, **options)


checks.glob = SimpleNamespace(glob=find)
