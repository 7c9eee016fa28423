"""What every measured result in data/results says of itself, and the one way in which it is written.

Used by every experiment; a figure in a lesson or the README is read from such a file.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from argparse import ArgumentTypeError
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from kit.places import RESULTS  # noqa: F401  (where results go)


def manifest(command: str) -> dict[str, Any]:
    """Command, date, versions and machine, without names or paths; `load` is the machine's average over a minute.

    >>> found = manifest("python -m experiments.linear_time")
    >>> found["command"], found["threads"] == torch.get_num_threads(), found["load"] >= 0
    ('python -m experiments.linear_time', True, True)
    """
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ultralytics": version("ultralytics"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(psutil.getloadavg()[0], 1),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def place(out: str) -> Path:
    """The argument of `--out`, refused where no file can be written: before anything is measured, not after."""
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "is a directory")
        probe = path.with_name(f".{path.name}.partial")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ArgumentTypeError(f"expected a file that can be written, got {out}: {error.strerror}") from error
    return path


def write(path: Path, result: dict[str, Any], *, indent: int = 1) -> Path:
    """Write a result as JSON: whole or not at all, and never an empty one over a result.

    `ValueError` for a result without its manifest, or without anything measured (no non-empty list in it).

    >>> write(Path("nowhere.json"), {"command": "python -m experiments.x"})
    Traceback (most recent call last):
    ValueError: expected a result with date, python, torch, got ['command']
    """
    missing = [key for key in ("command", "date", "python", "torch") if key not in result]
    if missing:
        raise ValueError(f"expected a result with {', '.join(missing)}, got {sorted(result)}")
    if not any(isinstance(value, list) and value for value in result.values()):
        raise ValueError(f"expected a result with measured rows, got none for {path.name}: nothing is written")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(result, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
    return path
