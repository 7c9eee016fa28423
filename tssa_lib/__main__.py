"""TSSA-YOLO from a shell: `tssa train | resume | check | val | predict | silence | lens | export …`, wherever the
package is installed; `python -m tssa_lib …` is the same.

A mistake of the user's ends in one line that says what was expected; any other error is a bug of ours and shows where
it happened (with --debug a mistake does, too).

examples:
  python -m tssa_lib check --data photos/                      what is in a data set, and what can't be used
  python -m tssa_lib train --data photos/                      by a recipe that is chosen for them, and said
  python -m tssa_lib train --data my.yaml --size s epochs=50   at scale s; any setting of Ultralytics
  python -m tssa_lib train --data my.yaml --model yolo11n-tssa-improved-p3p4p5.yaml
                                                               TSSA at strides 8, 16 and 32, its improved form
  python -m tssa_lib train --data my.yaml --model yolo11n-tssa-seg.yaml
                                                               masks; -pose: key points, -obb: oriented boxes
  python -m tssa_lib resume runs/train1                        go on after an interruption
  python -m tssa_lib val --model best.pt --data my.yaml imgsz=1280
  python -m tssa_lib silence --model best.pt --data my.yaml    the same metrics with TSSA switched off
  python -m tssa_lib predict --model best.pt --source photos/
  python -m tssa_lib export --model best.pt                    ONNX: runs without this package, at any picture size
  python -m tssa_lib lens                                      what TSSA sees in blood cells: lens.html, for a browser
  python -m tssa_lib lens --model best.pt --source photo.jpg   the same of one's own detector and picture
  python -m tssa_lib yolo track model=best.pt source=clip.mp4  Ultralytics' own command line, with TSSA in it

data: an Ultralytics data YAML; a folder of pictures with YOLO labels, COCO JSON or VOC XML; or one COCO JSON.
A best.pt opens wherever this package is installed, in Ultralytics' own command and in scripts, too. The names of models
(yolo11n-tssa.yaml) are known to `python -m tssa_lib yolo …`, and in scripts after `import tssa_lib.yolo`.
Checkpoints and YAMLs of strangers run no code here; a checkpoint that asks for some is refused
(ULTRALYTICS_SAFE_LOAD=False in the environment opens it all the same).
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from tssa_lib import __version__

PROGRAM = "tssa" if Path(sys.argv[0]).stem == "tssa" else "python -m tssa_lib"  # the same, by either name
HELP = "examples:" + (__doc__ or "").partition("examples:")[2]

OPTIONS = {"data": "--data", "model": "--model", "source": "--source", "format": "--format"}  # not as key=value
OF_TRAIN = {**OPTIONS, "project": "--folder", "name": "--folder", "exist_ok": "--folder", "resume": "the verb resume"}


def _settings(pairs: list[str], options: dict[str, str] = OPTIONS) -> dict[str, Any]:
    """key=value words as Ultralytics reads them: numbers, lists, true and none are what they look like."""
    import tssa_lib.yolo  # noqa: F401  (quiet, before Ultralytics)

    from ultralytics.cfg import DEFAULT_CFG_DICT, parse_key_value_pair

    wrong = [pair for pair in pairs if "=" not in pair[1:-1]]
    if wrong:
        raise ValueError(f"expected settings as key=value, got {' '.join(wrong)}")
    found = dict(parse_key_value_pair(pair) for pair in pairs)
    unknown = sorted(found.keys() - DEFAULT_CFG_DICT.keys())
    if unknown:
        raise ValueError(
            f"expected settings of Ultralytics (`python -m tssa_lib yolo cfg` lists them), got {', '.join(unknown)}"
        )
    taken = [f"{options[key]} in place of {key}=…" for key in found.keys() & options.keys()]
    if taken:
        raise ValueError(f"expected {', '.join(sorted(taken))}")
    return found


def _data(given: argparse.Namespace) -> Any:
    from tssa_lib import scenes

    return scenes.make_scenes(progress=True) if given.data == "scenes" else given.data


def _tell(run: Any) -> None:
    print(f"\n{run}")
    for label, path in (
        ("best weights", run.best),
        ("last weights", run.last),
        ("epoch by epoch", run.folder / "results.csv"),
        ("all settings", run.folder / "args.yaml"),
    ):
        print(f"  {label:14} {path}")
    print(f"next: python -m tssa_lib predict --model '{run.best}' --source YOUR_IMAGES")


# ---- the verbs -----------------------------------------------------------------------------------------------
SWITCHES = ("normalize", "temp", "head_width", "tied")


def _model(given: argparse.Namespace) -> str:
    """The model that the options of `train` ask for: a name, a checkpoint, or a plan that is written for them."""
    from tssa_lib import yolo
    from tssa_lib.paths import data_dir

    from ultralytics.utils import YAML

    switches = {name: getattr(given, name) for name in SWITCHES if getattr(given, name) is not None}
    size = given.size or "n"
    if given.model:
        if given.places or given.block or switches:
            raise ValueError("expected --model, or --places, --block and switches, got both")
        named = re.search(r"yolo\d+([nsmlx])", Path(given.model).name)
        if given.size and named and named[1] != given.size:
            raise ValueError(f"expected one scale, got --size {given.size} and --model {given.model}")
        if given.size and not named:
            raise ValueError(f"expected --size with a model that has scales by name, got --model {given.model}")
        return given.model
    if not (given.places or given.block or switches):
        return f"yolo11{size}-tssa.yaml"
    places = [place.strip().upper() for place in (given.places or "P5").split(",")]
    plan = yolo.with_attention(places, yolo.NAMES[given.block or "tssa"], **switches)
    words = [given.block or "tssa", *places, *(f"{key}_{value}" for key, value in switches.items())]
    path = data_dir() / "plans" / f"yolo11{size}-{'-'.join(words).lower()}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    YAML.save(path, plan)
    return str(path)


def train(given: argparse.Namespace) -> None:
    from tssa_lib import train as training

    settings = {"folder": given.folder, "drop_bad": given.drop_bad, **_settings(given.settings, OF_TRAIN)}
    model, size, weights = _model(given), given.size or "n", given.weights
    if weights == "stock":
        weights = training.stock_weights(size, download=True)
    elif weights is None and given.recipe in ("auto", "full"):
        weights = training.stock_weights(size, model)
    settings["weights"] = None if weights == "none" else weights
    data = _data(given)
    if given.recipe == "full":
        _tell(training.full_recipe(data, model=model, size=size, **settings))
    elif given.recipe == "auto":
        asked, network = {k: settings.pop(k) for k in ("folder", "drop_bad", "weights")}, training.open_model(model)
        data = training.check_data(data)["yaml_file"]
        _tell(training.train(data, network, **asked, **training.auto(data, network, asked["weights"], **settings)))
    else:
        _tell(training.train(data, model=model, **{**training.RECIPES[given.recipe], **settings}))


def resume(given: argparse.Namespace) -> None:
    from tssa_lib.train import resume as go_on

    _tell(go_on(given.run, data=given.data))


def check(given: argparse.Namespace) -> None:
    from tssa_lib.dataset import describe, report

    print(report(describe(_data(given))))


def val(given: argparse.Namespace) -> None:
    from tssa_lib.train import validate

    totals, per_class = validate(given.model, _data(given), **_settings(given.settings))
    for name, value in {**totals, **{f"mAP50 of {c}": v for c, v in per_class.items()}}.items():
        print(f"{name:24} {value:.4f}")


def silence(given: argparse.Namespace) -> None:
    from tssa_lib.train import silenced

    rows = silenced(given.model, _data(given), **_settings(given.settings))
    whole = rows["as it is"]
    metrics = [name for name in whole if "mAP50" in name]
    print(f"{'':32}" + "".join(f"{name:>14}{'change':>9}" for name in metrics))
    for name, found in rows.items():
        print(f"{name:32}" + "".join(f"{found[m]:14.3f}{found[m] - whole[m]:+9.3f}" for m in metrics))


def predict(given: argparse.Namespace) -> None:
    from tssa_lib.paths import runs_dir
    from tssa_lib.train import predict as detect

    place = dict(save=True, project=str(runs_dir()), name="predict")
    results = detect(given.model, given.source, **{**place, **_settings(given.settings)})
    for result in results:
        print(f"{result.path}: {result.verbose().rstrip(', ') or 'nothing'}")
    if results and results[0].save_dir:
        print(f"{len(results)} pictures with their boxes: {results[0].save_dir}")


def export(given: argparse.Namespace) -> None:
    from tssa_lib.train import export as write

    print(f"wrote {write(given.model, given.format, **_settings(given.settings))}")


def lens(given: argparse.Namespace) -> None:
    from tssa_lib.lens import Lens, example

    if given.source is None:
        given.source, given.other = example()
    page = Lens(given.model, given.source, given.other, imgsz=given.imgsz, conf=given.conf)
    print(f"{page.data['sentence']}\n{page.save(given.out)}: open it in a browser")


def yolo(words: list[str]) -> None:
    """Ultralytics' own command line in this process, where our block is registered."""
    import tssa_lib.yolo  # noqa: F401  (registers)

    from ultralytics.cfg import entrypoint

    sys.argv[:] = ["yolo", *words]  # in place: Ultralytics holds this very list, and saves pictures for `yolo predict`
    entrypoint()


