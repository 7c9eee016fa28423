"""Where the lessons, their sources and the measured results stand."""

import json
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[1]
ROOT = NOTEBOOKS.parent
SOURCES = NOTEBOOKS / "src"
LIVE = NOTEBOOKS / "live"
EXERCISES = NOTEBOOKS / "exercises"
RESULTS = ROOT / "data" / "results"


def result(name: str) -> dict[str, Any]:
    """A committed result of data/results by its name, without the suffix."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
