"""What every measured result in data/results says of itself: its command, date, versions and machine.

Used by `bench`, `placements`, `tost` and `trial`; a figure in a lesson or the README is read from such a file.
"""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch


def manifest(command: str) -> dict[str, Any]:
    """Command, date, versions and machine, without names or paths; `load` is the machine's average over a minute.

    >>> found = manifest("python -m tssa_lib.bench")
    >>> found["command"], found["threads"] == torch.get_num_threads(), found["load"] >= 0
    ('python -m tssa_lib.bench', True, True)
    """
    return {
        "command": command, "date": datetime.date.today().isoformat(), "python": platform.python_version(),
        "torch": torch.__version__, "ultralytics": version("ultralytics"), "cpu": _cpu(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "load": round(psutil.getloadavg()[0], 1),
    }  # fmt: skip


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
