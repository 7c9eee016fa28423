"""Beside Ultralytics: a user's own settings are kept, whatever is imported first, and nothing is put beside them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import get_data_path

from tssa_lib import quiet

from ultralytics.utils import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
ORDERS = ("import tssa_lib.yolo, ultralytics", "import ultralytics, tssa_lib.yolo", "import tssa_lib, ultralytics")


def settings_seen(code: str, config: Path) -> dict:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "TSSA_", "PYTEST"))}
    env = {**keep, "XDG_CONFIG_HOME": str(config), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code += "; import json; from ultralytics.utils import SETTINGS; print('SEEN', json.dumps(dict(SETTINGS)))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=config)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.split("SEEN")[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a home can't be set by XDG_CONFIG_HOME")
@pytest.mark.parametrize("order", ORDERS)
def test_a_users_own_settings_are_kept(order, tmp_path):
    file = tmp_path / "Ultralytics" / "settings.json"
    file.parent.mkdir()
    own = {**SETTINGS, "datasets_dir": str(tmp_path / "mine"), "tensorboard": True, "sync": False}
    file.write_text(json.dumps(own))
    assert settings_seen(order, tmp_path) == own
    assert json.loads(file.read_text()) == own and not list(file.parent.glob("*.ttf"))


def test_letters_that_no_font_has_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(quiet.checks, "USER_CONFIG_DIR", tmp_path)
    assert quiet.undrawable("細胞") == "", "no font there: Ultralytics looks elsewhere"
    shutil.copy(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), tmp_path / "Arial.Unicode.ttf")
    assert quiet.undrawable("клетка, cellule é") == "" and quiet.undrawable("細胞 1") == "".join(sorted("細胞"))
