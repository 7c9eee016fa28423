"""TSSA-YOLO from a shell: `python -m tssa_lib train | resume | val | predict | export | yolo …` (lesson 11 uses the same calls)."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tssa_lib import __version__

EXAMPLES = """\
examples:
  python -m tssa_lib train --data VOC.yaml                     the customary recipe: 300 epochs, 640 px, batch 64, mixed
                                                               precision, the weights of yolo11n.pt carried over
  python -m tssa_lib train --data my.yaml --size s batch=16    the same at scale s; any setting of Ultralytics as key=value
  python -m tssa_lib train --data scenes --recipe scenes       the lessons' digit scenes, in minutes on a CPU, no network
  python -m tssa_lib resume data/runs/train1                   go on after an interruption
  python -m tssa_lib val --model best.pt --data my.yaml imgsz=1280
  python -m tssa_lib predict --model best.pt --source photos/
  python -m tssa_lib export --model best.pt --format onnx imgsz=640
  python -m tssa_lib lens                                      what TSSA sees in blood cells: lens.html, for a browser
  python -m tssa_lib lens --model best.pt --source photo.jpg   the same of one's own detector and picture
  python -m tssa_lib yolo track model=best.pt source=clip.mp4  Ultralytics' own command line, with TSSA registered

`python -m tssa_lib train --help` says what each option of a command does.
"""


OPTIONS = {"data": "--data", "model": "--model", "source": "--source", "format": "--format"}  # not as key=value
OF_TRAIN = {**OPTIONS, "project": "--folder", "name": "--folder", "exist_ok": "--folder"}


def _settings(pairs: list[str], options: dict[str, str] = OPTIONS) -> dict[str, Any]:
    """key=value words as Ultralytics reads them: numbers, lists, true and none are what they look like."""
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


def train(given: argparse.Namespace) -> None:
    from tssa_lib import train as training

    settings = {"folder": given.folder, "drop_bad": given.drop_bad, **_settings(given.settings, OF_TRAIN)}
    if given.weights is None:
        settings["weights"] = training.stock_weights(given.size, given.model) if given.recipe == "full" else None
    else:
        settings["weights"] = {"none": None, "stock": training.stock_weights(given.size)}.get(
            given.weights, given.weights
        )
    settings["model"] = given.model or f"yolo11{given.size}-tssa.yaml"
    if given.recipe == "full":
        _tell(training.full_recipe(_data(given), **settings))
    else:
        _tell(training.train(_data(given), **{**training.SCENES, **settings}))


def resume(given: argparse.Namespace) -> None:
    from tssa_lib.train import resume as go_on

    _tell(go_on(given.run))


def val(given: argparse.Namespace) -> None:
    from tssa_lib.train import validate
    from tssa_lib.weights import load

    totals, per_class = validate(load(given.model), _data(given), **_settings(given.settings))
    for name, value in {**totals, **{f"mAP50 of {c}": v for c, v in per_class.items()}}.items():
        print(f"{name:24} {value:.4f}")


def predict(given: argparse.Namespace) -> None:
    from tssa_lib.paths import data_dir
    from tssa_lib.train import predict as detect
    from tssa_lib.weights import load

    place = dict(save=True, project=str(data_dir() / "runs"), name="predict")
    results = detect(load(given.model), given.source, **{**place, **_settings(given.settings)})
    for result in results:
        print(f"{result.path}: {result.verbose().rstrip(', ') or 'nothing'}")
    if results and results[0].save_dir:
        print(f"{len(results)} pictures with their boxes: {results[0].save_dir}")


def export(given: argparse.Namespace) -> None:
    from tssa_lib.train import export as write
    from tssa_lib.weights import load

    print(f"wrote {write(load(given.model), given.format, **_settings(given.settings))}")


def lens(given: argparse.Namespace) -> None:
    from tssa_lib.lens import Lens, example

    if given.source is None:
        given.source, given.other = example()
    page = Lens(given.model, given.source, given.other, imgsz=given.imgsz, conf=given.conf)
    print(f"{page.data['sentence']}\n{page.save(given.out)}: open it in a browser")


def yolo(words: list[str]) -> None:
    """Ultralytics' own command line in this process, where our block is registered."""
    from ultralytics.cfg import entrypoint

    import tssa_lib.yolo  # noqa: F401  (registers)

    sys.argv[:] = ["yolo", *words]  # in place: Ultralytics holds this very list, and saves pictures for `yolo predict`
    entrypoint()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tssa_lib",
        description="Train, measure, use and export YOLO11 with TSSA.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tssa_lib {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, does: Any, says: str, settings: bool = True) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=says, description=says[0].upper() + says[1:] + ".")
        one.set_defaults(does=does)
        if settings:
            one.add_argument(
                "settings", nargs="*", metavar="key=value", help="any setting of Ultralytics, e.g. imgsz=640"
            )
        return one

    one = verb("train", train, "train on a data YAML, then say how good it is and where everything lies")
    one.add_argument(
        "--data",
        required=True,
        help='data YAML (own, or "VOC.yaml", "coco8.yaml", …), or "scenes": the digit scenes of the lessons',
    )
    one.add_argument(
        "--size", choices="nsmlx", default="n", help="scale of the model, from nano to extra large (default: n)"
    )
    one.add_argument(
        "--model", help="model YAML, e.g. yolo11n-tssa-p4p5.yaml, or a checkpoint (default: yolo11<size>-tssa.yaml)"
    )
    one.add_argument(
        "--weights",
        help="carried over before training: stock (yolo11<size>.pt, downloaded if need be), none, or a "
        "checkpoint (default: stock; none for --recipe scenes or a trained --model)",
    )
    one.add_argument(
        "--recipe",
        choices=("full", "scenes"),
        default="full",
        help="full: 300 epochs, 640 px, batch 64, SGD, mixed precision; scenes: a few epochs at 128 px, for the digit scenes",
    )
    one.add_argument("--folder", help="where the run is written, new or empty (default: data/runs/train<number>)")
    one.add_argument("--drop-bad", action="store_true", help="leave out images that can't be read instead of stopping")
    one = verb("resume", resume, "go on with an interrupted training", settings=False)
    one.add_argument("run", help="its folder, or its last.pt")
    one = verb("val", val, "measure a checkpoint on the validation images of a data YAML")
    one.add_argument("--model", required=True, help="checkpoint, e.g. data/runs/train1/weights/best.pt")
    one.add_argument("--data", required=True, help='data YAML, or "scenes"')
    one = verb("predict", predict, "detect objects in a picture or a folder, and draw the boxes")
    one.add_argument("--model", required=True, help="checkpoint")
    one.add_argument("--source", required=True, help="picture, folder, pattern, video or URL")
    one = verb("export", export, "write a checkpoint in another format")
    one.add_argument("--model", required=True, help="checkpoint")
    one.add_argument("--format", default="onnx", help="onnx, torchscript, openvino, … (default: onnx)")
    one = verb("lens", lens, "show memberships and gates of a model on a picture, as a page to open", settings=False)
    one.add_argument(
        "--model",
        default="blood_cells",
        help="detector with TSSA: checkpoint, or blood_cells, which is ready (default)",
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
    if words[:1] == ["yolo"]:
        yolo(words[1:])
        return 0
    parser = _parser()
    given, rest = parser.parse_known_args(words)  # the rest: settings between and behind options
    if rest and (not hasattr(given, "settings") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if rest:
            given.settings += rest
        given.does(given)
    except (
        ValueError,
        OSError,
        ImportError,
        AssertionError,
        TypeError,
        SyntaxError,
        RuntimeError,
    ) as error:  # what a user can mend
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
