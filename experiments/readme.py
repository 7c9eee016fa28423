"""README's map and figures, read from the lessons and from committed results: `python -m experiments.readme` writes them."""

import json
import re
import sys

import nbformat

from kit.places import RESULTS
from kit.places import ROOT as REPO
from tssa_lib.train import SCENES

FROM_TO = [
    "a photo and its groups; notation; the map",
    "tokens → R(Z)",
    "R − R_c, the MCR² objective",
    "one gradient step → MSSA (CRATE), quadratic",
    "Theorem 1, the gap, p < d",
    "the variational rate → TSSA, the step-size theorem",
    "Π, on photos",
    "formula → the layer that people run",
    "the block, trained on digits",
    "cost, rivals, roofline",
    "where attention lives; C2TSSA; a fair trial",
    "train, look, measure, export",
]


def results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def lesson_map() -> list[str]:
    rows = ["| | lesson | from → to | read | run |", "|---|---|---|---|---|"]
    for notebook, says in zip(sorted((REPO / "notebooks").glob("[0-9]*.ipynb")), FROM_TO, strict=True):
        head = nbformat.read(notebook, as_version=4).cells[0].source
        title = re.search(r"^# Lesson \d+ · (.+)$", head, re.M)[1]
        minutes, seconds = re.search(r"about (\d+) minutes to read, (?:about )?(\d+) seconds to run", head).groups()
        rows.append(
            f"| {notebook.name[:2]} | [{title}](notebooks/{notebook.name}) | {says} | {minutes} min | {seconds} s |"
        )
    return rows


