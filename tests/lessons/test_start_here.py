"""Lesson 0's map of the lessons says what the lessons themselves say."""

import re

import pytest

from kit.places import SOURCES

ROW = re.compile(r"^# \| \[(\d+ · [^\]]+)\]\((\d\d_\w+)\.ipynb\) \| [^|]+ \| (\d+) min \| (\d+) s \|$", re.M)
MAP = {
    stem: (title, minutes, seconds)
    for title, stem, minutes, seconds in ROW.findall((SOURCES / "00_start_here.py").read_text("utf-8"))
}


def test_the_map_names_every_lesson():
    assert sorted(MAP) == sorted(path.stem for path in SOURCES.glob("[01][0-9]_*.py") if path.stem[:2] != "00")


@pytest.mark.parametrize(
    "source", [p for p in sorted(SOURCES.glob("[01][0-9]_*.py")) if p.stem[:2] != "00"], ids=lambda p: p.stem
)
def test_title_and_times_of_the_map_are_those_of_the_lesson(source):
    text = source.read_text("utf-8")
    title = re.search(r"^# # Lesson (\d+ · .+)$", text, re.M)[1]
    minutes, seconds = re.search(r"about (\d+) minutes to read, (?:about )?(\d+) seconds", text).groups()
    name, *times = MAP[source.stem]
    assert title.startswith(name) and times == [minutes, seconds]  # a subtitle has no place in the map
