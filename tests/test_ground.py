"""The set-up: pins, bounds and conda file in step, go.py's stamp and messages, the doctor, the notebook builder."""

import ast
import inspect
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

import go
from kit import build, doctor

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def requirements(lines):
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def pins(python="3.12", platform="linux"):
    """name -> version that requirements.txt chooses for a Python and a platform; one pin a name."""
    chosen = {}
    for pin in requirements((ROOT / "requirements.txt").read_text().splitlines()):
        if pin.marker is None or pin.marker.evaluate({"python_version": python, "sys_platform": platform}):
            (specifier,) = pin.specifier
            assert specifier.operator == "==" and pin.name not in chosen, f"two pins, or none, for {pin}"
            chosen[pin.name] = specifier.version
    return chosen


def bounds(python):
    """The requirements of pyproject.toml, extras included, that hold for a Python."""
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|lessons|export|test|site) = \[.*?\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert len(lists) == 5
    found = requirements(re.findall(r'^    "(.*)",$', "".join(lists), re.MULTILINE))
    return [bound for bound in found if bound.marker is None or bound.marker.evaluate({"python_version": python})]


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("python", PYTHONS)
def test_pins_lie_within_the_bounds(python, platform):
    pinned = pins(python, platform)
    assert {bound.name for bound in bounds(python)} == set(pinned)
    for bound in bounds(python):
        assert bound.specifier.contains(pinned[bound.name]), f"{bound} excludes the pin {pinned[bound.name]}"


def test_conda_file_takes_the_pins_from_requirements():
    text = (ROOT / "environment.yml").read_text()
    assert re.search(r"- python=(\S+)", text)[1] in PYTHONS
    assert "==" not in text, "a pin stands in requirements.txt alone"
    assert re.findall(r"^      - (.+)$", text, re.MULTILINE) == [
        "-r requirements.txt",
        "-e .[lessons,export,test,site]",
    ]
    assert re.findall(r"^  - (\S+)$", text, re.MULTILINE)[:2] == ["conda-forge", "nodefaults"]


def test_requirements_name_no_host():
    for name in ("requirements.txt", "pyproject.toml", "environment.yml"):
        assert not re.search(r"https?:|--(extra-)?index|find-links|file:", (ROOT / name).read_text()), name


IMPORT_NAMES = {
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "myst-nb": "myst_nb",
    "sphinx-book-theme": "sphinx_book_theme",
    "sphinx-copybutton": "sphinx_copybutton",
    "sphinx-design": "sphinx_design",
}
COMES_WITH = {
    "IPython": "ipykernel",
    "mpl_toolkits": "matplotlib",
    "jupyter_client": "ipykernel",
    "nbconvert": "jupyterlab",
    "yaml": "ultralytics",
    "cv2": "ultralytics",
    "docutils": "sphinx",
    "scipy": "scikit-learn",
    "triton": "torch",
}


def test_every_import_is_declared_and_every_requirement_used():
    imported, text = set(), (ROOT / "go.py").read_text()
    for folder in ("tssa_lib", "notebooks", "experiments", "tests", "site"):
        for path in (ROOT / folder).rglob("*.py"):
            text += path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imported.add(node.module.split(".")[0])
    declared = {IMPORT_NAMES.get(name, name) for name in pins()}
    ours = {
        path.stem
        for folder in ("notebooks", "tests", "tests/lessons", "site", ".")
        for path in (ROOT / folder).glob("*.py")
    } | {
        "tssa_lib",
        "kit",
        "experiments",
    }
    missing = imported - declared - set(sys.stdlib_module_names) - ours
    assert all(COMES_WITH.get(name) in pins() for name in missing), f"imported, not in requirements.txt: {missing}"
    unused = {name for name in declared if not re.search(rf"\b{name}\b", text)}
    assert not unused, f"in requirements.txt, not used: {unused}"


def test_oldest_python_is_the_same_everywhere():
    oldest = ".".join(map(str, go.OLDEST))
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()
    assert f'target-version = "py{oldest.replace(".", "")}"' in (ROOT / "pyproject.toml").read_text()
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()
    assert f"Python {oldest} or newer" in go.__doc__
    assert inspect.getsource(doctor).count(f"Python {oldest} or newer") == 2
    assert PYTHONS[0] == oldest


# ---- go.py ------------------------------------------------------------------------------------------
def test_go_needs_the_standard_library_only():
    code = "import sys; sys.path.insert(0, '.'); import go; print(sorted(m.split('.')[0] for m in sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-I", "-c", code], cwd=ROOT, text=True)
    outside = set(eval(loaded)) - set(sys.stdlib_module_names) - {"go", "__main__"}
    assert not {name for name in outside if not name.startswith(("_", "sitecustomize"))}


