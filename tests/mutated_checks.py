"""Does every check of a lesson notice a formula that lost a factor, a sign or an axis? Not a part of the test run.

    python tests/mutated_checks.py            all lessons: some fifteen minutes on an idle core
    python tests/mutated_checks.py 04 07      these alone

Each lesson runs cell by cell. Before a cell with a `check` or `check_below` the formulas of both sides are made wrong,
one place at a time, each in a fork of the process, and the cell runs up to the check. The formulas are the check's own
arguments and, for names that only one side uses, the assignments and functions of the lesson that they stand for.

Made wrong: a factor or divisor dropped, a term's sign turned, a power dropped, a mean made a sum, an axis swapped for
its neighbour, an operand of an einsum made ones. And by 1 %, up and down, the right-hand side as a whole.

"killed": the check failed; "raised": the cell raised something else, such as a wrong shape; "lived": it still prints ✓.
mutated_checks.json names those that may live, each with its reason; any other one ends the run with status 1.
"""

import ast
import contextlib
import copy
import io
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]
os.environ.update(MPLBACKEND="Agg", YOLO_OFFLINE="true")
os.environ.setdefault("TSSA_LESSON", "short")

import torch  # noqa: E402

from kit import CheckFailed, equations  # noqa: E402

EQUIVALENT = Path(__file__).with_name("mutated_checks.json")  # label → why they may live → mutations
SECONDS = 120  # for one mutant
KILLED, LIVED, RAISED = "killed", "lived", "raised"
MAKERS = {"manual_seed", "randn", "rand", "randint", "eye", "zeros", "ones", "arange", "range", "linspace", "logspace"}
DRAWS = {"manual_seed", "randn", "rand", "randint", "randperm", "randn_like", "rand_like", "exponential_", "normal_"}
SHAPERS = {
    "view",
    "reshape",
    "expand",
    "repeat",
    "unflatten",
    "permute",
    "transpose",
    "movedim",
    "roll",
    "diagonal",
    "tile",
}
OVER_AXES = {"sum", "mean", "softmax", "amax", "amin", "norm", "var", "prod", "cumsum", "logsumexp", "argmax", "argmin"}
SWAPPED = {0: 1, 1: 0, -1: -2, -2: -1}


# ---- which formulas a check compares ---------------------------------------------------------------------------
def is_check(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("check", "check_below")
        and isinstance(node.args[0], ast.Constant)
    )


def names(node: ast.AST) -> set[str]:
    """Names that an expression, a function or a statement reads from outside."""
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    own = {a.arg for n in ast.walk(node) if isinstance(n, ast.arguments) for a in (*n.args, *n.kwonlyargs)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.comprehension):
            own |= stored(inner.target)
    if isinstance(node, ast.FunctionDef):
        own |= stored(node)
    return read - own


def stored(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def bindings(cells: list[ast.Module]) -> dict[str, list[tuple[tuple[int, int], ast.AST]]]:
    """Name → where the lesson binds it ((cell, statement), the expression or function), in order."""
    found: dict[str, list] = {}

    def visit(node: ast.AST, at: tuple[int, int]) -> None:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append((at, node))
            return
        if isinstance(node, ast.ClassDef):
            return
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts))
                for one, value in pairs:
                    for name in stored(one):
                        found.setdefault(name, []).append((at, value))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                visit(child, at)

    for c, cell in enumerate(cells):
        for s, statement in enumerate(cell.body):
            visit(statement, (c, s))
    return found


def reached(roots: list[ast.AST], before: tuple[int, int], bound: dict, avoid: frozenset = frozenset()) -> dict:
    """Names that formulas stand on → their bindings before the check, the last ones of each name."""
    found: dict[str, list] = {}
    todo = set().union(*(names(r) for r in roots)) if roots else set()
    while todo:
        name = todo.pop()
        if name in found or name in avoid or name not in bound:
            continue
        last = [(at, node) for at, node in bound[name] if at <= before]
        if last and any(draws(node) for _, node in last):
            continue  # data, not a formula
        if last:  # in its last cell: `total = 0`, then `total += …`
            last = [(at, node) for at, node in last if at[0] == last[-1][0][0]]
            found[name] = last
            todo |= set().union(*(names(node) for _, node in last))
    return found


