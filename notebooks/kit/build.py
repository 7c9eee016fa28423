"""Make the stored notebooks from their sources: notebooks/src/NN_name.py -> run -> notebooks/NN_name.ipynb.

    python -m kit.build [NAME ...] [--timeout 600]   run and write (all lessons, or the named: 03, 03_name, a path)
    python -m kit.build [NAME ...] --check           compare sources and stored notebooks, run nothing
    python -m kit.build [NAME ...] --prose           take over changed text, keep the outputs, if the code is the same

The same source and the same outputs give the same bytes, so "build again, then git diff" is a test.
"""

import argparse
import getpass
import hashlib
import json
import re
import socket
import sys
import time
from pathlib import Path

import jupytext
import nbformat

from kit.places import NOTEBOOKS

HERE = NOTEBOOKS
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
HIDDEN = "hide-input"  # a cell whose code is folded: its first line says what it does
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PRIVATE = re.compile(r"(?:/home/|/Users/|/root/|/tmp/|/private/var/|site-packages|[A-Za-z]:\\+Users)[^\s'\"<]*")


def sources(names=()):
    """The lessons' sources in order: all of them, or those whose file names start with one of `names`."""
    found = sorted((HERE / "src").glob("[0-9][0-9]_*.py"))
    stems = [Path(name).stem for name in names]
    for stem in stems:
        if not any(path.stem.startswith(stem) for path in found):
            raise SystemExit(f"expected a lesson in {[path.stem for path in found]}, got {stem!r}")
    return [path for path in found if not stems or path.stem.startswith(tuple(stems))]


def read_source(path):
    """The source as a notebook without outputs: cell ids made from the content, only tags kept."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen = {}
    for cell in notebook.cells:
        digest = hashlib.sha1((cell.cell_type + cell.source).encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        tags = cell.metadata.get("tags", [])
        folded = {"jupyter": {"source_hidden": True}} if HIDDEN in tags else {}
        cell.metadata = nbformat.from_dict({**({"tags": tags} if tags else {}), **folded})
    return notebook


def run(notebook, timeout, name):
    """Run every cell in a fresh kernel, in the folder of the notebooks, and keep what is the same in every run."""
    from nbclient import NotebookClient
    from tqdm import tqdm

    code = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    with tqdm(total=code, desc=name, unit="cell") as bar:
        NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": str(HERE)}},
            coalesce_streams=True,
            record_timing=False,
            on_cell_executed=lambda **_: bar.update(),
        ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        for output in outputs:
            output.get("data", {}).pop(WIDGET_VIEW, None)  # GitHub and exports cannot draw it
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]  # the rest holds paths
        if cell.cell_type == "code":
            cell.outputs = [output for output in outputs if output.get("data", True)]


def keep_outputs(notebook, target):
    """The outputs of the stored notebook for the same code; ValueError where a code cell changed."""
    new, old = (
        [cell for cell in each.cells if cell.cell_type == "code"]
        for each in (notebook, nbformat.read(target, as_version=4))
    )
    if [cell.source for cell in new] != [cell.source for cell in old]:
        raise ValueError("expected the same code as in the stored notebook, got changes: run it")
    for cell, stored in zip(new, old):
        cell.outputs, cell.execution_count = stored.outputs, stored.execution_count


def machine():
    """Names that belong to the one machine that runs this."""
    try:
        return socket.gethostname(), getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return (socket.gethostname(),)


def leaks(notebook, names=()):
    """Paths and the given names in the outputs: what a reader on another machine should not see."""
    names = [re.escape(name) for name in names if len(name) > 4]
    private = re.compile("|".join([PRIVATE.pattern, re.escape(str(HERE.parent)), *(rf"\b{name}\b" for name in names)]))
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            shown = {key: value for key, value in output.get("data", {}).items() if not key.startswith("image/p")}
            text = json.dumps([shown, output.get("text"), output.get("evalue"), output.get("traceback")])
            text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
            found += [f"cell {number}: {hit}" for hit in private.findall(text)]
    return found


def cell_contents(notebook):
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def differences(source, target):
    """Where a stored notebook and its source disagree; an empty list if they agree, cell by cell."""
    if not target.exists():
        return [f"expected {target.name} beside its source, got none"]
    want, got = cell_contents(read_source(source)), cell_contents(nbformat.read(target, as_version=4))
    found = [
        f"cell {n}: source has {a[0]} {a[1][:50]!r} {a[2]}, notebook has {b[0]} {b[1][:50]!r} {b[2]}"
        for n, (a, b) in enumerate(zip(want, got), 1)
        if a != b
    ]
    return found + ([f"source has {len(want)} cells, notebook has {len(got)}"] if len(want) != len(got) else [])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--prose", action="store_true")
    parser.add_argument("--timeout", type=int, default=600, help="seconds a cell may take")
    args = parser.parse_args()
    failed = False
    for source in sources(args.names):
        target, start = HERE / f"{source.stem}.ipynb", time.perf_counter()
        if args.check:
            problems = differences(source, target)
        else:
            notebook = read_source(source)
            try:
                keep_outputs(notebook, target) if args.prose else run(notebook, args.timeout, source.stem)
                problems = [f"private text in an output: {leak}" for leak in leaks(notebook, machine())]
            except Exception as error:  # a cell that raises or takes too long: say which, go on with the next lesson
                problems = [str(error)]
            if not problems:
                nbformat.validate(notebook)
                nbformat.write(notebook, target)
        failed |= bool(problems)
        seconds = "" if args.check else f"  {time.perf_counter() - start:.1f} s"
        print(f"{'FAIL' if problems else 'OK  '} {source.stem}{seconds}", *problems, sep="\n     ")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
