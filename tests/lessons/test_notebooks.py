"""What a stored lesson must be, looked at without running it; `make test` runs every lesson with nbval besides."""

import re
import statistics
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from kit import build
from kit.places import NOTEBOOKS as FOLDER

STORED = sorted(FOLDER.glob("*.ipynb"))
LONGEST_MEDIAN = 6  # non-blank lines of a code cell that isn't folded: one idea a cell
LARGEST = 2_000_000  # bytes: GitHub shows no bigger notebook


@pytest.fixture(scope="module", params=STORED, ids=lambda path: path.stem)
def lesson(request):
    return request.param, nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [(n, output) for n, cell in enumerate(notebook.cells, 1) for output in cell.get("outputs", [])]


def test_every_source_has_a_notebook_and_every_notebook_a_source():
    assert STORED, f"expected notebooks in {FOLDER.name}/, got none"
    assert [path.stem for path in build.sources()] == [path.stem for path in STORED]
    assert [int(path.name[:2]) for path in STORED] == sorted({int(path.name[:2]) for path in STORED}), "numbers repeat"


def test_pair_says_the_same(lesson):
    path, _ = lesson
    assert build.differences(FOLDER / "src" / f"{path.stem}.py", path) == []


def test_valid_and_of_a_size_that_github_shows(lesson):
    path, notebook = lesson
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST, f"{path.stat().st_size:,} bytes"
    assert not {key for cell in notebook.cells for key in cell.metadata} - {"tags", "jupyter"}


def test_ran_from_top_to_bottom(lesson):
    _, notebook = lesson
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_error_that_the_lesson_does_not_mean_to_show(lesson):
    _, notebook = lesson
    for cell in code_cells(notebook):
        raised = any(output.output_type == "error" for output in cell.outputs)
        assert raised == ("raises-exception" in cell.metadata.get("tags", [])), cell.source


def test_outputs_are_clean(lesson):
    _, notebook = lesson
    assert build.leaks(notebook) == []
    assert "widgets" not in notebook.metadata
    for n, output in outputs(notebook):
        assert build.WIDGET_VIEW not in output.get("data", {}), f"cell {n}"
        shown = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
        assert "\x1b[" not in shown, f"cell {n}: terminal colours"
        assert "Traceback (most recent call last)" not in shown, f"cell {n}"
        assert not re.search(r"0x[0-9a-f]{6,}", shown), f"cell {n}: prints an object's address"
        assert output.get("name") != "stderr" or "Warning" not in shown, f"cell {n}: {shown}"


def test_pictures_and_their_words_for_those_who_cannot_see_them(lesson):
    _, notebook = lesson
    pictures = 0
    for n, output in outputs(notebook):
        for kind in {"image/png", "image/jpeg", "image/svg+xml"} & set(output.get("data", {})):
            alt = output.metadata.get(kind, {}).get("alt") or output.metadata.get("alt") or ""
            assert len(alt.split()) >= 3, f"cell {n}: expected alt text of three words or more, got {alt!r}"
            pictures += 1
        for tag in re.findall(r"<img\b[^>]*>", output.get("data", {}).get("text/html", "")):
            alt = re.search(r"\balt=\"([^\"]+)", tag)
            assert alt and len(alt[1].split()) >= 3, f"cell {n}: expected an <img> with alt text of three words or more"
            pictures += 1
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"!\[\]\(", cell.source), f"a picture without alt text: {cell.source[:80]}"
    assert pictures >= 1


def test_opens_with_aims_prerequisites_and_times(lesson):
    path, notebook = lesson
    assert notebook.cells[0].cell_type == "markdown"
    first = notebook.cells[0].source
    assert re.match(r"# \S", first), "expected a title"
    assert re.search(r"you can\b", first, re.I), "expected the aims: 'After this you can …'"
    if not path.name.startswith("00"):
        assert re.search(r"^\*\*Before this:\*\* \S", first, re.M), "expected what to know before"
    assert re.search(r"\d+ ?(min\b|minutes)", first), "expected the minutes to read"
    assert re.search(r"\d+ ?(s\b|seconds)", first), "expected the seconds to run"


def test_links_lead_to_previous_contents_next_and_nowhere_wrong(lesson):
    path, notebook = lesson
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = [unquote(link.split("#")[0]) for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = {link for link in links if link and not re.match(r"[a-z]+:", link)}
    broken = sorted(link for link in local if not (FOLDER / link).exists())
    assert not broken, f"links to nothing: {broken}"
    here = STORED.index(path)
    neighbours = {STORED[n].name for n in (here - 1, here + 1) if 0 <= n < len(STORED)} | {STORED[0].name}
    assert neighbours - {path.name} <= {Path(link).name for link in local}


def test_cells_are_short(lesson):
    _, notebook = lesson
    shown = [c for c in code_cells(notebook) if not c.metadata.get("jupyter", {}).get("source_hidden")]
    lengths = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in shown]
    assert statistics.median(lengths) <= LONGEST_MEDIAN, lengths


def test_library_is_imported_before_ultralytics(lesson):
    """Importing tssa_lib first is what keeps Ultralytics off the network for one who starts jupyter by hand."""
    _, notebook = lesson
    lines = [line for cell in code_cells(notebook) for line in cell.source.splitlines()]
    imports = [m[1] for line in lines if (m := re.match(r"\s*(?:from|import) (tssa_lib|ultralytics)\b", line))]
    assert "ultralytics" not in imports or imports[0] == "tssa_lib"


def test_mathematics_that_github_shows(lesson):
    _, notebook = lesson
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.DOTALL)
            assert prose.count("$$") % 2 == 0, cell.source[:200]
            for line in prose.splitlines():
                assert "$$" not in line or line.strip().strip(">").strip() == "$$", f"$$ on a line of its own: {line}"
            assert r"\begin{align}" not in prose and r"\[" not in prose, "aligned inside $$, no \\["


def test_no_cell_leans_on_a_closing_semicolon(lesson):
    _, notebook = lesson  # JupyterLab then hides a value, nbval does not
    assert not [cell.source for cell in code_cells(notebook) if cell.source.rstrip().endswith(";")]
