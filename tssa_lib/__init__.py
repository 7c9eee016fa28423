"""Token Statistics Self-Attention, from the derivation to object detection.

The companion library of the lessons in `notebooks/`; every file names the lesson that derives it. From here come

    TSSA, TokenStatistics                                  the layer, and what layers of its kind share
    memberships, second_moments, gates, token_update       the operator, term by term
    YOLO, ready, load                                      Ultralytics with our blocks; a trained detector
    look, Lens                                             a model and a picture, and a page about both

and all files as submodules: `tssa_lib.train.train` and `tssa_lib.observe.observe` have no short name, because `train`
and `observe` are the files. Nothing heavy is imported before it is asked for.

In a checkout, Ultralytics keeps its settings in the project's `.cache/`, unless a user has settings of their own, and
stays off the network, also when somebody starts jupyter by hand; `YOLO_CONFIG_DIR` and `YOLO_OFFLINE` overrule that.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from tssa_lib import paths

if TYPE_CHECKING:
    from tssa_lib.core import gates, memberships, second_moments, token_update
    from tssa_lib.lens import Lens
    from tssa_lib.observe import look
    from tssa_lib.tssa import TSSA, TokenStatistics
    from tssa_lib.weights import load, ready
    from tssa_lib.yolo import YOLO

__version__ = "0.2.0"
__all__ = [
    "TSSA",
    "YOLO",
    "Lens",
    "TokenStatistics",
    "gates",
    "load",
    "look",
    "memberships",
    "ready",
    "second_moments",
    "token_update",
]
_HOMES = {
    "core": ("gates", "memberships", "second_moments", "token_update"),
    "lens": ("Lens",),
    "observe": ("look",),
    "tssa": ("TSSA", "TokenStatistics"),
    "weights": ("load", "ready"),
    "yolo": ("YOLO",),
}

if paths.checkout():
    os.environ.setdefault("YOLO_CONFIG_DIR", str(paths.settings_dir()))
    os.environ.setdefault("YOLO_OFFLINE", "true")


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    if (paths.PACKAGE / f"{name}.py").is_file():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *(file.stem for file in paths.PACKAGE.glob("[a-z]*.py"))})
