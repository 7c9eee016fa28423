"""Token Statistics Self-Attention, from the derivation to object detection.

The companion library of the lessons in `notebooks/`; every file names the lesson that derives it.
In a checkout, Ultralytics keeps its settings in the project's `.cache/` and stays off the network,
also when somebody starts jupyter by hand; `YOLO_CONFIG_DIR` and `YOLO_OFFLINE` overrule that.
"""

import os
from pathlib import Path

__version__ = "0.1.0"

_root = Path(__file__).resolve().parents[1]
if (_root / "notebooks" / "build.py").exists():
    os.environ.setdefault("YOLO_CONFIG_DIR", str(_root / ".cache" / "ultralytics"))
    os.environ.setdefault("YOLO_OFFLINE", "true")
