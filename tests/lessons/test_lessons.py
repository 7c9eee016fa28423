"""The lessons' promises: every equation discharged, every exercise diagnosed, every symbol in the table."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import re
import sys

import pytest
import torch

import kit
from kit import CheckFailed, check, check_below, equations
from kit.places import ROOT as REPO

SOURCES = equations.sources()
IDS = [s.stem for s in SOURCES]


# ---- the ledger --------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_every_equation_is_a_definition_or_checked(source):
    found = equations.read(source)  # raises with the whole list of what is out of order
    printed = equations.errors(source)
    for e in found:
        if e.kind == "Checked":
            assert e.label in printed, f"({e.label}): the stored lesson shows no passed check"
            assert float(printed[e.label][0]) <= float(printed[e.label][1])


def test_the_derivation_has_sixty_equations_and_a_table():
    derivation = [e for s in SOURCES if "01" <= s.stem[:2] <= "05" for e in equations.read(s)]
    assert len(derivation) >= 60
    assert (REPO / "notebooks" / "EQUATIONS.md").read_text(encoding="utf-8") == equations.table()


@pytest.mark.parametrize(
    "text, code, complaint",
    [
        ("$$\nx = 1 \\tag{1.1}\n$$\n\n*(1.1) Checked. One — nobody*", "", "(1.1) has no check"),
        ("$$\nx = 1\n$$", "", "an equation with 0 labels"),
        ("$$\nx = 1 \\tag{1.1}\n$$", "", "(1.1) has no caption"),
        ("text", 'check("1.7", 1, 1, "one")', "unknown or merely defined label (1.7)"),
        (
            "$$\nx = 1 \\tag{1.1}\n$$\n\n*(1.1) Checked. One — nobody*",
            'check("1.1", 1, 1, "")\ncheck("1.1", 1, 1, "")',
            "checked 2 times",
        ),
        (
            "$$\nx \\tag{1.1}\n$$\n\n*(1.1) Definition. One — nobody*\n\n"
            "$$\ny \\tag{1.1}\n$$\n\n*(1.1) Definition. Two — nobody*",
            "",
            "two captions",
        ),
        ("inline $$x = 1$$", "", "a $$ that does not stand on a line of its own"),
        (
            "$$\nx \\tag{1.1}\n$$\n\nwords\n\n*(1.1) Definition. One — nobody*",
            "",
            "(1.1) is not followed by its caption",
        ),
        ("*(1.1) Definition. One — nobody*", "", "caption (1.1) has no equation"),
        ("$$\nx \\tag{2.1}\n$$\n\n*(2.1) Definition. One — nobody*", "", "(2.1) is of another lesson"),
    ],
)
def test_the_ledger_notices(tmp_path, text, code, complaint):
    source = tmp_path / "01_made_up.py"
    markdown = "\n".join(f"# {line}".rstrip() for line in text.splitlines())
    source.write_text(f"# %% [markdown]\n{markdown}\n\n# %%\n{code or 'pass'}\n", encoding="utf-8")
    with pytest.raises(equations.LedgerError, match=re.escape(complaint)):
        equations.read(source)


def test_a_label_moves_with_its_equation_and_is_given_to_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(equations, "MOVED", {"1.1": 2})

    def labels(number, *given):
        source = tmp_path / f"{number:02}_{'_'.join(given)}.py"
        written = "\n\n".join(f"$$\nx \\tag{{{g}}}\n$$\n\n*({g}) Definition. One — nobody*" for g in given)
        source.write_text("# %% [markdown]\n" + "\n".join(f"# {line}".rstrip() for line in written.splitlines()))
        return [e.label for e in equations.read(source)]

    assert labels(1, "1.2", "1.3") == ["1.2", "1.3"]
    assert labels(2, "1.1", "2.1") == ["1.1", "2.1"]
    for number, given in ((1, ["1.1", "1.2"]), (1, ["1.3"]), (2, ["1.2"]), (2, ["1.1", "2.2"])):
        with pytest.raises(equations.LedgerError, match="is of another lesson"):
            labels(number, *given)


def test_every_check_can_fail():
    """`check` moves its own right-hand side at every call, for every label; here is what it refuses."""
    x = torch.arange(3.0)
    many = torch.linspace(0, 1, 1000, dtype=torch.float64)
    one = many.clone()
    one[7] += 1e-8  # one wrong entry of a thousand, in either direction
    for bad in (
        lambda: check("1.1", one, many, "one entry"),
        lambda: check("1.1", many, one, "one entry"),
        lambda: check_below("1.1", torch.where(one > many, one, many - 1), many, "one draw", equal=(1.0, 1.0)),
        lambda: check_below("1.1", x, x + 1, "one entry of the equality", equal=(one, many)),
        lambda: check_below("1.1", x, x + 1, "one entry of the equality", equal=(many, one)),
        lambda: check("1.1", x, x + 1e-3, "off"),
        lambda: check("1.1", x, x, "itself"),
        lambda: check("1.1", x, x + 0, "tolerance too wide", tol=0.5),
        lambda: check("1.1", x * float("nan"), x, "NaN"),
        lambda: check("1.1", x[:0], x[:0] + 0, "empty"),
        lambda: check("1.1", x, x[:2] + 0, "shapes"),
        lambda: check_below("1.1", x, x - 0.1, "violated", equal=(1.0, 1.0)),
        lambda: check_below("1.1", x, x + 1, "never tight", equal=(1.0, 2.0)),
        lambda: check_below("1.1", x, x + 1, "tolerance too wide", equal=(1.0, 1.0), tol=0.5),
    ):
        with pytest.raises(CheckFailed):
            bad()


def test_agree_notices_another_function():
    def sine(x):
        return torch.sin(x)

    def cosine(x):
        return torch.cos(x)

    kit.agree(sine, torch.sin, torch.ones(2))
    with pytest.raises(CheckFailed, match="cosine"):
        kit.agree(cosine, sine, torch.ones(2))


# ---- notation ------------------------------------------------------------------------------------------
WORDS = (
    r"\\(?:operatorname|mathrm|text|mathbf|textstyle|boldsymbol|textrm)\*?\{[^{}]*\}"
    r"|\\tag\{[^}]*\}|\\(?:begin|end)\{[^}]*\}(?:\{[^}]*\})?"
)
GREEK = set(
    "alpha beta gamma Gamma delta Delta epsilon varepsilon eta theta lambda Lambda mu nu xi Xi pi Pi rho sigma "
    "Sigma tau phi Phi varphi psi Psi omega kappa chi zeta ell".split()
)


def symbols(latex: str) -> set[str]:
    """Base symbols of a formula: Latin letters and Greek names, words and commands left out."""
    latex = re.sub(WORDS, " ", latex)
    calligraphic = set(re.findall(r"\\math(?:bb|cal)\{(\w)\}", latex))
    latex = re.sub(r"\\math(?:bb|cal)\{\w\}", " ", latex)
    greek = set(re.findall(r"\\([A-Za-z]+)", latex)) & GREEK
    return (
        calligraphic
        | {"epsilon" if g == "varepsilon" else g for g in greek}
        | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", latex)))
    )


def table_symbols() -> set[str]:
    text = "\n".join(equations.cells(REPO / "notebooks" / "src" / "00_start_here.py", "markdown"))
    rows = [r.split("|")[1] for r in text.splitlines() if r.startswith("|") and "$" in r.split("|")[1]]
    assert len(rows) >= 20
    return set().union(*(symbols(f) for r in rows for f in re.findall(r"\$(.+?)\$", r)))


def test_every_symbol_is_in_the_notation_table():
    known = table_symbols()
    strange = {
        f"({e.label})": sorted(symbols(e.latex) - known)
        for s in SOURCES
        for e in equations.read(s)
        if symbols(e.latex) - known
    }
    assert not strange


# ---- lesson and library --------------------------------------------------------------------------------
MATHEMATICS = ["rates", "core", "tssa"]  # what the lessons derive


@pytest.mark.parametrize("name", MATHEMATICS)
def test_public_functions_name_the_equation_that_derives_them(name):
    module = importlib.import_module(f"tssa_lib.{name}")
    labels = {e.label for s in SOURCES for e in equations.read(s)}
    silent, lost = [], []
    for attr, value in vars(module).items():
        if attr.startswith("_") or getattr(value, "__module__", "") != module.__name__ or not callable(value):
            continue
        cited = re.findall(r"eqs?\. (\d+\.\d+)", inspect.getdoc(value) or "")
        silent += [attr] if not cited and attr not in HELPERS else []
        lost += [f"{attr}: ({c})" for c in cited if c not in labels]
    assert not lost, f"equations that no lesson has: {lost}"
    assert not silent, f"no lesson and equation named: {silent}"


HELPERS = {  # carry no formula of their own
    *("Statistics", "tssa_literal", "wide", "split_heads", "join_heads"),
    *("check_normalize", "check_heads", "check_tokens", "check_memberships", "check_bases", "load_exactly"),
}


def test_library_symbols_in_the_ledger_exist():
    for e in [e for s in SOURCES for e in equations.read(s) if e.symbol]:
        module, *path = e.symbol.split(".")
        package = "kit" if importlib.util.find_spec(f"kit.{module}") else "tssa_lib"
        target = importlib.import_module(f"{package}.{module}")
        for part in path:
            target = getattr(target, part)


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "notebooks" / "kit").glob("[a-z]*.py")))
def test_the_examples_in_the_kits_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    assert doctest.testmod(importlib.import_module(f"kit.{name}")).failed == 0


# ---- exercises -------------------------------------------------------------------------------------------
def found_exercises():
    for source in SOURCES:
        markdown = "\n".join(equations.cells(source, "markdown"))
        code = equations.cells(source, "code")
        for i, cell in enumerate(code):
            for id, name in re.findall(r"""\b(?:exercise|mine)\(\s*["']([\w.]+)["']\s*,\s*(\w+)\s*[,)]""", cell):
                stub = next(c for c in reversed(code[: i + 1]) if re.search(rf"^(def {name}\b|{name}\s*=)", c, re.M))
                solution = [
                    s
                    for s in re.findall(
                        r"<details>\s*<summary>Solution</summary>.*?```python\n(.*?)```.*?</details>", markdown, re.S
                    )
                    if re.search(rf"^(def {name}\b|{name}\s*=)", s, re.M)
                ]
                yield pytest.param(source, id, name, stub, solution, id=id)


def namespace(source) -> dict:
    """What the lesson imports, and nothing else: a solution has to run where it stands."""
    ns = {}
    for node in ast.parse("\n".join(equations.cells(source, "code"))).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(compile(ast.Module([node], []), source.name, "exec"), ns)
    return ns


@pytest.mark.parametrize("source, id, name, stub, solution", list(found_exercises()))
def test_exercise_stub_right_and_wrong_answers(source, id, name, stub, solution):
    exercise = kit.exercises(source.stem[:2])[id]
    ns = namespace(source)
    exec("\n".join(line for line in stub.splitlines() if not re.match(r"(\w+ = )?(exercise|mine)\(", line)), ns)
    verdict, message = exercise.judge(ns[name])
    assert verdict == "open" and exercise.hint not in message, "the stub is not solved yet, and no hint before a try"
    assert len(solution) == 1, f"expected one folded solution that defines {name}, found {len(solution)}"
    ns = namespace(source)
    exec(solution[0], ns)
    verdict, message = exercise.judge(ns[name])
    assert verdict == "right", message
    assert len(exercise.wrong) >= 2
    for diagnosis, answer in exercise.wrong.items():
        verdict, message = exercise.judge(answer)
        assert (verdict, diagnosis in message) == ("wrong", True), f"{diagnosis!r} is answered {message!r}"


@pytest.mark.parametrize("source", [s for s in SOURCES if s.stem[:2] != "00"], ids=[i for i in IDS if i[:2] != "00"])
def test_every_lesson_has_two_to_six_exercises_and_uses_all_of_them(source):
    used = re.findall(r"""\b(?:exercise|mine)\(\s*["']([\w.]+)["']""", "\n".join(equations.cells(source, "code")))
    assert 2 <= len(used) <= 6 and set(used) == set(kit.exercises(source.stem[:2]))


def example(**more):
    wrong = {"wrong sign": lambda x: -x, "squared": lambda x: x * x}
    return kit.Exercise("1a", "think", lambda x: x, wrong, inputs=[(2.0,), (3.0,)], **more)


def test_an_answer_that_raises_is_told_what_it_raised_and_where():
    assert "for 2.0: your answer raised ZeroDivisionError" in example().judge(lambda x: 1 / 0)[1]
    assert "for 3.0: your answer raised ZeroDivisionError" in example().judge(lambda x: x / (x - 3))[1]


def test_a_message_names_the_input_that_failed_and_never_the_answer():
    verdict, message = example().judge(lambda x: x if x == 2.0 else 7.5)
    assert verdict == "wrong" and "for 3.0: 7.5 is not it" in message and "expected 3" not in message
    assert "wrong sign" in example().judge(lambda x: -x)[1] and example().judge(lambda x: None)[0] == "open"


def test_a_wrong_shape_is_told_the_right_one():
    e = kit.Exercise("1a", "think", lambda x: x, {}, inputs=[(torch.ones(2, 3),)])
    assert "expected shape (2, 3), got a tensor (3, 2)" in e.judge(lambda x: x.T)[1]


def test_what_is_forbidden_is_refused_also_inside_of_functions_and_classes():
    e = example(forbidden={"grad": "write the derivative yourself"})

    class Hidden:
        def f(self, x):
            return torch.autograd.grad(x, x)

    for answer in (lambda x: torch.autograd.grad(x, x), lambda x: (lambda y: torch.func.grad(y))(x), Hidden):
        assert e.judge(answer) == ("wrong", "✗ 1a: not with `grad`: write the derivative yourself")
    assert e.judge(lambda x: x)[0] == "right"


def test_an_answer_that_writes_into_its_arguments_spoils_nothing():
    e = kit.Exercise("1a", "think", lambda x: x + 1, {"zeros": lambda x: 0 * x}, inputs=[(torch.ones(2),)])
    assert e.judge(lambda x: x.add_(1))[0] == "right" and e.judge(lambda x: x.add_(1))[0] == "right"


def test_mine_returns_the_readers_function_only_where_it_is_right(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["kit.exercises"], "exercises", lambda lesson: {"1a": example()})

    def library(x):
        return x

    def right(x):
        return x + 0

    def wrong(x):
        return -x

    assert kit.mine("1a", right, library) is right and "runs on your right" in capsys.readouterr().out
    assert kit.mine("1a", wrong, library) is library and "goes on with the library's library" in capsys.readouterr().out
    assert kit.mine("1a", ..., library) is library and "not solved yet" in capsys.readouterr().out
    with pytest.raises(ValueError, match="expected one of the exercises"):
        kit.mine("1z", right, library)
