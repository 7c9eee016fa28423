"""Where the lessons, their sources and the measured results stand."""

from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[1]
ROOT = NOTEBOOKS.parent
SOURCES = NOTEBOOKS / "src"
LIVE = NOTEBOOKS / "live"
EXERCISES = NOTEBOOKS / "exercises"
RESULTS = ROOT / "data" / "results"