# ---- the words -----------------------------------------------------------------------------------------------
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train, measure, use and export YOLO11 with TSSA.",
        epilog=HELP.replace("python -m tssa_lib", PROGRAM),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tssa_lib {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, does: Any, says: str, settings: bool = True) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=says, description=says[0].upper() + says[1:] + ".")
        one.set_defaults(does=does)
        one.add_argument("--debug", action="store_true", help="show where an error came from, also a mistake of yours")
        if settings:
            text = f"any setting of Ultralytics, e.g. imgsz=640 device=0 (`{PROGRAM} yolo cfg` lists them)"
            one.add_argument("settings", nargs="*", metavar="key=value", help=text)
        return one

    data = 'data YAML; folder of pictures with YOLO labels, COCO JSON or VOC XML; or "scenes", the lessons\' own'
    one = verb("train", train, "train a detector on your pictures, say how good it is and where everything lies")
    one.add_argument("--data", required=True, help=data)
    one.add_argument("--size", choices="nsmlx", help="scale of the model, from nano to extra large (default: n)")
    one.add_argument(
        "--model", help="model YAML, e.g. yolo11n-tssa-p4p5.yaml, or a checkpoint (default: yolo11<size>-tssa.yaml)"
    )
    own = one.add_argument_group("attention of one's own, in place of --model")
    own.add_argument("--places", help="where it stands, e.g. P3,P4,P5: strides 8, 16, 32 (default: P5, as in YOLO11)")
    own.add_argument("--block", choices=("tssa", "psa", "plain"), help="tssa (default), stock softmax attention, none")
    own.add_argument(
        "--normalize", choices=("tokens", "rms", "none", "code"), help="what memberships are computed from: tokens as "
        "published (default), rms, which keeps its strength at every picture size, … (lesson 6)",
    )  # fmt: skip
    own.add_argument("--temp", type=float, help="temperature θ of the memberships at the start (default: 1)")
    own.add_argument("--head-width", type=int, help="channels of one head (default: 64, or what leaves two heads)")
    own.add_argument("--tied", action="store_const", const=True, help="the output map is the projection, transposed")
    one.add_argument(
        "--weights",
        help="carried over before training: none, stock (yolo11<size>.pt, downloaded if need be), or a checkpoint "
        "(default: yolo11<size>.pt if it lies here, without asking the network)",
    )
    one.add_argument(
        "--recipe",
        choices=("auto", "full", "small", "scenes"),
        default="auto",
        help="auto: looks at pictures and machine, says what it chose and why (default); full: 300 epochs, 640 px, "
        "batch 64, SGD, for thousands of pictures and GPUs; small: 16 epochs at 256 px; scenes: 15 at 128 px",
    )
    one.add_argument("--folder", help="where the run is written, new or empty (default: runs/train<number>)")
    one.add_argument("--drop-bad", action="store_true", help="leave out images that can't be used instead of stopping")
    one = verb("resume", resume, "go on with an interrupted training", settings=False)
    one.add_argument("run", help="its folder, or a checkpoint in it")
    one.add_argument("--data", help="the data, if they have moved")
    one = verb(
        "check",
        check,
        "say what is in a data set: classes, sizes, odd boxes, pictures in two splits, what can't be used",
        settings=False,
    )
    one.add_argument("--data", required=True, help=data)
    one = verb("val", val, "measure a model on the validation pictures of a data set")
    one.add_argument("--model", required=True, help="checkpoint or exported file")
    one.add_argument("--data", required=True, help=data)
    one = verb(
        "silence",
        silence,
        "measure a model with TSSA as it is, and with each layer's switched off: what is lost was used",
    )
    one.add_argument("--model", required=True, help="checkpoint")
    one.add_argument("--data", required=True, help=data)
    one = verb("predict", predict, "detect objects in pictures, and write them with their boxes to runs/predict")
    one.add_argument("--model", required=True, help="checkpoint or exported file")
    one.add_argument("--source", required=True, help="picture, folder, pattern, video or URL")
    one = verb("export", export, "write a checkpoint in another format, beside it")
    one.add_argument("--model", required=True, help="checkpoint")
    one.add_argument("--format", default="onnx", help="onnx, torchscript, openvino, … (default: onnx)")
    one = verb("lens", lens, "show memberships and gates of a model on a picture, as a page to open", settings=False)
    one.add_argument(
        "--model",
        default="blood_cells",
        help="detector with TSSA: checkpoint, or blood_cells, which comes with the checkout (default)",
    )
    one.add_argument("--source", help="picture (default: blood cells)")
    one.add_argument("--other", help="another picture, whose gates are tried in place of the picture's own")
    one.add_argument("--out", default="lens.html", help="the page that is written (default: lens.html)")
    one.add_argument("--imgsz", type=int, help="longest side in pixels (default: what the model was trained at)")
    one.add_argument("--conf", type=float, default=0.25, help="show boxes from this confidence up (default: 0.25)")
    verbs.add_parser("yolo", help="Ultralytics' own command line, with TSSA registered", add_help=False)
    return parser


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    for stream in (sys.stdout, sys.stderr):  # a terminal without our letters gets them spelled out
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if words[:1] == ["yolo"]:
        yolo(words[1:])
        return 0
    parser = _parser()
    given, rest = parser.parse_known_args(words)  # the rest: settings between and behind options
    if rest and (not hasattr(given, "settings") or any(word.startswith("-") for word in rest)):
        hint = "; a setting of Ultralytics is a word like epochs=40" if hasattr(given, "settings") else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    try:
        if rest:
            given.settings += rest
        given.does(given)
        sys.stdout.flush()
    except KeyboardInterrupt as stopped:
        print(f"\nstopped. {stopped}".rstrip(), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _told(error, given.debug)
    return 0


def _told(error: Exception, debug: bool) -> int:
    """Say what went wrong: a mistake in a line, a bug with its traceback."""
    mistake = is_mistake(error)
    if debug or not mistake:
        traceback.print_exception(error)
    if mistake:
        print(f"error: {error}", file=sys.stderr)
    else:
        print("error: this is a bug of ours, or of a library; please report the lines above", file=sys.stderr)
    return 1


def is_mistake(error: BaseException) -> bool:
    """Whether a user can mend it: our own errors begin with "expected", and Ultralytics checks what it is given.

    >>> is_mistake(ValueError("expected imgsz of 32 pixels or more, got 0")), is_mistake(ValueError("shapes"))
    (True, False)
    """
    if str(error).startswith("expected"):
        return True
    if isinstance(error, (FileNotFoundError, PermissionError, ModuleNotFoundError)):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    last = Path(frames[-1].filename).as_posix() if frames else ""
    checking = ("cfg/__init__.py", "utils/checks.py", "data/utils.py", "data/dataset.py", "engine/exporter.py")
    return last.endswith(tuple(f"ultralytics/{file}" for file in (*checking, "models/yolo/pose/train.py")))


if __name__ == "__main__":
    sys.exit(main())
