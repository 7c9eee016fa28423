"""Both READMEs say what the lessons and the committed results say."""

import json
import re

import pytest

from experiments import readme_zh
from experiments.readme import LANGUAGES, written
from kit.places import RESULTS
from kit.places import ROOT as REPO


def numbers(text: str) -> list[str]:
    """The numbers of every table line, sorted: languages put them in different orders."""
    return [sorted(re.findall(r"\d[\d.,]*\d|\d", line)) for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("name", LANGUAGES)
def test_readme_says_what_the_lessons_and_the_results_say(name):
    assert (REPO / name).read_text(encoding="utf-8") == written(name), "run python -m experiments.readme"


def test_both_languages_have_the_same_sections_links_and_numbers():
    english, chinese = ((REPO / name).read_text(encoding="utf-8") for name in LANGUAGES)
    for found in (r"^##? ", r"\]\(((?!README)[^)#]+)\)", r"(?m)^```\w*$"):
        assert re.findall(found, english, re.M) == re.findall(found, chinese, re.M)
    assert numbers(english) == numbers(chinese)


def test_a_cell_without_its_chinese_is_named():
    assert readme_zh.chinese("11 of 12") == "12 个中有 11 个"
    with pytest.raises(ValueError, match="expected Chinese for 'eleven of 12'"):
        readme_zh.chinese("eleven of 12")


def test_result_files_name_what_they_come_from():
    for path in sorted(RESULTS.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        assert {"command", "date", "python", "torch"} <= set(data), f"{path.name} has only {sorted(data)}"
        assert data["command"].startswith(("python -m tssa_lib.", "python -m experiments.")), data["command"]


@pytest.mark.parametrize("name", LANGUAGES)
def test_links_of_the_readme_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)#]+)\)", (REPO / name).read_text(encoding="utf-8")):
        assert link.startswith("http") or (REPO / link).exists(), link
