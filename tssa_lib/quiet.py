"""Ultralytics, imported quietly: nothing asked of the network, its settings and a font in a folder of ours.

Who has settings of Ultralytics keeps them, and nothing is put beside them. There is no telemetry, version check,
package installation or font download. Environment variables that are set already win (`YOLO_CONFIG_DIR`,
`YOLO_OFFLINE`, `YOLO_AUTOINSTALL`). Data sets and weights asked for by name are still downloaded. Every file that
imports Ultralytics imports this one first.
"""

import glob
import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch  # noqa: F401  (before ultralytics, which else holds torch to one thread)

from tssa_lib.paths import data_dir, settings_dir, users_settings

# Fonts with Chinese, Japanese or Korean glyphs, for names of classes: the first that the system has
MANY_GLYPHS = (
    *("Arial Unicode MS", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "Microsoft YaHei", "Malgun Gothic", "PingFang SC", "Hiragino Sans GB"),
)


def make_quiet() -> bool:
    """Settings and a font for Ultralytics, in a folder of ours, before it is first imported.

    True when they are new: the first import then fills the settings in, and would say so.
    """
    os.environ.setdefault("YOLO_OFFLINE", "True")  # no telemetry, no version check
    os.environ.setdefault("YOLO_AUTOINSTALL", "False")  # no pip behind one's back
    home = Path(os.environ.setdefault("YOLO_CONFIG_DIR", str(settings_dir()))).expanduser()
    folder = home / "Ultralytics"
    settings = folder / "settings.json"
    fonts = [folder / name for name in ("Arial.ttf", "Arial.Unicode.ttf")]  # it would download these
    if home == users_settings() or all(file.exists() for file in (settings, *fonts)):
        return False
    from matplotlib import font_manager, get_data_path

    folder.mkdir(parents=True, exist_ok=True)
    there = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    most = next((there[name] for name in MANY_GLYPHS if name in there), None)
    plain = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    for font, source in zip(fonts, (plain, most or plain)):
        if not font.exists():
            shutil.copy(source, font)
    if not settings.exists():
        places = {f"{kind}_dir": str(data_dir() / kind) for kind in ("datasets", "weights", "runs")}
        partial = folder / f"settings.{os.getpid()}.tmp"
        partial.write_text(json.dumps({"settings_version": "0.0.8", **places, "sync": False}))
        partial.replace(settings)
    return True


if make_quiet():
    logging.disable(logging.WARNING)

from ultralytics.utils import checks  # noqa: E402

logging.disable(logging.NOTSET)


def undrawable(names: str) -> str:
    """The letters of these names that would be drawn as empty boxes: no font here has them.

    >>> undrawable("cat, œuf")
    ''
    """
    from matplotlib.ft2font import FT2Font

    font = checks.USER_CONFIG_DIR / "Arial.Unicode.ttf"
    if names.isascii() or not font.is_file():
        return ""
    return "".join(sorted({c for c in names if ord(c) not in FT2Font(str(font)).get_charmap()}))


def find(pattern: str, root: str = "", **options: Any) -> list[str]:
    """`glob.glob`, with the folder that Ultralytics is installed in taken as it is called.

    Ultralytics finds its own files (yolo11.yaml, coco8.yaml, botsort.yaml) by a pattern that begins with that folder:
    in one called "my [lessons]" it finds none, as brackets stand for one letter there.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp(suffix="[lessons]"))
    >>> (folder / "a.yaml").touch()
    >>> len(find(f"{folder}/*.yaml", str(folder))), glob.glob(f"{folder}/*.yaml")
    (1, [])
    """
    root = root or str(checks.ROOT.parent)
    inside = pattern.startswith(root)
    return glob.glob(glob.escape(root) + pattern[len(root) :] if inside else pattern, **options)


checks.glob = SimpleNamespace(glob=find)