def trained() -> dict[str, tuple[str, str, str]]:
    """{"TSSA" | "stock": (mAP50, mAP50-95, seconds)} of the stored last lesson."""
    notebook = nbformat.read(REPO / "notebooks" / "11_train_tssa_yolo.ipynb", as_version=4)
    text = "\n".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    found = re.findall(r"^(TSSA|stock) +\d+ epochs in (\d+) s: mAP50 ([\d.]+), mAP50-95 ([\d.]+)", text, re.M)
    return {name: (a, b, s) for name, s, a, b in found}


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def measured() -> list[str]:
    ledger = (REPO / "notebooks" / "EQUATIONS.md").read_text(encoding="utf-8")
    total, checked = re.search(r"^(\d+) numbered equations: (\d+) checked", ledger, re.M).groups()
    tssa, stock = trained()["TSSA"], trained()["stock"]
    speed, tost, places = results("linear_time"), results("tost_digits"), results("placements")
    layer = {(r["dim"], r["N"], r["pass"]): {k: v["median"] for k, v in r["seconds"].items()} for r in speed["layer"]}

    def ratio(N: int) -> str:
        r = layer[128, N, "forward"]
        return f"{r['softmax (SDPA)'] / min(r['fast'], r['compiled']):.1f}"

    def overhead(N: int) -> str:
        r = layer[128, N, "forward"]
        return f"{(min(r['fast'], r['compiled']) - r['floor']) / (r['published'] - r['floor']):.2f}"

    def runs(tied: bool) -> list[dict]:
        return [r for r in tost["runs"] if r["variant"] == ("tied" if tied else "untied")]

    def lower(rs: list[dict]) -> str:
        blocks = [b for r in rs for b in r["trained"]]
        return f"{sum(b['after'] < b['before'] for b in blocks)} of {len(blocks)}"

    def macs(block: str, size: int) -> float:
        return (
            next(
                r["macs"] for r in places["rows"] if r["model"] == f"yolo11n-{block}-p3p4p5.yaml" and r["size"] == size
            )
            / 1e9
        )

    trial, alone = results("trial"), results("stock_vs_tssa")["rows"]

    def tried(difficulty: str, trial: dict = trial, against: str = "none") -> str:
        found = {
            r["block"]: r
            for r in trial["differences"]
            if (r["metric"], r["against"], r["difficulty"]) == ("mAP50", against, difficulty) and r["block"] != "none"
        }
        level = next(iter(found.values()))["level"]
        return f"{level:.3f} {'without attention' if against == 'none' else 'published'}; " + ", ".join(
            f"{block} {r['mean']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]" for block, r in found.items()
        )

    def beside(what: str) -> str:
        return ", ".join(f"{b[what] / a[what]:.2f}" for a, b in zip(alone[::2], alone[1::2]))

    form = trial["form"]
    return [
        "| what | figure | from |",
        "|---|---|---|",
        f"| numbered equations, of them checked at every run | {total}, {checked} | [EQUATIONS.md](notebooks/EQUATIONS.md) |",
        f"| TSSA-YOLO11n on digit scenes of 128 px, {SCENES['epochs']} epochs from scratch, one seed | mAP50 {tssa[0]}, mAP50-95 {tssa[1]} in {tssa[2]} s "
        "| [lesson 11](notebooks/11_train_tssa_yolo.ipynb) |",
        f"| stock YOLO11n, the same scenes, epochs and seed | mAP50 {stock[0]}, mAP50-95 {stock[1]} in {stock[2]} s | the same |",
        *(
            f"| the fair trial, {d}: mAP50 over {form['seeds']} seeds, {form['epochs']} epochs of {form['train']} scenes at {form['size']} px, "
            f"difference from no attention and its 95 % interval | {tried(d)} | [trial.json](data/results/trial.json) |"
            for d in form["difficulties"]
        ),
        f"| easy again, with seeds 5 to 9 alone | {tried('easy', results('again'))} | [again.json](data/results/again.json) |",
        f"| one switch of TSSA at a time, easy, difference from the published form | {tried('easy', results('switches'), 'tssa')} "
        "| [switches.json](data/results/switches.json) |",
        f"| TSSA-YOLO11n over YOLO11n, one picture at 640, 1,280, 1,920 px, {results('stock_vs_tssa')['threads']} CPU threads | time {beside('wall_ms')}; "
        f"memory {beside('peak_mib')} | [stock_vs_tssa.json](data/results/stock_vs_tssa.json) |",
        f"| TSSA against softmax attention (SDPA), forward, width 128, {speed['threads']} CPU thread(s), load {speed['load']:.1f} "
        f"| {ratio(1600)}, {ratio(6400)}, {ratio(25600)} times as fast at 1,600, 6,400, 25,600 tokens | [linear_time.json](data/results/linear_time.json) |",
        f"| what our TSSA costs beyond its two linear maps, as a share of what the published order of operations costs | {overhead(400)}, {overhead(1600)}, "
        f"{overhead(6400)}, {overhead(25600)} at 400, 1,600, 6,400, 25,600 tokens | the same |",
        f"| multiply–adds of YOLO11n with attention at P3, P4 and P5, one picture of 1,920 px | softmax {macs('psa', 1920):.0f}, TSSA {macs('tssa', 1920):.0f} billion "
        "| [placements.json](data/results/placements.json) |",
        f"| ToST on 8×8 digits, θ = 1, {tost['seeds']} seeds, held-out accuracy | tied {mean(r['accuracy'] for r in runs(True)):.3f}, "
        f"untied {mean(r['accuracy'] for r in runs(False)):.3f} | [tost_digits.json](data/results/tost_digits.json) |",
        f"| its trained blocks whose TSSA step lowers the variational rate | tied {lower(runs(True))}, untied {lower(runs(False))} | the same |",
    ]


def written() -> str:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    for mark, lines in (("map", lesson_map()), ("measured", measured())):
        text = re.sub(
            rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)",
            lambda m: m[1] + "\n".join(lines) + "\n" + m[2],
            text,
            flags=re.S,
        )
    return text


def main() -> None:
    (REPO / "README.md").write_text(written(), encoding="utf-8")
    sys.stdout.write("wrote README.md\n")


if __name__ == "__main__":
    main()