def draws(node: ast.AST) -> bool:
    return any(isinstance(n, ast.Attribute) and n.attr in DRAWS for n in ast.walk(node))


def sides(call: ast.Call) -> tuple[list[ast.AST], list[ast.AST]]:
    """The formulas of the left and the right side; an inequality's equality case counts where it is given as values."""
    if isinstance(call.args[1], ast.Starred):
        return [], [call.args[1].value]
    left, right = [call.args[1]], [call.args[2]]
    values = not any(k.arg == "draws" for k in call.keywords)
    for k in call.keywords:
        if k.arg == "equal" and values and isinstance(k.value, ast.Tuple) and len(k.value.elts) == 2:
            left, right = [*left, k.value.elts[0]], [*right, k.value.elts[1]]
    return left, right


# ---- how a formula is made wrong -----------------------------------------------------------------------------
def wrong_forms(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in place of `node` in its mutants."""
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Mult | ast.MatMult):
            yield node.left
            yield node.right
        elif isinstance(node.op, ast.Div):
            yield node.left
            if not isinstance(node.left, ast.Constant):
                yield ast.BinOp(ast.Constant(1.0), ast.Div(), node.right)
        elif isinstance(node.op, ast.Pow):
            yield node.left
        elif isinstance(node.op, ast.Add | ast.Sub):
            other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield ast.BinOp(node.left, other, node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield node.operand
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "attr", "")
        if name == "mean" and isinstance(node.func, ast.Attribute):
            yield ast.Call(ast.Attribute(node.func.value, "sum", ast.Load()), node.args, node.keywords)
        if name == "square" and isinstance(node.func, ast.Attribute) and not node.args:
            yield node.func.value
        if name == "einsum":
            for i in range(1, len(node.args)):
                ones = ast.Call(
                    ast.Attribute(ast.Name("torch", ast.Load()), "ones_like", ast.Load()), [node.args[i]], []
                )
                yield ast.Call(node.func, [*node.args[:i], ones, *node.args[i + 1 :]], node.keywords)
        if name in OVER_AXES:
            for i, arg in enumerate(node.args):
                if (axis := axis_of(arg)) is not None:
                    yield ast.Call(node.func, [*node.args[:i], axis, *node.args[i + 1 :]], node.keywords)
            for k in node.keywords:
                if k.arg in ("dim", "axis") and (axis := axis_of(k.value)) is not None:
                    others = [other for other in node.keywords if other is not k]
                    yield ast.Call(node.func, node.args, [*others, ast.keyword(k.arg, axis)])


def axis_of(arg: ast.expr) -> ast.expr | None:
    try:
        value = ast.literal_eval(arg)
    except ValueError:
        return None
    return ast.parse(str(SWAPPED[value]), mode="eval").body if type(value) is int and value in SWAPPED else None


def places(root: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a formula that may be made wrong: no indices, shapes, random draws, messages or defaults."""
    yield root
    if isinstance(root, ast.Subscript):
        yield from places(root.value)
    elif isinstance(root, ast.Call):
        name = getattr(root.func, "attr", getattr(root.func, "id", ""))
        yield from places(root.func) if isinstance(root.func, ast.Attribute) else ()
        if name not in MAKERS and name not in SHAPERS:
            for arg in [*root.args[name == "full" :], *(k.value for k in root.keywords)]:
                yield from places(arg)
    elif isinstance(root, ast.FunctionDef):
        for statement in root.body:
            yield from places(statement)
    elif isinstance(root, ast.Lambda):
        yield from places(root.body)
    elif isinstance(root, ast.JoinedStr | ast.Assert | ast.Raise | ast.Constant):
        pass
    else:
        for child in ast.iter_child_nodes(root):
            yield from places(child)


# ---- a lesson -------------------------------------------------------------------------------------------------
class Lesson:
    def __init__(self, source: Path):
        self.source = source
        self.texts = equations.cells(source, "code")
        self.cells = [ast.parse(text) for text in self.texts]
        self.bound = bindings(self.cells)
        self.ns: dict = {"__name__": "__main__"}

    def statements(self, chosen: list[tuple[int, int]], trees: list[ast.Module]) -> None:
        for c, s in chosen:
            code = compile(ast.Module([trees[c].body[s]], []), f"{self.source.stem}, cell {c + 1}", "exec")
            exec(code, self.ns)

    def checks(self) -> Iterator[tuple[tuple[int, int], ast.Call]]:
        for c, cell in enumerate(self.cells):
            for s, statement in enumerate(cell.body):
                for node in ast.walk(statement):
                    if is_check(node):
                        yield (c, s), node

    def mutants(self, at: tuple[int, int], call: ast.Call) -> Iterator[tuple[str, list, list]]:
        """(what is wrong, statements to run, syntax trees): each mutant of one check; the unchanged one first."""
        left, right = sides(call)
        l_all, r_all = reached(left, at, self.bound), reached(right, at, self.bound)
        both = frozenset(l_all) & frozenset(r_all)
        seen: set[str] = set()
        yield "", [(at[0], s) for s in range(at[1] + 1)], self.cells
        for side, roots in (("left", left), ("right", right)):
            mine = reached(roots, at, self.bound, both)
            defs = [(place, node, name) for name, found in mine.items() for place, node in found]
            for place, root, name in [*((at, r, "") for r in roots), *sorted(defs, key=lambda d: (d[0], d[2]))]:
                again = sorted({p for p, _, _ in defs if place <= p and p[0] < at[0]})
                for node in places(root):
                    for form in wrong_forms(node):
                        old, new = (" ".join(ast.unparse(n).split()) for n in (node, form))
                        what = f"{side}{f', {name}' if name else ''}: {old} → {new}"
                        if old == new or what in seen:
                            continue
                        seen.add(what)
                        trees = list(self.cells)
                        trees[place[0]] = replaced(self.cells[place[0]], node, form)
                        yield what, [*again, *((at[0], s) for s in range(at[1] + 1))], trees


def replaced(tree: ast.Module, node: ast.AST, form: ast.AST) -> ast.Module:
    """A copy of the tree with `form` in the place of `node`."""
    return ast.fix_missing_locations(copy.deepcopy(tree, {id(node): form}))


def verdict(lesson: Lesson, label: str, chosen: list, trees: list) -> str:
    """Run statements in a fork, with all checks but one's silent, and say what became of that one."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(SECONDS)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1), os.dup2(sink, 2)
        ran, said = [], RAISED
        real = {name: lesson.ns[name] for name in ("check", "check_below") if name in lesson.ns}

        def only(name):
            def run(l, *a, **k):
                if l == label:
                    ran.append(real[name].__wrapped__(l, *a, **k))

            return run

        lesson.ns.update({name: only(name) for name in real})
        lesson.ns.update(dict.fromkeys(("agree", "show", "exercise"), lambda *a, **k: None))
        try:
            lesson.statements(chosen, trees)
            said = LIVED if ran else "never ran"
        except CheckFailed:
            said = KILLED
        except BaseException as error:
            said = f"{RAISED} {type(error).__name__}: {error}"[:200]
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode() or f"{RAISED}: no answer in {SECONDS} s"
    os.waitpid(child, 0)
    return said


def nudged(real, seen: dict):
    """The check itself, and then with its right-hand side wrong by 1 %, up and down: these must fail."""

    def scaled(value, by):
        if callable(value):
            return lambda *a: scaled(value(*a), by)
        value = torch.as_tensor(value, dtype=torch.float64).detach()
        return value * by if value.any() else value + by - 1

    def run(label, lhs, rhs, *rest, **options):
        real(label, lhs, rhs, *rest, **options)
        for by in (0.99, 1.01):
            wrong = dict(options)
            if "equal" in options and not callable(rhs):
                wrong["equal"] = (options["equal"][0], scaled(options["equal"][1], by))
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    real(label, lhs, scaled(rhs, by), *rest, **wrong)
                seen[label, by] = LIVED
            except CheckFailed:
                seen[label, by] = KILLED
        return None

    run.__wrapped__ = real
    return run


def judge(source: Path) -> list[tuple[str, str, str]]:
    """(label, what was wrong, verdict) of every mutant of a lesson."""
    import kit

    lesson, rows, percent = Lesson(source), [], {}
    wrapped = {name: nudged(getattr(kit, name), percent) for name in ("check", "check_below")}
    checks = list(lesson.checks())
    for c, tree in enumerate(lesson.cells):
        for at, call in [(at, call) for at, call in checks if at[0] == c]:
            label = call.args[0].value
            for what, chosen, trees in lesson.mutants(at, call):
                said = verdict(lesson, label, chosen, trees)
                if not what:
                    if said != LIVED:
                        rows.append((label, "nothing", f"unchanged it {said}"))
                        break
                    continue
                if said == LIVED and len(chosen) != at[1] + 1:
                    plain = verdict(lesson, label, chosen, lesson.cells)
                    said = said if plain == LIVED else f"not to be run again: {plain}"
                rows.append((label, what, said))
        for s in range(len(tree.body)):
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    lesson.statements([(c, s)], lesson.cells)
            except Exception as error:
                if isinstance(error, CheckFailed):
                    raise
                print(f"  cell {c + 1}: {type(error).__name__}: {str(error)[:100]}", flush=True)
            for name, check in wrapped.items():
                if lesson.ns.get(name) is getattr(kit, name):
                    lesson.ns[name] = check
    return rows + [(label, f"right side times {by}", said) for (label, by), said in percent.items()]


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table = json.loads(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.is_file() else {}
    excused = {
        label: [what for mutations in reasons.values() for what in mutations] for label, reasons in table.items()
    }
    os.chdir(ROOT / "notebooks")
    bad, total = 0, {}
    for source in equations.sources():
        if sys.argv[1:] and source.stem[:2] not in sys.argv[1:]:
            continue
        start, rows = time.perf_counter(), judge(source)
        torch.set_default_dtype(torch.float32)
        count = dict.fromkeys(("checks", "mutants", KILLED, RAISED, "equivalent", LIVED), 0)
        count["checks"] = len({label for label, _, _ in rows})
        for label, what, said in rows:
            count["mutants"] += 1
            kind = said.split()[0].rstrip(":")
            if said == LIVED and what in excused.get(label, []):
                kind = "equivalent"
            if kind in (KILLED, RAISED, "equivalent"):
                count[kind] += 1
            else:
                count[LIVED] += 1
                print(f"  ({label}) {what}: {said}", flush=True)
        mutants = {(label, what) for label, what, said in rows if said == LIVED}
        number = f"{int(source.stem[:2])}."
        stale = [(l, w) for l, these in excused.items() if l.startswith(number) for w in these if (l, w) not in mutants]
        for label, what in stale:
            print(f"  ({label}) {what}: excused, but it doesn't live", flush=True)
        bad += count[LIVED] + len(stale)
        print(f"{source.stem[:2]}  " + ", ".join(f"{n} {k}" for k, n in count.items()), end="", flush=True)
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)
        total = {k: total.get(k, 0) + n for k, n in count.items()}
    print("all " + ", ".join(f"{n} {k}" for k, n in total.items()))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
