"""Formatted, checked, typed and small: ruff and mypy with the project's configuration, and the size of the package."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "tssa_lib").glob("*.py"))
MOST = 3_700  # lines of code in the package
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(command):
    done = subprocess.run([sys.executable, "-m", *command, "--no-cache", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_nothing():
    pytest.importorskip("mypy", reason="mypy is not installed")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def code_lines(text: str) -> int:
    """Lines that hold code: neither blank nor comment nor docstring."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        code |= set() if token.type in SILENT else set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code -= set(range(node.lineno, node.end_lineno + 1))
    return len(code)


def test_the_package_stays_small():
    assert code_lines('"""Says."""\n\nx = [  # one\n    1,\n]\n\n\ndef f():\n    """Says."""\n    return x\n') == 5
    sizes = {path.stem: code_lines(path.read_text(encoding="utf-8")) for path in PACKAGE}
    assert sum(sizes.values()) <= MOST, f"what only lessons and experiments use belongs into notebooks/kit: {sizes}"


def test_the_package_uses_neither_kit_nor_experiments():
    outside = re.compile(r"^\s*(?:from|import) (?:kit|experiments)\b", re.M)
    assert not [path.name for path in PACKAGE if outside.search(path.read_text(encoding="utf-8"))]
