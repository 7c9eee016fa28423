"""Where things are: the one place that knows whether this is a checkout or an installed package."""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The root of the project's checkout that this package stands in; None for an installed package.

    >>> root = checkout()
    >>> root is None or (root / "notebooks").is_dir()
    True
    """
    root = PACKAGE.parent
    return root if (root / "notebooks" / "kit").is_dir() and (root / "data" / "README.md").is_file() else None


def data_dir() -> Path:
    """The writable folder for made data: `$TSSA_DATA`, the checkout's `data/`, or a user cache.

    The answer does not depend on the working directory.

    >>> data_dir().is_absolute()
    True
    """
    if os.environ.get("TSSA_DATA"):
        return Path(os.environ["TSSA_DATA"]).expanduser().resolve()
    root = checkout()
    if root and os.access(root / "data", os.W_OK):
        return root / "data"
    cache = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().resolve() / "tssa_lib"


def shipped(name: str) -> Path:
    """A file or folder that comes with the checkout's `data/`: "blood_cells/data.yaml", "detectors/blood_cells.pt".

    `FileNotFoundError` when there is none, and for an installed package, which has no such data.
    """
    root = checkout()
    if root is None:
        raise FileNotFoundError(f"expected {name} in the project's data, got a package installed without its checkout")
    place = root / "data" / name
    if not place.exists():
        beside = sorted(p.name for p in place.parent.glob(f"*{place.suffix}")) if place.parent.is_dir() else []
        raise FileNotFoundError(f"expected {name} in the project's data, found only {', '.join(beside) or 'nothing'}")
    return place


def runs_dir() -> Path:
    """Where trainings are written: the checkout's `data/runs`, or, installed, `runs` in the working directory.

    `$TSSA_DATA` has its `runs` in both.
    """
    return data_dir() / "runs" if checkout() or os.environ.get("TSSA_DATA") else Path.cwd() / "runs"


def settings_dir() -> Path:
    """Where Ultralytics' settings are unless `$YOLO_CONFIG_DIR` says otherwise: a user's own, else a folder of ours."""
    root = checkout()
    return users_settings() or (root / ".cache" / "ultralytics" if root else data_dir() / "ultralytics")


def users_settings() -> Path | None:
    """The folder above the settings that a user has from Ultralytics itself; None where there are none."""
    home = Path.home()
    systems = {"win32": home / "AppData" / "Roaming", "darwin": home / "Library" / "Application Support"}
    place = systems.get(sys.platform) or Path(os.environ.get("XDG_CONFIG_HOME", home / ".config"))
    return place if (place / "Ultralytics" / "settings.json").is_file() else None
