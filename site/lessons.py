"""What the site adds to Sphinx: anchors of equations, links to them and to the package, docstrings in plain text."""

import ast
import re
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from kit import equations
from kit.places import NOTEBOOKS
from tssa_lib.paths import PACKAGE

log = logging.getLogger(__name__)
LABEL = re.compile(r"(\(\d+\.\d+\)|(?<=\beq\. )\d+\.\d+)")
NAME = re.compile(r"(?:tssa_lib\.|kit\.)?(\w+)\.(\w+(?:\.\w+)?)")
KIT = ("attention", "cost", "photos", "plots", "tost")  # of the lessons' kit: what they compute and draw with


def slug(title: str) -> str:
    """A heading's anchor, as JupyterLab makes it: the lessons' links are the same on the site."""
    return title.replace(" ", "-")


# ---- equations -----------------------------------------------------------------------------------------------------
@cache
def homes() -> dict[str, str]:
    """Label → the page that the equation stands on."""
    return {e.label: f"notebooks/{e.lesson}" for source in equations.sources() for e in equations.read(source)}


def anchor(label: str) -> str:
    return f"eq-{label.replace('.', '-')}"


def anchor_equations(app: Sphinx, tree: nodes.document) -> None:
    """An equation's label is its anchor; Sphinx would put lines in `split`, where MathJax allows no label."""
    for node in tree.findall(nodes.math_block):
        latex = node.astext()
        node["ids"] += [anchor(label) for label in re.findall(r"\\tag\{([\d.]+)\}", latex)]
        node["no-wrap"] = True
        node.clear()
        node += nodes.Text(rf"\[{latex}\]")


def link(app: Sphinx, tree: nodes.document, page: str) -> None:
    """`(5.18)` and `eq. 5.18` lead to the equation, `rates.coding_rate` to the function.

    A name of the package, or of the kit, that isn't there is a warning, hence an error.
    """
    for text in list(tree.findall(nodes.Text)):
        parent = text.parent
        if isinstance(parent, nodes.literal):
            name = re.fullmatch(NAME, text.astext())
            if name and modules(name[1]) and not isinstance(parent.parent, nodes.reference):
                parent.parent.replace(parent, to_name(app, page, parent, name))
        elif page == "notebooks/EQUATIONS" and text.astext() in homes():
            parent.replace(text, to_equation(app, page, text.astext()))
        elif not isinstance(parent, (nodes.FixedTextElement, nodes.raw, nodes.math, nodes.reference, nodes.title)):
            pieces = re.split(LABEL, text.astext())  # text, label, text, …
            if len(pieces) > 1:
                new = [to_equation(app, page, p) if i % 2 else nodes.Text(p) for i, p in enumerate(pieces)]
                parent.replace(text, [node for node in new if node.astext()])


def to_equation(app: Sphinx, page: str, words: str) -> nodes.Node:
    label = words.strip("()")
    home = homes().get(label)
    if home is None:
        return nodes.Text(words)
    uri = f"{app.builder.get_relative_uri(page, home)}#{anchor(label)}"
    return nodes.reference("", words, refuri=uri, internal=True, classes=["equation"])


def to_name(app: Sphinx, page: str, literal: nodes.Node, name: re.Match) -> nodes.Node:
    """A link to where the name is documented; to the module for `rates.py`."""
    objects = app.env.domaindata["py"]["objects"]
    where = next(filter(None, (full_name(module, name[2]) for module in modules(name[1]))), None)
    if where is None:
        log.warning("expected a name of tssa_lib, got %s", name[0], location=literal, type="ref")
        return literal
    if where not in objects:  # a constant, or what needs no words
        return literal
    uri = f"{app.builder.get_relative_uri(page, objects[where].docname)}#{objects[where].node_id}"
    return nodes.reference("", "", literal.deepcopy(), refuri=uri, internal=True)


def full_name(module: str, member: str) -> str:
    """Where a module's member was defined, "" where there is none; the module itself for `py`, its file's ending."""
    if member == "py":
        return module
    try:
        found = attrgetter(member)(import_module(module))
    except AttributeError:
        return ""
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"


@cache
def modules(name: str) -> dict[str, Path]:
    """The modules of this name, in the package and in the part of the kit that the site shows, and their files."""
    places = {"tssa_lib": PACKAGE} | ({"kit": NOTEBOOKS / "kit"} if name in KIT else {})
    found = {f"{package}.{name}": folder / f"{name}.py" for package, folder in places.items()}
    return {module: file for module, file in found.items() if file.is_file()}


# ---- docstrings ----------------------------------------------------------------------------------------------------
@cache
def public() -> dict[str, str]:
    """`TSSA` and `tssa.TSSA` → tssa_lib.tssa.TSSA, of what each module defines itself."""
    found: dict[str, list[str]] = {}
    for stem in dict.fromkeys((*(path.stem for path in PACKAGE.glob("[a-z]*.py")), *KIT)):
        for module, path in modules(stem).items():
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                    for name in (node.name, f"{stem}.{node.name}"):
                        found.setdefault(name, []).append(f"{module}.{node.name}")
    return {name: places[0] for name, places in found.items() if len(places) == 1}


def plain(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """A docstring in plain text as reStructuredText: indented lines stand as they are, `name` is code or a link."""
    new, indented, example = [], False, False
    for line in lines:
        example = bool(line.strip()) and (example or line.startswith(">>>"))
        inside = line.startswith(" ") and not example
        if inside and not indented:
            new += ["", "::", ""]
        elif indented and line.strip() and not inside:
            new.append("")
        indented = inside or (indented and not line.strip())
        new.append(line if inside or example else prose(line))
    lines[:] = new


def prose(line: str) -> str:
    """One line: code spans, and nothing else that reStructuredText would take for its own."""
    pieces = line.split("`")
    for i, piece in enumerate(pieces):
        if i % 2 and i < len(pieces) - 1:
            target = public().get(piece)
            pieces[i] = f":py:obj:`{piece} <{target}>`" if target else f"``{piece}``"
        else:
            pieces[i] = re.sub(r"([\\*|]|_\b)", r"\\\1", piece)
    return "".join(pieces)


# ---- pages in Chinese ------------------------------------------------------------------------------------------------
def in_chinese(app: Sphinx, page: str, template: str, context: dict, tree: nodes.document | None) -> None:
    """A page of `zh/` says its language: browsers choose the forms of characters by it."""
    if page.startswith("zh/"):
        context["language"] = "zh-CN"


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", in_chinese)
    app.connect("doctree-read", anchor_equations)
    app.connect("doctree-resolved", link)
    app.connect("autodoc-process-docstring", plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
