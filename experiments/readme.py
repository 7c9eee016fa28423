"""The map and figures of both READMEs, read from the lessons and from committed results: `make readme` writes them.

A figure stands in README between two marks (`<!-- name -->`); each mark has a function here that gives its lines,
which `readme_zh` says in Chinese.
"""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import nbformat

from experiments import readme_zh
from kit import results_cells as cells
from kit import results_needs as needs
from kit import results_placements as placements
from kit.places import NOTEBOOKS, RESULTS, result
from kit.places import ROOT as REPO
from kit.results_trial import compare

FROM_TO = {
    "00": "a photo and its groups; the map",
    "01": "tokens → R(Z)",
    "02": "R − R_c, the MCR² objective",
    "03": "one gradient step → MSSA (CRATE), quadratic",
    "04": "Theorem 1, the gap, p < d",
    "05": "the variational rate → TSSA, the step-size theorem",
    "06": "Π, on photos",
    "07": "formula → the layer that people run",
    "08": "the block, trained on digits",
    "09": "cost, rivals, roofline",
    "10": "where attention lives; C2TSSA in its place",
    "11": "a positive control; when attention pays, and when it can't",
    "12": "train, look, measure, export",
}


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


# ---- the map ---------------------------------------------------------------------------------------------------
def lesson_map() -> list[str]:
    """A row a lesson: title, what it leads from and to, minutes and seconds, as the lesson's head says them."""
    rows = [row("", "lesson", "from → to", "read", "run"), "|---|---|---|---|---|"]
    for notebook in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        number, head = notebook.name[:2], nbformat.read(notebook, as_version=4).cells[0].source
        title = re.search(r"^# Lesson \d+ · (.+)$", head, re.M)[1]
        minutes, seconds = re.search(r"about (\d+) minutes to read, (?:about )?(\d+) seconds to run", head).groups()
        link = f"[{title}](notebooks/{notebook.name})"
        rows.append(row(number, link, FROM_TO[number], f"{minutes} min", f"{seconds} s"))
    return rows


# ---- what is measured --------------------------------------------------------------------------------------------
def measured() -> list[str]:
    """The table of figures, each with the file that it is read from."""
    parts = (
        ledger_rows,
        needs_rows,
        capacity_rows,
        blood_rows,
        trial_rows,
        ready_rows,
        recipe_rows,
        time_rows,
        placement_rows,
        tost_rows,
    )
    return [row("what", "figure", "from"), "|---|---|---|", *(line for part in parts for line in part())]


def ledger_rows() -> list[str]:
    text = (NOTEBOOKS / "EQUATIONS.md").read_text(encoding="utf-8")
    total, checked = re.search(r"^(\d+) numbered equations: (\d+) checked", text, re.M).groups()
    link = "[EQUATIONS.md](notebooks/EQUATIONS.md)"
    return [row("numbered equations, of them checked at every run", f"{total}, {checked}", link)]


def needs_rows() -> list[str]:
    asked = result("needs")
    rows, lines = asked["rows"], []
    networks = {"local": "a detector whose convolutions see a part of the scene", "yolo11n": "YOLO11n itself"}
    for network, says in networks.items():
        only = {"task": "rare", "network": network}
        level = needs.interval(list(needs.by_block(rows, **only)["none"].values()))[0]
        blocks = [b for b in needs.by_block(rows, **only) if b != "none"]
        each = ", ".join(f"{b} {cells.interval(needs.paired(rows, b, 'none', **only))}" for b in blocks)
        silenced = needs.left(rows, "TSSA improved", "silenced", **only)
        what = (
            f"which colour is rare? {says}: mAP50, {len(needs.by_block(rows, **only)['none'])} seeds, difference "
            "from no attention, 95 % interval"
        )
        told = f"{level:.2f} without attention; {each}; TSSA improved, trained and then silenced: {mean(silenced):.2f}"
        lines.append(row(what, told, "[needs.json](data/results/needs.json)"))
    return lines


def blood_rows() -> list[str]:
    blood = result("blood_cells")
    each = ", ".join(f"{d['arm']} {cells.interval(d)}" for d in cells.differences(blood))
    used = ", ".join(
        f"{d['arm']} {cells.interval(d)}" for d in cells.use_differences(blood) if d["intervention"] == "silenced"
    )
    seeds = cells.differences(blood)[0]["seeds"]
    link = "[blood_cells.json](data/results/blood_cells.json)"
    return [
        row(
            f"blood cells, test pictures: mAP50, {seeds} seeds, difference from no attention at the same places",
            each,
            link,
        ),
        row("the same detectors silenced, minus untouched, validation pictures", used, link),
    ]


