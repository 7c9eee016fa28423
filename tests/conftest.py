"""Every test runs off the network, with Ultralytics' settings in the project: before anything imports Ultralytics."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("YOLO_CONFIG_DIR", str(ROOT / ".cache" / "ultralytics"))
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("MPLBACKEND", "agg")
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]  # for go, experiments and kit
