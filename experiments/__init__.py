"""Everything that makes data/results: one command each (`python -m experiments.NAME`), from the project's root.

Not installed with the package. README.md beside this file lists the commands, their minutes, and what to rebuild after.
"""

import sys
from pathlib import Path

_notebooks = str(Path(__file__).resolve().parents[1] / "notebooks")
if _notebooks not in sys.path:  # the lessons' kit stands there
    sys.path.insert(0, _notebooks)

import tssa_lib  # noqa: E402, F401  (keeps Ultralytics' settings in the project, whoever is imported first)
