"""ToST on digits: the committed file is whole, lesson 8 shows what it holds, and the command writes one."""

import json
import re

import nbformat
import pytest

from experiments import tost_digits
from kit.places import NOTEBOOKS
from kit.tost import VARIANTS


def test_result_file_holds_what_it_says():
    found = json.loads(tost_digits.RESULT.read_text(encoding="utf-8"))
    assert found["command"].startswith("python -m ") and found["seeds"] >= 3
    assert {(r["variant"], r["seed"]) for r in found["runs"]} == {
        (v, s) for v in VARIANTS for s in range(found["seeds"])
    }
    for run in found["runs"]:
        assert 0 <= run["accuracy"] <= 1 and len(run["trained"]) == len(run["untrained"]) == 4
        if VARIANTS[run["variant"]].get("tied"):  # the theorem, wherever it applies
            assert all(r["after"] < r["before"] for r in run["trained"] + run["untrained"] if r["bound"] < 2)


def test_lesson_8_shows_what_the_file_holds():
    """Each row of the stored lesson's table, computed here from the result file by another route."""
    found = json.loads(tost_digits.RESULT.read_text(encoding="utf-8"))
    lesson = nbformat.read(NOTEBOOKS / "08_tost.ipynb", as_version=4)
    shown = "\n".join(o.get("text", "") for cell in lesson.cells for o in cell.get("outputs", []))
    names = sorted({r["variant"] for r in found["runs"]})
    assert len(names) == 6 and all(sum(r["variant"] == n for r in found["runs"]) == found["seeds"] for n in names)
    for name in names:
        runs = [r for r in found["runs"] if r["variant"] == name]
        scores = [r["accuracy"] for r in runs]
        blocks = [b for r in runs for b in r["trained"]]
        change = 100 * (sum(b["after"] / b["before"] for b in blocks) / len(blocks) - 1)
        entropy = sum(b["entropy"] for b in blocks) / len(blocks)
        row = next(line for line in shown.splitlines() if re.match(rf"{re.escape(name)} +0\.\d+ \(", line))
        assert f"{sum(scores) / len(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})" in row
        assert f"{sum(b['after'] < b['before'] for b in blocks)} of {len(blocks)}" in row
        assert f"{change:.0f}%" in row and f"{entropy:.3f}" in row


def test_result_command_writes_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tost_digits, "VARIANTS", {"tied": {"tied": True, "depth": 1}})
    monkeypatch.setattr("sys.argv", ["tost", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path / "r.json")])
    tost_digits.main()
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert found["runs"][0]["variant"] == "tied" and found["train"] == 1297 and "torch" in found


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--epochs", "0"]])
def test_nothing_to_train_writes_nothing(words, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "r.json"
    kept.write_text("committed")
    monkeypatch.setattr("sys.argv", ["tost_digits", *words, "--out", str(kept)])
    with pytest.raises(SystemExit):
        tost_digits.main()
    assert "expected --seeds and --epochs >= 1" in capsys.readouterr().err and kept.read_text() == "committed"