def test_go_names_its_verbs_when_it_gets_another():
    done = subprocess.run([sys.executable, "go.py", "lav"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1
    assert "expected one of lab, test, notebooks, equations, readme, site, doctor, setup, got ['lav']" in done.stderr


def test_go_refuses_an_old_python(monkeypatch):
    monkeypatch.setattr(go, "OLDEST", (99, 0))
    monkeypatch.setattr(go.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="expected Python 99.0 or newer, got"):
        go.newest_python()


def test_go_says_how_to_get_the_venv_module(monkeypatch, tmp_path):
    monkeypatch.setattr(go, "VENV", tmp_path / ".venv")
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match="python3-venv"):
        go.make_venv(uv=None)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A project with the set-up files only, and a list of the commands that go.py would run there."""
    for name in ("requirements.txt", "pyproject.toml", "go.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(go, "ROOT", tmp_path)
    monkeypatch.setattr(go, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(go, "STAMP", tmp_path / ".venv" / "installed.txt")
    monkeypatch.setattr(go, "UNFINISHED", tmp_path / ".cache" / "setup-unfinished")
    monkeypatch.setattr(go, "LOCK", tmp_path / ".cache" / "setup-lock")
    monkeypatch.setattr(go, "PYTHON", tmp_path / ".venv" / "python")
    monkeypatch.setattr(go, "usable", lambda uv: (tmp_path / ".venv" / "python").exists())
    ran = []

    def call(*command, **_):
        ran.append(" ".join(map(str, command)))
        if "venv" in ran[-1]:
            (tmp_path / ".venv").mkdir(exist_ok=True)
            (tmp_path / ".venv" / "python").touch()

    monkeypatch.setattr(go, "call", call)
    return tmp_path, ran


def test_second_start_installs_nothing_and_a_changed_pin_does(bare):
    root, ran = bare
    go.setup()
    assert any("requirements.txt" in command for command in ran)
    ran.clear()
    go.setup()
    assert ran == []
    (root / "requirements.txt").write_text("numpy==2.4.5\n")
    go.setup()
    assert any("requirements.txt" in command for command in ran) and not any(" venv " in command for command in ran)


def test_interrupted_install_starts_afresh(bare, monkeypatch):
    root, ran = bare
    recorded = go.call

    def interrupted(*command, **options):
        recorded(*command, **options)
        if "requirements.txt" in command:
            raise KeyboardInterrupt

    monkeypatch.setattr(go, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go.setup()
    monkeypatch.setattr(go, "call", recorded)
    ran.clear()
    go.setup()
    assert go.STAMP.exists() and any(" venv " in command for command in ran), "half a package would stay"
    ran.clear()
    go.setup()
    assert ran == []


def test_a_second_set_up_waits_for_the_first_and_installs_nothing(bare, monkeypatch, capsys):
    root, ran = bare
    recorded, second = go.call, []

    def busy(*command, **options):
        if not second:  # while the first installs, another starts
            second.append(threading.Thread(target=go.setup))
            second[0].start()
            second[0].join(0.3)
            assert second[0].is_alive(), "the second must wait"
        recorded(*command, **options)

    monkeypatch.setattr(go, "call", busy)
    go.setup()
    second[0].join(30)
    assert sum("requirements.txt" in command for command in ran) == 1 and "waiting for it" in capsys.readouterr().out


def test_a_link_to_a_larger_disk_stays_and_is_emptied(bare):
    root, ran = bare
    (root / "disk" / "old").mkdir(parents=True)
    (root / "disk" / "old" / "rest").touch()
    (root / ".venv").symlink_to(root / "disk")
    go.setup()
    assert (root / ".venv").is_symlink() and not (root / "disk" / "old").exists() and go.STAMP.exists()


@pytest.mark.parametrize("name", [".venv", ".cache"])
def test_what_stands_in_a_folders_place_is_named_in_one_line(bare, name):
    root, ran = bare
    (root / name).write_text("a file")
    with pytest.raises(SystemExit, match=f"go.py: expected {name} to be a folder, got a file: move it away"):
        go.setup()
    (root / name).unlink()
    (root / name).symlink_to(root / "nowhere")
    with pytest.raises(
        SystemExit, match=f"go.py: expected {name} to be a folder, got a link to .*nowhere, which is not"
    ):
        go.setup()
    assert ran == []


# ---- the doctor -------------------------------------------------------------------------------------
def test_doctor_finds_this_environment_fit(monkeypatch, capsys):
    for probe in ("_memory", "_disk", "_threads"):  # what this machine has at this moment is not under test
        monkeypatch.setattr(doctor, probe, lambda: "not looked at")
    assert doctor.main() == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    assert "FAIL" not in shown
    assert {bound.name for bound in bounds(f"{sys.version_info[0]}.{sys.version_info[1]}")} <= set(
        re.findall(r"^OK +(\S+):", shown, re.M)
    )


def test_doctor_fails_with_the_mend(monkeypatch, capsys):
    version = doctor.importlib.metadata.version
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda name: "1.13.0" if name == "torch" else version(name)
    )
    monkeypatch.setenv("YOLO_OFFLINE", "false")
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    for probe in ("_memory", "_disk"):
        monkeypatch.setattr(doctor, probe, lambda: "not looked at")
    assert doctor.main() == 1
    shown = capsys.readouterr().out
    assert re.search(r"FAIL  torch: ValueError: expected torch\S+, got 1.13.0\n      mend: run `make setup`", shown)
    assert "FAIL  off-line: ValueError: expected YOLO_OFFLINE=true, got 'false'" in shown
    assert "FAIL  threads: ValueError: expected OMP_NUM_THREADS of at most" in shown
    doctor.report()
    assert capsys.readouterr().out.count("FAIL") == 3


def test_doctor_survives_a_missing_installation(monkeypatch, capsys):
    def missing(name):
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", missing)
    assert doctor.main() == 1
    assert "FAIL  tssa_lib: PackageNotFoundError" in capsys.readouterr().out


def test_library_is_quiet_when_jupyter_is_started_by_hand():
    code = "import os, tssa_lib, sys; print(os.environ['YOLO_OFFLINE'], 'ultralytics' in sys.modules)"
    bare = {"PATH": "", "SYSTEMROOT": "", "HOME": "/nonexistent"}
    assert subprocess.check_output([sys.executable, "-c", code], env=bare, text=True).split() == ["true", "False"]


# ---- the notebook builder ---------------------------------------------------------------------------
SOURCE = """# %% [markdown]
# # Two cells

# %%
import sys
print("one"); print("warned", file=sys.stderr); print("two")

# %% tags=["raises-exception"] collapsed=true
raise ValueError("expected 1, got 2")
"""


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "HERE", tmp_path)
    (tmp_path / "src").mkdir()
    source = tmp_path / "src" / "00_two.py"
    source.write_text(SOURCE)
    return source, tmp_path / "00_two.ipynb"


def test_build_is_byte_stable_and_check_sees_an_edit(lesson, monkeypatch, capsys):
    source, target = lesson
    monkeypatch.setattr(sys, "argv", ["build.py"])
    assert build.main() == 0
    first = target.read_bytes()
    assert build.main() == 0 and target.read_bytes() == first
    stored = nbformat.reads(first.decode(), as_version=4)
    assert [cell.metadata for cell in stored.cells] == [{}, {}, {"tags": ["raises-exception"]}]
    assert [output.text for output in stored.cells[1].outputs] == ["one\ntwo\n", "warned\n"]
    assert stored.cells[2].outputs[0].traceback == ["ValueError: expected 1, got 2"]
    assert set(stored.metadata) == {"kernelspec", "language_info"} and "version" not in stored.metadata.language_info
    monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
    assert build.main() == 0
    source.write_text(SOURCE.replace("two", "three"))
    assert build.main() == 1 and "cell 2" in capsys.readouterr().out


def test_prose_takes_over_text_and_refuses_changed_code(lesson, monkeypatch, capsys):
    source, target = lesson
    notebook = build.read_source(source)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="kept\n")]
    nbformat.write(notebook, target)
    source.write_text(SOURCE.replace("Two cells", "Three cells"))
    monkeypatch.setattr(sys, "argv", ["build.py", "--prose"])
    assert build.main() == 0
    stored = nbformat.read(target, as_version=4)
    assert stored.cells[0].source == "# Three cells" and stored.cells[1].outputs[0].text == "kept\n"
    before = target.read_bytes()
    source.write_text(SOURCE.replace('"one"', '"another"'))
    assert build.main() == 1 and "run it" in capsys.readouterr().out and target.read_bytes() == before


def test_lessons_are_signed_once_and_again_when_they_change(tmp_path, monkeypatch):
    monkeypatch.setattr(go, "ROOT", tmp_path)
    monkeypatch.setattr(go, "TRUSTED", tmp_path / "trusted.txt")
    signed, status = [], [1]
    monkeypatch.setattr(go.subprocess, "call", lambda command, **_: signed.append(command[4:]) or status[0])
    go.trust_lessons()
    assert signed == [], "nothing to sign"
    lesson = tmp_path / "notebooks" / "00_first.ipynb"
    lesson.parent.mkdir()
    for text, again, works in (("{}", 1, False), ("{}", 2, True), ("{}", 2, True), ("{ }", 3, True)):
        lesson.write_text(text)
        status[0] = int(not works)
        go.trust_lessons()
        assert signed == [[str(lesson)]] * again


def test_make_lab_leads_to_the_first_lesson_whoever_opens_the_browser(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(go, "TRUSTED", tmp_path / "trusted.txt")
    monkeypatch.setattr(go, "become", lambda *command: ran.extend(command))
    monkeypatch.setattr(go.subprocess, "call", lambda *command, **k: 0)
    go.lab(["--no-browser"])
    (url,) = [word.split("=")[1] for word in ran if "default_url=" in word]
    assert url.startswith("/lab/tree/") and (ROOT / url[len("/lab/tree/") :]).is_file() and ran[-1] == "--no-browser"


@pytest.mark.parametrize(
    "args, places",
    [([], ["notebooks", "tests"]), (["-x"], ["notebooks", "tests"]), (["tests/library/test_rates.py"], [])],
)
def test_make_test_runs_every_test_and_every_lesson(args, places, monkeypatch):
    ran = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TSSA_LESSON", "short")
    monkeypatch.setattr(go, "become", lambda *command: ran.extend(command))
    go.test(args)
    assert ran[:2] == ["-m", "pytest"] and [word for word in ran if word in ("tests", "notebooks")] == places
    assert (
        "--nbval" in ran
        and (ROOT / ran[ran.index("--nbval-sanitize-with") + 1]).is_file()
        and ran[len(ran) - len(args) :] == args
    )


@pytest.mark.parametrize(
    "code, said",
    [
        ("1/0", "ZeroDivisionError"),
        ("import os; print(os.getcwd())", "private text"),
        ("print('/home/reader/a.png')", "private text"),
        ("print('C:' + chr(92) + 'Users' + chr(92) + 'anna')", "private text"),
    ],
)
def test_build_stores_no_error_and_no_path(lesson, monkeypatch, capsys, code, said):
    source, target = lesson
    source.write_text(f"# %%\n{code}\n")
    monkeypatch.setattr(sys, "argv", ["build.py"])
    assert build.main() == 1
    assert said in capsys.readouterr().out and not target.exists()


def test_build_stops_a_cell_that_takes_too_long(lesson, monkeypatch, capsys):
    source, _ = lesson
    source.write_text("# %%\nimport time; time.sleep(60)\n")
    monkeypatch.setattr(sys, "argv", ["build.py", "--timeout", "2"])
    assert build.main() == 1
    assert "timed out" in capsys.readouterr().out


def test_sanitiser_hides_times_and_nothing_else():
    import configparser

    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "notebooks" / "nbval_sanitize.cfg")
    pairs = [(parser[name]["regex"], parser[name]["replace"]) for name in parser.sections()]

    def clean(text):
        for pattern, replacement in pairs:
            text = re.sub(pattern, replacement, text)
        return text

    assert clean("trained in 12.5 s, 3e-2 ms a step") == clean("trained in 9 s, 1.5e-03 ms a step")
    assert clean("largest error 6e-17 ≤ 1e-10") == clean("largest error 0e+00 ≤ 1e-10")
    for text in ("mAP50 0.91", "128 pixels", "2 groups of 5 tokens", "R = 3.2 nats, s = 4", "2.58 M parameters"):
        assert clean(text) == text


def test_a_lesson_that_was_opened_and_saved_counts_as_unchanged():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))[:2]:
        stored = path.read_text(encoding="utf-8")
        opened = json.loads(stored)
        opened["metadata"]["language_info"] = {**go.LANGUAGE_INFO, "version": "3.11.7"}  # as JupyterLab writes it
        saved = json.dumps(opened, ensure_ascii=False, indent=1, sort_keys=True, separators=(",", ": ")) + "\n"
        assert saved != stored and go.cleaned(saved) == stored
        opened["cells"][0]["source"] = ["changed"]
        assert go.cleaned(json.dumps(opened)) != stored, "what a reader writes stays"
    assert go.cleaned("no notebook") == "no notebook" and build.METADATA["language_info"] == go.LANGUAGE_INFO


def test_notebook_json_has_one_trailing_newline():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        assert text.endswith("}\n") and "\r" not in text, path.name
