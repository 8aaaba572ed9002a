"""The layout of engine/: imports go down only, and each library is known on its own floor."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[1] / "engine"
FLOORS = (  # lowest first; those in one row stand beside each other
    {"errors", "process"},
    {"geometry"},
    {"storage", "models"},
    {"memory"},
    {"search", "plan", "plan_json", "planner", "layout", "canvas_plan", "projection"},
    {"runtime"},
    {"measure", "objects", "tissue", "export"},
    {"factory", "sight", "prepare", "adopt", "certificate", "run", "predict", "check", "runner", "reopen", "learnt", "recompute", "check_canvas", "poles", "describe", "__init__"},
    {"score", "budgets"},
    {"slides"},
    {"collection", "items"},
    {"show", "cli_options", "cli_errors"},
    {"cli_volumes", "cli_batch", "cli_scans", "cli_thickness", "cli_items", "cli_report"},
    {"cli", "__main__"},
)
HEIGHT = {part: height for height, parts in enumerate(FLOORS) for part in parts}
STRANGERS = {"storage", "models"}  # one floor, and they never see each other
RUN_FILES = {f"{part}.py" for part in next(row for row in FLOORS if "run" in row) - {"runner"}} | {"budgets.py"}  # they hold tensors and modules
HOMES = {  # a library, and the files and folders that may import it
    "torch": {"models", "items/run.py", *RUN_FILES},
    "dask": {"runtime/schedule.py", "runtime/graph.py", "runtime/lazy.py", "runtime/statistics.py"},
    "ray": {"runtime/actors.py", "runtime/cluster.py"},
    "zarr": {"storage"},
    "typer": {"cli.py", "cli_options.py", "cli_volumes.py", "cli_batch.py", "cli_scans.py", "cli_thickness.py", "cli_items.py", "cli_report.py"},
}
LATE = {"torch._subclasses.fake_tensor"}  # private in all releases of torch: kept in one function
EMPTY = {"utils", "util", "common", "base", "helpers", "misc"}  # names that say nothing

FILES = {path.relative_to(ENGINE): ast.parse(path.read_text()) for path in sorted(ENGINE.rglob("*.py"))}
each_file = pytest.mark.parametrize("file", FILES, ids=str)


def name_of(file: Path) -> str:
    return ".".join(("engine", *file.with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(file) for file in FILES}


def imports(tree: ast.AST) -> set[str]:
    """The modules that ``tree`` imports anywhere: ``engine.geometry.region``, ``numpy``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES or {node.module}
    return found


def part_of(module: str) -> str:
    return (*module.split("."), "__init__")[1]


@each_file
def test_imports_go_down_only(file):
    part = part_of(name_of(file))
    assert part in HEIGHT, f"{part!r} stands on no floor: give it one in FLOORS"
    for other in {part_of(name) for name in imports(FILES[file]) if name.split(".")[0] == "engine"}:
        assert HEIGHT[other] <= HEIGHT[part], f"{part!r} may not import {other!r}, which stands above it"
        assert {part, other} != STRANGERS


@each_file
def test_a_library_is_known_in_its_home_only(file):
    libraries = {name.split(".")[0] for name in imports(FILES[file])}
    assert not libraries & {"jobs", "tests", "benchmarks"}
    for library in libraries & set(HOMES):
        assert HOMES[library] & {file.as_posix(), file.parts[0]}, f"{library} is imported only in {HOMES[library]}"


@each_file
def test_a_function_imports_nothing_except_where_the_command_line_picks_a_runner(file):
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and file != Path("cli_options.py"):
            assert not imports(node) - LATE, f"{node.name}() imports {imports(node) - LATE}"


@each_file
def test_a_module_is_short_and_its_name_says_what_it_knows(file):
    assert file.stem not in EMPTY
    n_lines = len((ENGINE / file).read_text().splitlines())
    assert n_lines <= 300


@each_file
def test_only_the_command_line_prints(file):
    calls = [node for node in ast.walk(FILES[file]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert file == Path("cli.py") or "print" not in {call.func.id for call in calls}


def test_modules_import_in_no_circle():
    order = TopologicalSorter({name_of(file): imports(tree) for file, tree in FILES.items()}).static_order()
    assert len(set(order) & MODULES) > 40  # the rules above looked at something
