"""Set up and start, on a machine that has only Python 3.10 or newer: the standard library is enough for this file.

    python go.py lab [ARGS]        open JupyterLab on the lessons (ARGS go to jupyter lab, e.g. --no-browser)
    python go.py test [ARGS]       run every test and every lesson (ARGS go to pytest; paths narrow the run)
    python go.py notebooks [ARGS]  run the sources again and store the notebooks (ARGS go to kit.build)
    python go.py equations         write the ledger of equations anew
    python go.py readme            write README's map and figures anew, from lessons and results
    python go.py site [ARGS]       build the lessons as a web site that needs no network, in build/site/html
    python go.py doctor            say what this machine lacks for the lessons, and the mend
    python go.py setup             only set up

Each makes .venv first; when nothing changed since the last start, that takes no time.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.txt"
UNFINISHED = ROOT / ".cache" / "setup-unfinished"
LOCK = ROOT / ".cache" / "setup-lock"
TRUSTED = VENV / "trusted.txt"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
OLDEST = (3, 10)

# What a stored notebook says of its language, whatever Python runs it (notebooks/kit/build.py writes the same).
LANGUAGE_INFO = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}

# Imports once, with messages shown here and not in a lesson: settings and font caches are written at the first import.
FIRST_IMPORTS = """
import matplotlib.font_manager, sklearn.datasets, jupyterlab.labapp, nbclient, ipywidgets
import tssa_lib.yolo  # writes Ultralytics' settings, without telemetry, and a font that it would download
"""


def stop(message):
    sys.exit("go.py: " + message)


def call(*command, **options):
    """Run a command and end with its status if it fails."""
    status = subprocess.call([str(part) for part in command], cwd=str(ROOT), **options)
    if status:
        sys.exit(status)


def newest_python():
    """Go on under a Python that is new enough, if this one is too old and another is on the path."""
    if sys.version_info >= OLDEST:
        return
    for minor in (13, 12, 11, 10):
        other = shutil.which("python3.%d" % minor)
        if other:
            sys.exit(subprocess.call([other, str(ROOT / "go.py")] + sys.argv[1:]))
    stop(
        "expected Python %d.%d or newer, got %s (%s).\n  Get one from python.org or your system's packages, then: "
        "python3.12 go.py %s" % (OLDEST + (sys.version.split()[0], sys.executable, " ".join(sys.argv[1:])))
    )


def fingerprint():
    """A hash of all that the environment is made from: pins, bounds, Python version, place."""
    digest = hashlib.sha256()
    for name in ("requirements.txt", "pyproject.toml", "go.py"):
        digest.update((ROOT / name).read_bytes().replace(b"\r\n", b"\n"))
    digest.update(("%d.%d %s" % (sys.version_info[0], sys.version_info[1], ROOT)).encode())
    return digest.hexdigest()


def usable(uv):
    """Whether .venv exists, runs, is of this Python's version, and has what installs into it."""
    code = "import sys%s; print(sys.version_info[:2])" % ("" if uv else ", pip")
    try:
        version = subprocess.check_output([str(PYTHON), "-c", code], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return False
    return version.decode().strip() == str(sys.version_info[:2])


def folder(path):
    """Make a folder, or stop with what stands in its place."""
    if path.is_symlink() and not path.exists():
        stop("expected %s to be a folder, got a link to %s, which is not there" % (path.name, os.readlink(str(path))))
    if path.exists() and not path.is_dir():
        stop("expected %s to be a folder, got a file: move it away" % path.name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        stop("expected to write in %s, got: %s" % (path.parent, error.strerror))


@contextlib.contextmanager
def alone():
    """One set-up at a time: the second waits until the first has ended, however it ends."""
    folder(LOCK.parent)
    try:
        held = open(str(LOCK), "a+")
    except OSError as error:
        stop("expected to write in %s, got: %s" % (LOCK.parent, error.strerror))
    with held:
        if os.name == "nt":
            import msvcrt

            take = lambda wait: msvcrt.locking(held.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            take = lambda wait: fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            take(wait=False)
        except OSError:
            print("another set-up is at work here: waiting for it", flush=True)
            while True:
                with contextlib.suppress(OSError):  # Windows gives up after ten seconds
                    take(wait=True)
                    break
        yield


def empty(path):
    """Delete what is in a folder and keep the folder, which may be a link to a larger disk."""
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(str(child))
        else:
            child.unlink()


def make_venv(uv):
    folder(VENV)
    empty(VENV)
    if uv:
        call(uv, "venv", "--quiet", "--python", sys.executable, VENV)
        return
    try:
        import ensurepip
        import venv
    except ImportError:
        stop(
            "expected Python's venv module, got none.\n  Debian and Ubuntu: sudo apt install python3-venv; "
            "or install uv (docs.astral.sh/uv)."
        )
    call(sys.executable, "-m", "venv", VENV)


def setup():
    """Make .venv as requirements.txt says; the stamp is written last.

    An interrupted install can leave half a package that pip and uv take for a whole one: then .venv is made afresh,
    from the installer's cache.
    """
    if is_set_up():
        return
    with alone():
        if not is_set_up():  # the one that was waited for may have done it
            install()


def is_set_up():
    return not UNFINISHED.exists() and STAMP.exists() and STAMP.read_text() == fingerprint() and PYTHON.exists()


def install():
    start, uv = time.time(), shutil.which("uv")

    def step(number, what):
        print("[%d/3, %3.0f s] %s" % (number, time.time() - start, what), flush=True)

    step(1, "Python environment in .venv")
    afresh = UNFINISHED.exists() or not usable(uv)
    UNFINISHED.touch()
    if afresh:
        make_venv(uv)
    step(2, "packages, with %s: 6 to 7 GB, two to five minutes at first, seconds later" % ("uv" if uv else "pip"))
    what = ["-r", "requirements.txt", "-e", ".[lessons,export,test,site]"]
    if uv:
        call(uv, "pip", "install", "--python", PYTHON, *what)
    else:
        call(PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *what)
    step(3, "first imports")
    call(PYTHON, "-c", FIRST_IMPORTS)
    no_news = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    overrides = VENV / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    overrides.parent.mkdir(parents=True, exist_ok=True)
    overrides.write_text(json.dumps(no_news))
    keep_notebooks_clean()
    STAMP.write_text(fingerprint())
    UNFINISHED.unlink()
    print("set up in %.0f s" % (time.time() - start), flush=True)


# ---- notebooks that stay as they are in git --------------------------------------------------------------------
def keep_notebooks_clean():
    """Tell git to leave out of a notebook what JupyterLab writes when it is merely opened: the kernel's version.

    Else every lesson that is looked at counts as changed, and `git pull` refuses. It is a setting of this clone alone.
    """
    program = ".venv/Scripts/python.exe" if os.name == "nt" else ".venv/bin/python"
    with contextlib.suppress(OSError):  # no git: nothing to keep clean
        command = ["git", "config", "filter.lesson.clean", program + " go.py clean"]
        subprocess.call(command, cwd=str(ROOT), stderr=subprocess.DEVNULL)


def cleaned(text):
    """A notebook as it is stored, from one that JupyterLab has saved; text that is no notebook stays as it is."""
    try:
        notebook = json.loads(text)
        notebook["metadata"]["language_info"] = LANGUAGE_INFO
    except (ValueError, KeyError, TypeError):
        return text
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True, separators=(",", ": ")) + "\n"


def clean(args):
    """The filter of git: a notebook comes in, and goes out as it is stored."""
    sys.stdout.buffer.write(cleaned(sys.stdin.buffer.read().decode("utf-8")).encode("utf-8"))


def quiet():
    """Ultralytics keeps its settings in the project and stays off the network; jupyter finds .venv's kernel."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(ROOT / ".cache" / "ultralytics"))
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ["PATH"] = str(BIN) + os.pathsep + os.environ.get("PATH", "")
    os.environ.pop("PYTHONPATH", None)


def become(*command):
    """Give the terminal, Ctrl-C included, to a program of .venv."""
    command = [str(part) for part in (PYTHON,) + command]
    os.chdir(str(ROOT))
    if os.name == "nt":
        call(*command)
    else:
        os.execv(command[0], command)


def trust_lessons():
    """Sign the lessons, once as long as they stay as they are: their stored views then answer before the first run."""
    lessons = sorted((ROOT / "notebooks").glob("*.ipynb"))
    digest = hashlib.sha256(str(Path.home()).encode())  # where the signatures are kept
    for path in lessons:
        digest.update(path.read_bytes())
    if not lessons or (TRUSTED.exists() and TRUSTED.read_text() == digest.hexdigest()):
        return
    command = [str(PYTHON), "-m", "jupyter", "trust"] + [str(path) for path in lessons]
    if subprocess.call(command, stdout=subprocess.DEVNULL) == 0:
        TRUSTED.write_text(digest.hexdigest())


def lab(args):
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container
        args = ["--allow-root"] + args
    trust_lessons()
    first = "/lab/tree/notebooks/00_start_here.ipynb"  # as default, so that the printed address leads there, too
    become("-m", "jupyterlab", "--ServerApp.root_dir=" + str(ROOT), "--LabApp.default_url=" + first, *args)


def test(args):
    """The tests of the library, then every lesson: each cell runs, and must say what the stored notebook says."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(4, cores)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core; more threads only wait for each other
    os.environ.setdefault("TSSA_LESSON", "short")  # the lessons that train say what this leaves out
    places = []
    if not any((ROOT / arg.split("::")[0]).exists() for arg in args):  # all, by pytest-xdist: the longest files first
        places = ["notebooks", "tests", "-n", str(workers), "--dist", "loadfile"]
    become(
        "-m",
        "pytest",
        *places,
        "--nbval",
        "--nbval-current-env",
        "--nbval-cell-timeout=300",
        "--nbval-sanitize-with",
        "notebooks/nbval_sanitize.cfg",
        "--durations=15",
        *args,
    )


def tool(module):
    """A verb that runs a module of the kit or of the experiments."""

    def verb(args):
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "notebooks")])
        become("-m", module, *args)

    return verb


def site(args):
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "notebooks")])
    become("site/build.py", *args)


def main():
    verbs = {
        "lab": lab,
        "test": test,
        "notebooks": tool("kit.build"),
        "equations": tool("kit.equations"),
        "readme": tool("experiments.readme"),
        "site": site,
        "doctor": tool("kit.doctor"),
        "setup": lambda args: None,
        "clean": clean,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in verbs:
        stop("expected one of %s, got %r\n%s" % (", ".join(v for v in verbs if v != "clean"), sys.argv[1:], __doc__))
    if sys.argv[1] == "clean":  # called by git, often: nothing is set up for it
        return clean(sys.argv[2:])
    newest_python()
    quiet()
    try:
        setup()
        verbs[sys.argv[1]](sys.argv[2:])
    except KeyboardInterrupt:
        stop("interrupted; the next start goes on from there")
    except OSError as error:
        stop("%s%s" % (error.strerror or error, ": %s" % error.filename if error.filename else ""))


if __name__ == "__main__":
    main()
