"""Trainings that are stopped: killed at many instants, without room on the disk, moved, copied, started twice."""

import json
import shutil
import signal
import textwrap
from pathlib import Path

import pytest

from harness import fresh_process
from tssa_lib import train as training
from tssa_lib.scenes import SceneSpec, make_scenes

TINY = SceneSpec(train=8, val=2, size=64, digits=(1, 2))
SHORT = {**training.SCENES, "imgsz": 64, "epochs": 3, "batch": 8}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_scenes(TINY, tmp_path_factory.mktemp("scenes"))


# Where a training is killed in its second epoch: while a checkpoint is written, between two, around results.csv.
INSTANTS = ["half of last.pt", "last.pt whole, best.pt not", "after best.pt", "half a row", "row whole, no checkpoint"]

KILLED = """
    import json, os, signal, sys
    from pathlib import Path
    from tssa_lib import train as training
    from ultralytics.engine.trainer import BaseTrainer

    data, place, short = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def die_at(instant):
        write, row, replace = Path.write_bytes, BaseTrainer.save_metrics, Path.replace
        moved = []

        def write_bytes(self, content):
            if "last" in self.name and epoch == 1 and instant == "half of last.pt":
                write(self, content[: len(content) // 2])
                die()
            return write(self, content)

        def move(self, target):
            done = replace(self, target)
            if epoch == 1 and self.suffix == ".partial" and self.name.endswith(".pt.partial"):
                moved.append(target)
                if (instant, len(moved)) in (("last.pt whole, best.pt not", 1), ("after best.pt", 2)):
                    die()
            return done

        def save_metrics(self, metrics):
            global epoch
            epoch = self.epoch
            row(self, metrics)
            if epoch == 1 and instant == "half a row":
                text = self.csv.read_text()
                self.csv.write_text(text[: -len(text.splitlines()[-1]) // 2])
                die()
            if epoch == 1 and instant == "row whole, no checkpoint":
                die()

        Path.write_bytes, Path.replace, BaseTrainer.save_metrics = write_bytes, move, save_metrics
        BaseTrainer.best_fitness = property(lambda self: self.fitness, lambda self, v: None)  # each epoch is the best

    epoch = 0
    die_at(sys.argv[4])
    training.train(data, folder=place, quiet=True, **short)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows ends a process otherwise")
@pytest.mark.parametrize("instant", INSTANTS)
def test_killed_at_any_instant_a_training_goes_on_and_repeats_one_epoch_at_most(instant, data, tmp_path):
    words = textwrap.dedent(KILLED), str(data), str(tmp_path / "run"), json.dumps(SHORT), instant
    done = fresh_process("-c", *words, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    seen = []
    run = training.resume(tmp_path / "run", watch=lambda history: seen.append(history.batches[-1][0]), quiet=True)
    assert seen[0] >= 1, "the first epoch was done again"
    assert [row["epoch"] for row in run.history] == [1, 2, 3] and run.best.is_file()
    assert not list((tmp_path / "run").rglob("*.partial"))


def interrupted(data: Path, folder: Path, at: int = 2, **settings) -> Path:
    """A training of three epochs, stopped by Ctrl-C in its epoch `at`."""

    def stop(history):
        if len(history.rows) == at - 1 and len(history.batches) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"resume '.*'|first checkpoint"):
        training.train(data, folder=folder, watch=stop, quiet=True, **{**SHORT, **settings})
    return folder


def test_a_full_disk_loses_no_checkpoint_and_says_where_and_how_to_go_on(data, tmp_path, monkeypatch):
    write, epochs = Path.write_bytes, []

    def full(self, content):
        if self.name.startswith(".last"):
            epochs.append(self)
            if len(epochs) == 2:
                write(self, content[:1000])
                raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"expected room for checkpoints in .*run.* resume '") as stopped:
        training.train(data, folder=tmp_path / "run", quiet=True, **SHORT)
    assert "No space left" in str(stopped.value)
    monkeypatch.undo()
    run = training.resume(tmp_path / "run", quiet=True)
    assert [row["epoch"] for row in run.history] == [1, 2, 3] and not list(run.folder.rglob("*.partial"))


def test_a_copy_goes_on_where_it_is_and_leaves_the_original_alone(data, tmp_path):
    folder = interrupted(data, tmp_path / "run")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    shutil.copytree(folder, tmp_path / "copy")
    run = training.resume(tmp_path / "copy", quiet=True)
    assert run.folder == tmp_path / "copy" and [row["epoch"] for row in run.history] == [1, 2, 3]
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    moved = folder.rename(tmp_path / "moved")
    assert training.resume(moved, quiet=True).folder == moved and not folder.exists()


def test_a_broken_checkpoint_gives_way_to_the_best(data, tmp_path):
    folder = interrupted(data, tmp_path / "run")
    last = folder / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    run = training.resume(folder, quiet=True)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    folder = interrupted(data, tmp_path / "two")
    for path in (folder / "weights").iterdir():
        path.write_bytes(b"random bytes")
    with pytest.raises(ValueError, match="expected a YOLO checkpoint, got .*last.pt: .*; expected .*best.pt: "):
        training.resume(folder, quiet=True)


def test_resuming_looks_at_the_data_as_training_does(data, tmp_path):
    own = make_scenes(TINY, tmp_path / "scenes")
    folder = interrupted(own, tmp_path / "run")
    label = sorted((own.parent / "labels" / "train").glob("*.txt"))[0]
    right = label.read_text()
    label.write_text("99 0.5 0.5 0.2 0.2\n")
    with pytest.raises(ValueError, match=f"{label.stem}.bmp: .*class 99"):
        training.resume(folder, quiet=True)
    label.write_text(right)
    other = own.with_name("three.yaml")
    other.write_text(own.read_text().split("names")[0] + "names: [a, b, c]\n")
    with pytest.raises(ValueError, match=r"expected data with the 10 classes of the model .* got 3 \(a, b, c\)"):
        training.resume(folder, quiet=True, data=other)
    moved = own.parent.rename(tmp_path / "elsewhere") / "data.yaml"
    with pytest.raises(FileNotFoundError):
        training.resume(folder, quiet=True)
    assert len(training.resume(folder, quiet=True, data=moved).history) == 3


def test_a_training_that_never_saved_says_so(data, tmp_path):
    folder = interrupted(data, tmp_path / "run", at=1)
    with pytest.raises(FileNotFoundError, match="stopped before its first checkpoint: train again"):
        training.resume(folder)
    assert training.train(data, folder=folder, quiet=True, **{**SHORT, "epochs": 1}).best.is_file()


def test_two_trainings_take_two_folders_and_one_folder_takes_one(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    refused, names = [], []

    def meanwhile(history):
        if not names:
            with training._new_folder(None) as other:
                names.append(other.name)
            for start in (lambda: training.train(data, folder=tmp_path / "runs" / "train1"),):
                with pytest.raises(ValueError, match="expected a folder in which nobody trains, got .*train1"):
                    start()
                refused.append(start)

    run = training.train(data, watch=meanwhile, quiet=True, **{**SHORT, "epochs": 1})
    assert run.folder.name == "train1" and names == ["train2"] and refused
    with pytest.raises(ValueError, match="expected a new folder"):
        training.train(data, folder=run.folder)


def test_runs_are_numbered_and_none_is_written_over(tmp_path, monkeypatch):
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    for name in ("train1", "train7", "trained"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert [training._next_folder().name for _ in "ab"] == ["train8", "train9"]


@pytest.mark.parametrize(
    "settings, said",
    [
        (dict(imgsz=0), "expected imgsz of 32 pixels or more, got 0"),
        (dict(imgsz=[64, 0]), "expected imgsz of 32 pixels or more"),
        (dict(batch=0), "expected batch >= 1"),
        (dict(batch=2.5), "expected batch >= 1"),
        (dict(workers=-1), "expected workers >= 0, got -1"),
        (dict(epochs=0), "expected epochs >= 1, got 0"),
        (dict(resume=True), r"expected resume\(folder\) in place of"),
        (dict(folder=""), "expected a folder for this run, got an empty name"),
        (dict(save_dir="x"), "expected folder=… in place of save_dir"),
    ],
)
def test_settings_that_would_become_something_else_are_refused(data, settings, said):
    with pytest.raises(ValueError, match=said):
        training.train(data, quiet=True, **settings)


def test_results_csv_is_read_whatever_an_interruption_left_in_it(tmp_path):
    rows = ["epoch,time,train/box_loss,metrics/mAP50(B)", "1,1.5,2,0.1", "2,3,1,0.2", "2,3,1,0.25", "3,4.5,0."]
    path = tmp_path / "results.csv"
    path.write_text("\n".join(rows))
    assert [row["epoch"] for row in training._rows(path)] == [1, 2], "a row that was cut short is no row"
    assert training._rows(path)[1]["metrics/mAP50(B)"] == 0.25, "an epoch that was done again counts once"
    training._mend_results(path, done=1)
    assert path.read_text() == "\n".join(rows[:2]) + "\n"