def trial_rows() -> list[str]:
    trial, again, switches = (result(name) for name in ("trial", "again", "switches"))
    form = trial["form"]
    tried = compare(trial["rows"]) + compare(again["rows"])
    turned = [r for r in compare(switches["rows"], "mAP50", "tssa") if r["block"] != "none"]

    def seen(rows: list[dict]) -> str:
        return f"{sum(r['low'] > 0 or r['high'] < 0 for r in rows)} of {len(rows)}"

    what = (
        f"the fair trial: attention in YOLO11n against none on digit scenes of {form['size']} px, "
        f"{form['seeds']} seeds; intervals that exclude zero"
    )
    return [
        row(what, seen(tried), "[trial.json](data/results/trial.json), [again.json](data/results/again.json)"),
        row(
            "one switch of TSSA at a time against the published form",
            seen(turned),
            "[switches.json](data/results/switches.json)",
        ),
    ]


def time_rows() -> list[str]:
    speed = result("linear_time")
    seconds = {
        (r["dim"], r["N"], r["pass"]): {name: s["median"] for name, s in r["seconds"].items()} for r in speed["layer"]
    }

    def faster(N: int) -> str:
        r = seconds[128, N, "forward"]
        return f"{r['softmax (SDPA)'] / min(r['fast'], r['compiled']):.1f}"

    def overhead(N: int) -> str:
        r = seconds[128, N, "forward"]
        return f"{(min(r['fast'], r['compiled']) - r['floor']) / (r['published'] - r['floor']):.2f}"

    sizes = (1600, 6400, 25600)
    return [
        row(
            "TSSA (eager or compiled, the faster) against softmax attention (SDPA), forward, width 128, "
            f"{speed['threads']} CPU thread(s), load {speed['load']:.1f}",
            f"{', '.join(map(faster, sizes))} times as fast at 1,600, 6,400, 25,600 tokens",
            "[linear_time.json](data/results/linear_time.json)",
        ),
        row(
            "what our TSSA costs beyond its two linear maps, as a share of what the published order costs",
            f"{', '.join(map(overhead, (400, *sizes)))} at 400, 1,600, 6,400, 25,600 tokens",
            "the same",
        ),
    ]


def placement_rows() -> list[str]:
    places, alone = result("placements"), result("stock_vs_tssa")

    def at(block: str, where: str, size: int) -> dict:
        return placements.find(places["rows"], block, where, size)

    def over_sdpa(what: str) -> str:
        of = lambda block, size: placements.find(alone["rows"], block, "p5", size)[what]
        return ", ".join(f"{of('tssa', size) / of('sdpa', size):.2f}" for size in placements.SIZES)

    def milliseconds(block: str, where: str) -> str:
        return f"{at(block, where, 640)['wall_ms']:.0f} ms"

    blocks = ", ".join(f"{name} {milliseconds(block, 'p3p4p5')}" for block, name in placements.BLOCKS.items())
    tssa, softmax = at("tssa", "p3p4p5", 1920), at("sdpa", "p3p4p5", 1920)
    return [
        row(
            f"TSSA-YOLO11n over YOLO11n with softmax by SDPA, one picture at 640, 1,280, 1,920 px, "
            f"{alone['threads']} CPU threads",
            f"time {over_sdpa('wall_ms')}; memory {over_sdpa('peak_mib')}",
            "[stock_vs_tssa.json](data/results/stock_vs_tssa.json)",
        ),
        row(
            f"YOLO11n with a block at P3, P4 and P5, one picture of 640 px, {places['threads']} CPU thread",
            f"{blocks}; YOLO11n as it is (softmax, written out, at P5 alone) {milliseconds('psa', 'p5')}",
            "[placements.json](data/results/placements.json)",
        ),
        row(
            "the same of 1,920 px: softmax (SDPA) over TSSA",
            f"time {softmax['wall_ms'] / tssa['wall_ms']:.1f}, multiply–adds {softmax['macs'] / tssa['macs']:.1f}, "
            f"memory {softmax['peak_mib'] / tssa['peak_mib']:.2f}",
            "the same",
        ),
    ]


def tost_rows() -> list[str]:
    tost = result("tost_digits")

    def of(variant: str) -> list[dict]:
        return [r for r in tost["runs"] if r["variant"] == variant]

    def accuracy(variant: str) -> str:
        return f"{variant} {mean(r['accuracy'] for r in of(variant)):.3f}"

    def lower(variant: str) -> str:
        blocks = [block for r in of(variant) for block in r["trained"]]
        return f"{variant} {sum(b['after'] < b['before'] for b in blocks)} of {len(blocks)}"

    return [
        row(
            f"ToST on 8×8 digits, θ = 1, {tost['seeds']} seeds, held-out accuracy",
            f"{accuracy('tied')}, {accuracy('untied')}",
            "[tost_digits.json](data/results/tost_digits.json)",
        ),
        row(
            "its trained blocks whose TSSA step lowers the variational rate",
            f"{lower('tied')}, {lower('untied')}",
            "the same",
        ),
    ]


