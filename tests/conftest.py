"""Every test runs off the network, with Ultralytics' settings in the project: before anything imports Ultralytics."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("YOLO_CONFIG_DIR", str(ROOT / ".cache" / "ultralytics"))
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("MPLBACKEND", "agg")
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]  # for go, experiments and kit


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; the tests that ask for it are skipped where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if program is None:
        pytest.skip("no Chromium or Chrome on this machine to drive")
    driver = pytest.importorskip("playwright.sync_api", reason="no Playwright to drive a browser with")
    flags = ["no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync"]
    with driver.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=program, args=[f"--{flag}" for flag in flags])
        yield opened
        opened.close()
