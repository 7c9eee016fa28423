"""What experiments refuse before they measure anything."""

import importlib
import re
import sys
from argparse import ArgumentTypeError

import pytest

from experiments import record
from kit.places import ROOT

WRITING = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if '"--out"' in p.read_text(encoding="utf-8"))


def test_a_place_that_cannot_be_written_is_refused_and_none_is_left_behind(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "new.json"):
        with pytest.raises(ArgumentTypeError, match=f"expected a file that can be written, got {re.escape(str(out))}"):
            record.place(str(out))
    assert record.place(str(tmp_path / "new" / "x.json")) == tmp_path / "new" / "x.json"
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("name", WRITING)
def test_every_experiment_looks_at_out_first(name, tmp_path, monkeypatch, capsys):
    experiment = importlib.import_module(f"experiments.{name}")
    words = ["--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["x", *words])
    with pytest.raises(SystemExit) as stopped:
        experiment.main(*([words] if experiment.main.__code__.co_argcount else []))
    assert stopped.value.code == 2 and "expected a file that can be written" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--sizes", "0"], ["--threads", "0"]])
def test_placements_of_no_size_are_refused(words, capsys):
    from experiments import placements

    with pytest.raises(SystemExit):
        placements.main(words)
    assert "expected --sizes of 32 pixels or more and --threads >= 1, got" in capsys.readouterr().err