def ready_rows() -> list[str]:
    ready = result("blood_cells_ready")
    recipe = ready["recipe"]
    test = next(r for r in ready["rows"] if r["split"] == "test")
    each = ", ".join(f"{name} {value:.2f}" for name, value in test["per_class"].items())
    return [
        row(
            f"the ready detector of blood cells (TSSA at P3, P4, P5; {recipe['epochs']} epochs at "
            f"{recipe['imgsz']} px, one seed), on the test pictures",
            f"mAP50 {test['mAP50']:.3f} ({each})",
            "[blood_cells_ready.json](data/results/blood_cells_ready.json)",
        )
    ]


def recipe_rows() -> list[str]:
    """The recipe that looks beside Ultralytics' default, once it is measured."""
    if not (RESULTS / "recipes.json").is_file():
        return []
    rows, lines = result("recipes")["rows"], []
    for name in dict.fromkeys(r["set"] for r in rows):
        of = {(r["recipe"], r["seed"]): r for r in rows if r["set"] == name}
        seeds = sorted({seed for _, seed in of})
        found = {recipe: [of[recipe, seed]["mAP50"] for seed in seeds] for recipe in ("default", "auto")}
        apart = ", ".join(f"{a - b:+.3f}" for a, b in zip(found["auto"], found["default"]))
        asked = of["auto", seeds[0]]["asked"]
        what = (
            f"{name}: the recipe that looks (`auto`) beside Ultralytics' default, mAP50 after {asked['epochs']} epochs "
            f"at {asked['imgsz']} px from scratch, {len(seeds)} seeds"
        )
        figure = f"{mean(found['auto']):.3f} against {mean(found['default']):.3f}; differences {apart}"
        lines.append(row(what, figure, "[recipes.json](data/results/recipes.json)"))
    return lines


def capacity_rows() -> list[str]:
    capacity = result("capacity")
    lines = []
    asked = (("twin", "has this token a twin of its colour?"), ("rare", "is its colour the rarer of two?"))
    for task, says in asked:
        of = [r for r in capacity["rows"] if (r["task"], r["colours"]) == (task, 48)]
        for width in sorted({r["width"] for r in of}):
            rows = [r for r in of if r["width"] == width]
            only = {"task": task, "width": width, "colours": 48}
            found = needs.by_block(rows, "AP", **only)
            each = ", ".join(f"{block} {mean(values.values()):.2f}" for block, values in found.items())
            above = needs.paired(rows, "softmax", "TSSA improved", "AP", **only)
            what = (
                f"sets of {capacity['tokens']} tokens, 48 colours, width {width}, "
                f"{len(found['softmax'])} seeds, chance {rows[0]['chance']:.2f}: {says} Mean average precision"
            )
            told = (
                f"{each}; softmax minus TSSA improved {above['mean']:+.2f} [{above['low']:+.2f}, {above['high']:+.2f}]"
            )
            lines.append(row(what, told, "[capacity.json](data/results/capacity.json)"))
    return lines


# ---- the file ----------------------------------------------------------------------------------------------------
MARKS: dict[str, Callable[[], list[str]]] = {"map": lesson_map, "measured": measured}
LANGUAGES: dict[str, Callable[[list[str]], list[str]]] = {"README.md": list, "README.zh-CN.md": readme_zh.lines}


def written(name: str = "README.md") -> str:
    """A README with the lines of every mark anew."""
    text = (REPO / name).read_text(encoding="utf-8")
    for mark, lines in MARKS.items():
        before, found, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"<!-- /{mark} -->")
        if not found or not end:
            raise ValueError(f"expected <!-- {mark} --> and <!-- /{mark} --> in {name}, found neither or one")
        text = before + found + "\n".join(LANGUAGES[name](lines())) + "\n" + end + after
    return text


def answers() -> Path:
    """The answers in one figure, drawn from the committed results."""
    figure = needs.answers_figure(*(result(name) for name in ("needs", "capacity", "linear_time")))
    figure.savefig(RESULTS / "answers.png", dpi=110, metadata={"Software": None})
    return RESULTS / "answers.png"


def main() -> None:
    for name in LANGUAGES:
        (REPO / name).write_text(written(name), encoding="utf-8")
    sys.stdout.write(f"wrote {', '.join(LANGUAGES)} and {answers().relative_to(REPO)}\n")


if __name__ == "__main__":
    main()
