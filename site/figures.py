"""What pages of the site say in figures and in README's words: `{{ name }}` on a page is read here.

Tables come from the lessons and from committed results, through the generator of README; texts are sections of README.
"""

import re
from pathlib import Path

import yaml

from experiments import readme

HERE = Path(__file__).resolve().parent
README = readme.REPO / "README.md"
CHINESE = """```{toctree}
:hidden:
:caption: 中文
:glob:

zh/*
```"""


def substitutions() -> dict[str, str]:
    """Name → Markdown."""
    return {
        "lead": section("From coding rate to TSSA-YOLO", "#").split("\n\n![")[0],
        "commands": section("Two commands"),
        "own_data": section("Your own data in five minutes"),
        "answers": section("The answers, in short"),
        "sources": section("Sources"),
        "licence": section("Licence"),
        "all_measured": section("What is measured"),
        "map": from_top("\n".join(readme.lesson_map())),
        "pays": table(readme.time_rows(), readme.placement_rows(), readme.capacity_rows()),
        "pays_not": table(readme.trial_rows(), readme.use_rows(), readme.ready_rows()),
        "bibtex": bibtex(),
        "chinese": CHINESE if any(HERE.glob("zh/*.md")) else "",
    }


def section(title: str, level: str = "##") -> str:
    """What stands under a heading of README."""
    found = re.search(
        rf"^{level} {re.escape(title)}\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.M | re.S
    )
    if not found:
        raise ValueError(f"expected the heading {level} {title!r} in README.md, found none")
    return from_top(found[1].strip("\n"))  # a block of code may come first: its indent stays


def table(*parts: list[str]) -> str:
    head = [readme.row("what", "figure", "from"), "|---|---|---|"]
    return from_top("\n".join(head + [line for part in parts for line in part]))


def from_top(text: str) -> str:
    """Links that lead from the top of the project, also on a page in a folder."""
    return re.sub(r"\]\((?!https?:|[#/])", "](/", text)


def bibtex() -> str:
    """CITATION.cff, and what it refers to, as BibTeX."""
    ours = yaml.safe_load((readme.REPO / "CITATION.cff").read_text(encoding="utf-8"))
    entries = []
    for work in (ours, *ours["references"]):
        people = (a.get("name") or f"{a['family-names']}, {a['given-names']}" for a in work["authors"])
        says = {"title": f"{{{work['title']}}}", "author": " and ".join(people)}
        says |= {key: work[key] for key in ("year", "version", "url") if key in work}
        kind = "inproceedings" if work["type"] == "conference-paper" else "software"
        if kind == "inproceedings":
            says["booktitle"] = work["collection-title"]
        name = "tssa_lib" if work is ours else f"{work['authors'][0]['family-names'].lower()}{work['year']}"
        lines = ",\n".join(f"  {key} = {{{value}}}" for key, value in says.items())
        entries.append(f"@{kind}{{{name},\n{lines}\n}}")
    return "```bibtex\n" + "\n\n".join(entries) + "\n```"
