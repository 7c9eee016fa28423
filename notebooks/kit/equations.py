"""The equation ledger: read every numbered equation out of the lessons and write notebooks/EQUATIONS.md.

    python -m kit.equations           write EQUATIONS.md
    python -m kit.equations --check   say whether it is up to date (exit status 1 if not)

A displayed equation carries a \\tag{n.m} and, in the paragraph after it, one caption line, such as
`*(1.3) Checked. What it says — source · `rates.coding_rate`*` or `*(1.1) Definition. …*`. A checked one has
exactly one `check("1.3", …)` or `check_below("1.3", …)` in the same lesson; the largest error is read from
what the stored notebook printed.
"""

import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jupytext
import nbformat

from kit.places import NOTEBOOKS

HERE = NOTEBOOKS
CAPTION = re.compile(r"^\*\((\d+\.\d+)\) (Definition|Checked)\. (.+?) — (.+?)(?: · `([\w.]+)`)?\*$", re.M)
CALL = re.compile(r"""\bcheck(?:_below)?\(\s*["'](\d+\.\d+)["']""")
PRINTED = re.compile(r"^✓ \((\d+\.\d+)\) .*largest error (\S+) ≤ (\S+)", re.M)
DISPLAY = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.S | re.M)
MOVED = {
    "10.8": 11,
    "11.1": 12,
    "11.2": 12,
}  # a label, and the lesson to which its equation moved: no other gets that label


@dataclass(frozen=True)
class Equation:
    label: str
    lesson: str  # "01_coding_rate"
    kind: str  # "Definition" or "Checked"
    says: str
    source: str
    symbol: str | None  # in the library
    latex: str


class LedgerError(ValueError):
    """An equation without its label, caption or check, or one of these without its equation."""


def sources() -> list[Path]:
    return sorted((HERE / "src").glob("[0-9][0-9]_*.py"))


def cells(source: Path, kind: str) -> list[str]:
    return [text for cell_type, text in _cells(source, source.stat().st_mtime_ns) if cell_type == kind]


@lru_cache(maxsize=64)
def _cells(source: Path, written: int) -> list[tuple[str, str]]:
    """Every cell of a source, parsed once for each time that it was written."""
    return [(c.cell_type, c.source) for c in jupytext.read(source).cells]


def read(source: Path) -> list[Equation]:
    """The equations of one lesson, or a LedgerError that lists everything that is out of order."""
    lesson, number = source.stem, int(source.stem[:2])
    text, code = "\n\n".join(cells(source, "markdown")), "\n".join(cells(source, "code"))
    wrong, found = [], []
    if text.count("$$") != 2 * len(DISPLAY.findall(text)):
        wrong.append("a $$ that does not stand on a line of its own")
    captions = {c[1]: c for c in CAPTION.finditer(text)}
    if len(captions) != len(CAPTION.findall(text)):
        wrong.append("two captions with one label")
    for m in DISPLAY.finditer(text):
        tags = re.findall(r"\\tag\{([\d.]+)\}", m[1])
        if len(tags) != 1:
            wrong.append(f"an equation with {len(tags)} labels: {m[1][:60]!r}")
            continue
        caption = captions.pop(tags[0], None)
        if caption is None:
            wrong.append(f"({tags[0]}) has no caption")
        elif text[m.end() : caption.start()].strip():
            wrong.append(f"({tags[0]}) is not followed by its caption")
        else:
            found.append(Equation(tags[0], lesson, caption[2], caption[3], caption[4], caption[5], m[1]))
    labels, calls = [e.label for e in found], CALL.findall(code)
    wrong += [f"caption ({label}) has no equation" for label in captions]
    # A label stays with its equation when that moves, so the order is free; gaps are not.
    came = {label for label, to in MOVED.items() if to == number}
    gone = {label for label in MOVED if label.startswith(f"{number}.")} - came
    last = len((set(labels) | gone) - came)
    expected = ({f"{number}.{i}" for i in range(1, last + 1)} - gone) | came
    wrong += [
        f"({label}) is of another lesson, or numbers before it are missing" for label in labels if label not in expected
    ]
    checked = [e.label for e in found if e.kind == "Checked"]
    wrong += [f"({label}) has no check" for label in checked if label not in calls]
    wrong += [f"check of an unknown or merely defined label ({label})" for label in calls if label not in checked]
    wrong += [
        f"({label}) is checked {calls.count(label)} times" for label in sorted(set(calls)) if calls.count(label) > 1
    ]
    if wrong:
        raise LedgerError(f"{lesson}: " + "; ".join(wrong))
    return found


def errors(source: Path) -> dict[str, tuple[str, str]]:
    """Label → (largest error, tolerance), as the stored notebook printed them."""
    notebook = NOTEBOOKS / f"{source.stem}.ipynb"
    return _errors(notebook, notebook.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _errors(path: Path, written: int) -> dict[str, tuple[str, str]]:
    notebook = nbformat.read(path, as_version=4)
    out = "\n".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    return {m[1]: (m[2], m[3]) for m in PRINTED.finditer(out)}


def table() -> str:
    """EQUATIONS.md."""
    lines, total, checked = [], 0, 0
    for source in sources():
        equations, seen = read(source), errors(source)
        if not equations:
            continue
        title = re.search(r"^# (.+)$", cells(source, "markdown")[0], re.M)[1]
        lines += [
            "",
            f"## [{title}]({source.stem}.ipynb)",
            "",
            "| label | what it says | source | discharged by | largest error | library |",
            "|---|---|---|---|---|---|",
        ]
        for e in equations:
            total, checked = total + 1, checked + (e.kind == "Checked")
            error, tol = seen.get(e.label, ("–", "–"))
            how = f"`check`, allowed {tol}" if e.kind == "Checked" else "definition"
            symbol = f"`{e.symbol}`" if e.symbol else "–"
            row = [e.label, e.says, e.source, how, error, symbol]
            lines.append("| " + " | ".join(cell or "–" for cell in row) + " |")
    head = [
        "# The equation ledger",
        "",
        f"{total} numbered equations: {checked} checked each time a lesson runs, {total - checked} definitions. Errors "
        "are those that the stored lessons printed. Written by `make equations`; a test compares it with the lessons.",
    ]
    return "\n".join(head + lines) + "\n"


def main() -> int:
    path, now = HERE / "EQUATIONS.md", table()
    if "--check" in sys.argv:
        same = path.is_file() and path.read_text(encoding="utf-8") == now
        print("EQUATIONS.md is up to date" if same else "EQUATIONS.md is out of date: run python -m kit.equations")
        return 0 if same else 1
    path.write_text(now, encoding="utf-8")
    print(f"wrote {path.name}: {now.splitlines()[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
