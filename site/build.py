"""Build the site from the stored lessons: nothing is run but the lens, and nothing is fetched.

    python site/build.py [--out FOLDER] [ARGS]     ARGS go to sphinx-build

Pages and files are gathered under `build/site/source` in the places that they have in the project, so that their links
hold; Sphinx turns them into `build/site/html`, a warning being an error. What stands in `site/*.md` comes to the top.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from kit import equations
from tssa_lib.lens import Lens, example

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GATHERED = (
    "notebooks/*.ipynb",
    "notebooks/EQUATIONS.md",
    "data/*.md",
    "data/*.png",
    "data/results/*",
    "data/blood_cells/[A-Z]*",
    "experiments/README.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "LICENSE",
)
API = """# {title}

```{{eval-rst}}
.. automodule:: {module}
   :members:
   :member-order: bysource
   :show-inheritance:
```
"""


def write(path: Path, text: str) -> None:
    """Write a text, unless it is there already: Sphinx reads again what is newer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def gather(source: Path) -> None:
    """Everything that Sphinx reads, as a tree of its own."""
    wanted = {p.relative_to(ROOT): p for pattern in GATHERED for p in ROOT.glob(pattern) if p.is_file()}
    wanted |= {p.relative_to(HERE): p for p in HERE.rglob("*.md")}
    for place, path in wanted.items():
        (source / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, source / place)
    from lessons import KIT  # it needs Sphinx

    modules = {p.stem: f"tssa_lib.{p.stem}" for p in sorted((ROOT / "tssa_lib").glob("[a-z]*.py"))}
    modules |= {f"kit_{name}": f"kit.{name}" for name in KIT}
    for name, module in modules.items():
        title = module.removeprefix("tssa_lib.")
        write(source / "api" / f"{name}.md", API.format(title=title, module=module))
    made = {source / place for place in wanted} | {source / "api" / f"{name}.md" for name in modules}
    for path in source.rglob("*"):  # of an earlier build, and gone since
        if path.is_file() and path not in made:
            path.unlink()
    labels = {e.label: [e.latex, f"{e.kind}. {e.says}"] for s in equations.sources() for e in equations.read(s)}
    write(source.parent / "static" / "equations.js", f"window.EQUATIONS = {json.dumps(labels)};\n")
    write(source.parent / "lens.html", Lens("blood_cells", *example())._repr_html_())


def main() -> int:
    try:
        from sphinx.cmd.build import main as sphinx
    except ImportError:
        sys.exit(f"expected Sphinx, which needs Python 3.11 or newer, got Python {sys.version.split()[0]}: make setup")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="where source and html go")
    args, rest = parser.parse_known_args()
    out = args.out.resolve()
    os.environ["TSSA_SITE"] = str(out)
    gather(out / "source")
    shutil.rmtree(out / "html", ignore_errors=True)  # no page stays whose source is gone
    folders = [str(out / name) for name in ("doctrees", "source", "html")]
    status = sphinx(["-c", str(HERE), "-a", "-j", "auto", "-W", "--keep-going", "-d", *folders, *rest])
    if not status:
        size = sum(path.stat().st_size for path in (out / "html").rglob("*") if path.is_file())
        print(f"{size / 1e6:.0f} MB: open {out / 'html' / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
