"""README says what the lessons and the committed results say."""

import json
import re

from experiments.readme import written
from kit.places import RESULTS
from kit.places import ROOT as REPO


def test_readme_says_what_the_lessons_and_the_results_say():
    assert (REPO / "README.md").read_text(encoding="utf-8") == written(), "run python -m experiments.readme"


def test_result_files_name_what_they_come_from():
    for path in sorted(RESULTS.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        assert {"command", "date", "python", "torch"} <= set(data), f"{path.name} has only {sorted(data)}"
        assert data["command"].startswith(("python -m tssa_lib.", "python -m experiments.")), data["command"]


def test_links_of_the_readme_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", (REPO / "README.md").read_text(encoding="utf-8")):
        assert link.startswith("http") or (REPO / link).exists(), link
