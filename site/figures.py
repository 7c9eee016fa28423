"""What pages of the site say in figures and in README's words: `{{ name }}` on a page is read here.

Tables come from the lessons and from committed results, through the generator of README; texts are sections of README.
"""

import re

import yaml

from experiments import readme
from kit import equations

SECTIONS = ("commands", "own_data", "lessons", "answers", "all_measured", "licence", "sources")  # of either README


def substitutions() -> dict[str, str]:
    """Name → Markdown. What begins with `zh_` is Chinese; `eq_5_12` is equation (5.12) as its lesson displays it."""
    displayed = (e for source in equations.sources() for e in equations.read(source))
    return {
        **said("README.md"),
        **{f"zh_{key}": text for key, text in said("README.zh-CN.md").items()},
        **{f"eq_{e.label.replace('.', '_')}": f"$$\n{e.latex}\n$$" for e in displayed},
        "bibtex": bibtex(),
    }


def said(name: str) -> dict[str, str]:
    """The sections of one README, its lead, and tables in its language."""
    lead, *sections = re.split(r"^## .+\n", (readme.REPO / name).read_text(encoding="utf-8"), flags=re.M)
    head = [readme.row("what", "figure", "from"), "|---|---|---|"]

    def table(*parts: list[str]) -> str:
        return from_top("\n".join(readme.LANGUAGES[name]([line for part in parts for line in part])))

    return {
        # A block of code may come first in a section: its indent stays.
        **{key: from_top(text.strip("\n")) for key, text in zip(SECTIONS, sections, strict=True)},
        "lead": from_top(lead.split("\n\n")[2]),  # after the languages and the title
        "map": table(readme.lesson_map()),
        "pays": table(head, readme.time_rows(), readme.placement_rows(), readme.capacity_rows()),
        "pays_not": table(head, readme.trial_rows(), readme.blood_rows(), readme.ready_rows()),
    }


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
