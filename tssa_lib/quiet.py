"""Ultralytics, imported quietly: its settings and a font in a folder of ours, nothing asked of the network.

There is no telemetry, version check, package installation or font download. Environment variables that are already
set win (`YOLO_CONFIG_DIR`, `YOLO_OFFLINE`, `YOLO_AUTOINSTALL`). Data sets and weights asked for by name are still
downloaded. Every file that imports Ultralytics imports this one first.
"""

import json
import logging
import os
import shutil
from pathlib import Path

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

import ultralytics  # noqa: E402, F401

logging.disable(logging.NOTSET)
