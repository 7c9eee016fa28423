"""`python -m tssa_lib`: the help, the road from training to export in fresh processes, and what bad input is told."""

import subprocess
from pathlib import Path

import pytest

from harness import fresh_process
from tssa_lib import __main__ as command
from tssa_lib import train as training
from tssa_lib.scenes import SceneSpec, make_scenes

TINY = SceneSpec(train=8, val=2, size=64, digits=(1, 2))
QUICK = ("--recipe", "scenes", "imgsz=64", "epochs=1")


def shell(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    return fresh_process("-m", "tssa_lib", *words, cwd=cwd)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_scenes(TINY, tmp_path_factory.mktemp("scenes"))


@pytest.mark.slow
def test_the_road_from_training_to_export(data, tmp_path):
    """In a folder with a space in its name, each step in a process of its own."""
    place = tmp_path / "my runs"
    place.mkdir()
    done = shell(
        "train", "--data", str(data), "--recipe", "scenes", "--folder", "run", "imgsz=64", "epochs=1", cwd=place
    )
    assert done.returncode == 0, done.stderr[-2000:]
    best = place / "run" / "weights" / "best.pt"
    assert best.is_file() and f"best weights   {best}" in done.stdout and "1 epochs in " in done.stdout
    assert "mAP50" in done.stdout and str(place / "run" / "results.csv") in done.stdout
    done = shell("val", "--model", str(best), "--data", str(data), "imgsz=64", cwd=place)
    assert done.returncode == 0 and "mAP50-95" in done.stdout, done.stderr[-2000:]
    done = shell(
        "yolo",
        "predict",
        f"model={best}",
        f"source={data.parent / 'images' / 'val'}",
        "imgsz=64",
        f"project={place}",
        "name=shown",
        cwd=place,
    )
    assert done.returncode == 0 and len(list((place / "shown").iterdir())) == TINY.val, done.stderr[-2000:]
    done = shell(
        "predict",
        "--model",
        str(best),
        "--source",
        str(data.parent / "images" / "val"),
        "imgsz=64",
        f"project={place}",
        "name=ours",
        cwd=place,
    )
    assert done.returncode == 0 and len(list((place / "ours").iterdir())) == TINY.val, done.stderr[-2000:]
    assert f"2 pictures with their boxes: {place / 'ours'}" in done.stdout and done.stdout.count(".bmp: ") == 2
    done = shell("export", "--model", str(best), "--format", "torchscript", "imgsz=64", cwd=place)
    assert done.returncode == 0 and best.with_suffix(".torchscript").is_file(), done.stderr[-2000:]
    done = shell("resume", "run", cwd=place)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: expected an interrupted training")


@pytest.mark.slow
def test_a_folder_of_pictures_is_enough(data, tmp_path, monkeypatch, capsys):
    """Without a YAML, by the recipe that looks, a run in the working directory; then the same folder for `val`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "runs_dir", lambda: tmp_path / "runs")
    folder = tmp_path / "photos"
    for file in [*data.parent.glob("images/train/*"), *data.parent.glob("labels/train/*")]:
        (folder / file.name).parent.mkdir(exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
    assert command.main(["train", "--data", "photos", "imgsz=64", "epochs=1", "plots=false"]) == 0
    best = tmp_path / "runs" / "train1" / "weights" / "best.pt"
    assert best.is_file() and (folder / "data.yaml").is_file() and str(best) in capsys.readouterr().out
    assert command.main(["val", "--model", str(best), "--data", "photos"]) == 0
    assert command.main(["check", "--data", "photos"]) == 0 and "pictures" in capsys.readouterr().out


def test_the_customary_full_recipe_is_asked_for_by_name(monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(training, "full_recipe", lambda *a, **k: asked.update(k, a=a))
    monkeypatch.setattr(command, "_tell", lambda run: None)
    full = ["train", "--recipe", "full", "--data", "VOC.yaml"]
    assert command.main([*full, "--size", "s", "batch=16", "cos_lr=true", "device=0,1"]) == 0
    assert asked["a"] == ("VOC.yaml",) and asked["weights"] is None and asked["model"] == "yolo11s-tssa.yaml"
    assert asked["batch"] == 16 and asked["cos_lr"] is True
    words = [
        "train",
        "--recipe=full",
        "epochs=7",
        "--weights",
        "none",
        "imgsz=64",
        "--model",
        "yolo11n-tssa-p4p5.yaml",
        "--data",
        "VOC.yaml",
        "batch=2",
    ]
    assert command.main(words) == 0, "settings may stand anywhere"
    assert asked["weights"] is None and asked["model"] == "yolo11n-tssa-p4p5.yaml"
    assert (asked["epochs"], asked["imgsz"], asked["batch"]) == (7, 64, 2)
    assert command.main([*full, "--model", "best.pt"]) == 0 and asked["weights"] is None
    monkeypatch.setattr(training, "train", lambda *a, **k: asked.update(k, a=a))
    assert command.main(["train", "--data", "my.yaml", "--recipe", "scenes"]) == 0 and asked["weights"] is None
    assert command.main(["train", "--data", "my.yaml", "--recipe", "scenes", "--weights", "stock"]) == 0
    assert asked["weights"] == "yolo11n.pt" and asked["epochs"] == training.SCENES["epochs"]


def test_words_that_nobody_knows_end_with_the_usage(capsys):
    for words in (["train", "--data", "VOC.yaml", "--fast"], ["resume", "run", "epochs=3"]):
        with pytest.raises(SystemExit) as left:
            command.main(words)
        said = capsys.readouterr().err
        assert left.value.code == 2 and f"unrecognized arguments: {words[-1]}" in said
        assert ("a word like epochs=40" in said) == (words[0] == "train"), "how a setting is given, where there are any"


def test_the_help_shows_every_verb_and_examples(capsys):
    for words in (["--help"], ["train", "--help"]):
        with pytest.raises(SystemExit) as left:
            command.main(words)
        assert left.value.code == 0
    out = capsys.readouterr().out
    for word in (
        "train",
        "resume",
        "val",
        "predict",
        "export",
        "yolo",
        "--data my.yaml",
        "300 epochs",
        "COCO JSON",
        "--weights",
        "key=value",
    ):
        assert word in out


@pytest.mark.parametrize(
    "words, said",
    [
        (["train", "--data", "nowhere/my.yaml"], "expected a data YAML, found no file"),
        (["train", "--data", "VOC.yaml", "epcohs=3"], "got epcohs"),
        (["train", "--data", "VOC.yaml", "fast"], "expected settings as key=value, got fast"),
        (
            ["train", "--data", "VOC.yaml", "project=out", "name=one"],
            "expected --folder in place of name=…, --folder in place of project=…",
        ),
        (
            ["train", "--data", str(Path(training.__file__).with_name("yolo11-tssa.yaml"))],
            "expected the keys train, val and names",
        ),
        (
            ["predict", "--model", "yolo11n-tssa.yaml", "--source", "lost.png"],
            "expected a picture, found no file lost.png",
        ),
        (["export", "--model", "yolo11n-tssa.yaml", "--format", "rknn"], "expected an export with float32"),
        (["resume", "nowhere"], "expected the checkpoint of an interrupted training"),
        (["val", "--model", "nowhere.pt", "--data", "VOC.yaml"], "nowhere.pt"),
        (["train", "--data", "{boxes}", "--model", "yolo11n-tssa-seg.yaml", *QUICK], "Segment dataset requires"),
        (["train", "--data", "{boxes}", "--model", "yolo11n-tssa-pose.yaml", *QUICK], "No `kpt_shape`"),
    ],
)
def test_bad_input_is_one_line(words, said, capsys, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    assert command.main([str(data) if word == "{boxes}" else word for word in words]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("error: ") and said in errors[-1]


def test_a_terminal_without_our_letters_gets_them_spelled_out(tmp_path):
    """Help and reports hold letters outside ASCII; under LC_ALL=C Python would end in a UnicodeEncodeError."""
    plain = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}  # as LC_ALL=C makes them
    done = fresh_process("-m", "tssa_lib", "--help", cwd=tmp_path, **plain)
    assert done.returncode == 0 and "train" in done.stdout and "Traceback" not in done.stderr
    assert fresh_process("-c", "print('é')", cwd=tmp_path, **plain).returncode == 1, "else this test shows nothing"
