"""Is this machine fit for the lessons? `python go.py doctor` says OK or FAIL, and the mend, for each requirement.

Lesson 0 calls `report()`. Nothing here is derived: these are the bounds of pyproject.toml and the traps of a set-up.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

GIGABYTE = 2**30
SET_UP = "run `make setup` (python go.py setup) in the project's folder"


class Check(NamedTuple):
    """One requirement: its name, whether it is met, what was found, and what mends it (empty if met)."""

    name: str
    ok: bool
    found: str
    mend: str


def _installed() -> str:
    importlib.import_module("packaging.requirements")
    return importlib.metadata.version("tssa_lib")


def _packages() -> Iterator[tuple[str, Callable[[], str], str]]:
    """One probe for each package that pyproject.toml bounds for this Python."""
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires("tssa_lib") or []:
        needed = Requirement(line)
        if needed.marker and not any(
            needed.marker.evaluate({"extra": extra}) for extra in ("", "lessons", "export", "test", "site")
        ):
            continue

        def probe(needed: Requirement = needed) -> str:
            version = importlib.metadata.version(needed.name)
            if not needed.specifier.contains(version, prereleases=True):
                raise ValueError(f"expected {needed.name}{needed.specifier}, got {version}")
            return version

        yield needed.name, probe, SET_UP


def _python() -> str:
    if sys.version_info < (3, 10):
        raise ValueError(f"expected Python 3.10 or newer, got {sys.version.split()[0]}")
    return sys.version.split()[0]


def _torch() -> str:
    import torch
    from torchvision.ops import nms  # a torchvision of another torch fails here

    kept = nms(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]]), torch.tensor([1.0, 0.5]), 0.5)
    if kept.tolist() != [0]:
        raise ValueError(f"expected torchvision's nms to keep box [0], got {kept.tolist()}")
    return "CUDA" if torch.cuda.is_available() else "CPU"


def _threads() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = int(os.environ.get("OMP_NUM_THREADS", cores))
    if wanted > cores:
        raise ValueError(f"expected OMP_NUM_THREADS of at most {cores} (cores), got {wanted}")
    return f"{wanted} on {cores} cores"


def _memory() -> str:
    import psutil

    free = psutil.virtual_memory().available / GIGABYTE
    if free < 2:
        raise ValueError(f"expected 2 GB of free memory, got {free:.1f} GB")
    return f"{free:.0f} GB free"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / GIGABYTE
    if free < 1:
        raise ValueError(f"expected 1 GB of free disk, got {free:.1f} GB")
    return f"{free:.0f} GB free"


def _kernel() -> str:
    from jupyter_client.kernelspec import KernelSpecManager

    program = Path(KernelSpecManager().get_kernel_spec("python3").argv[0])  # "python" means: of this environment
    if program.is_absolute() and program.parent != Path(sys.executable).parent:
        raise ValueError(f"expected kernel python3 to run {sys.executable}, got {program}")
    return "python3 of this environment"


def _settings() -> str:
    folder = os.environ.get("YOLO_CONFIG_DIR")
    if not folder:
        raise ValueError("expected YOLO_CONFIG_DIR to be set, got nothing: Ultralytics would write into your home")
    Path(folder).mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ValueError(f"expected a folder that can be written, got {folder}")
    return folder


def _offline() -> str:
    asked = os.environ.get("YOLO_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    if not asked:
        raise ValueError(f"expected YOLO_OFFLINE=true, got {os.environ.get('YOLO_OFFLINE')!r}")
    if getattr(sys.modules.get("ultralytics.utils"), "ONLINE", False):
        raise ValueError("expected tssa_lib to be imported before ultralytics, got ultralytics on-line")
    return "no telemetry, no version check"


def _data() -> str:
    from sklearn.datasets import load_digits, load_sample_image

    shapes = load_digits().images.shape, load_sample_image("china.jpg").shape
    if shapes != ((1797, 8, 8), (427, 640, 3)):
        raise ValueError(f"expected digits (1797, 8, 8) and china.jpg (427, 640, 3), got {shapes}")
    spec = importlib.util.find_spec("ultralytics")
    photo = Path(spec.origin if spec and spec.origin else "").parent / "assets" / "bus.jpg"
    if not photo.exists():
        raise ValueError(f"expected Ultralytics' photograph, got nothing at {photo}")
    return "1,797 digits, photographs"


def checks() -> list[Check]:
    """Try every requirement; a probe that raises is a FAIL with its message.

    Returns one `Check` for each, in the order in which to mend them.

    >>> all(isinstance(check.ok, bool) for check in checks())
    True
    """
    probes = [
        ("Python", _python, "install Python 3.10 or newer, delete .venv, and " + SET_UP),
        ("tssa_lib", _installed, SET_UP),
        *(_packages() if _try("tssa_lib", _installed, SET_UP).ok else ()),
        ("torch with torchvision", _torch, "their versions must belong together: " + SET_UP),
        ("threads", _threads, "unset OMP_NUM_THREADS or lower it"),
        ("memory", _memory, "close other programs"),
        ("disk", _disk, "free some disk: training writes under data/runs/"),
        ("kernel", _kernel, "start jupyter from .venv (make lab), or remove the other kernel python3"),
        ("settings folder", _settings, "set YOLO_CONFIG_DIR to a folder of yours that can be written"),
        (
            "off-line",
            _offline,
            "set YOLO_OFFLINE=true (what you ask for by name still downloads); import tssa_lib first in a new kernel",
        ),
        ("digits and photographs", _data, SET_UP),
    ]
    return [_try(*probe) for probe in probes]


def _try(name: str, probe: Callable[[], str], mend: str) -> Check:
    try:
        return Check(name, True, probe(), "")
    except Exception as error:  # whatever a broken installation raises is what the reader must see
        return Check(name, False, f"{type(error).__name__}: {error}", mend)


def report() -> None:
    """Print one line if every check is met, else each that is not, with its mend; the same words on every fit machine.

    >>> report()  # doctest: +SKIP
    environment: every check OK
    """
    failed = [check for check in checks() if not check.ok]
    print("\n".join(_line(check) for check in failed) or "environment: every check OK")


def _line(check: Check) -> str:
    return f"{'OK  ' if check.ok else 'FAIL'}  {check.name}: {check.found}" + (
        f"\n      mend: {check.mend}" if check.mend else ""
    )


def main() -> int:
    """Print one line for each check; 1 if any is not met, else 0."""
    found = checks()
    print("\n".join(_line(check) for check in found))
    return int(not all(check.ok for check in found))


if __name__ == "__main__":
    sys.exit(main())
