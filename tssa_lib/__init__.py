"""Token Statistics Self-Attention, from the derivation to object detection.

The companion library of the lessons in `notebooks/`; every file names the lesson that derives it.
In a checkout, Ultralytics keeps its settings in the project's `.cache/` and stays off the network,
also when somebody starts jupyter by hand; `YOLO_CONFIG_DIR` and `YOLO_OFFLINE` overrule that.
"""

import os

from tssa_lib import paths

__version__ = "0.2.0"

if paths.checkout():
    os.environ.setdefault("YOLO_CONFIG_DIR", str(paths.settings_dir()))
    os.environ.setdefault("YOLO_OFFLINE", "true")
