"""The house keeps its floors: a module imports only from lower floors or inside its own package."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "featbank"

#: Room -> floor. Rooms of one floor do not know each other, except on floor 0.
FLOORS = {
    "errors": 0,
    "_registry": 0,
    "_atomic": 0,
    "_bucket": 0,
    "_cache": 0,
    "_process": 0,
    "_cuts": 0,
    "_validation": 0,
    "manifest": 0,
    "datasets": 1,
    "backbones": 1,
    "banks": 1,
    "heads": 1,
    "sampling": 1,
    "metrics": 1,
    "engines": 1,
    "extraction": 2,
    "training": 2,
    "sweep": 3,
    "benchmark": 3,
    "runs": 4,
    "plots": 5,
    "inspection": 6,
    "fitting": 6,
    "prediction": 7,
    "report": 7,
    "exporting": 8,
    "pipeline": 8,
    "cli": 9,
    "__main__": 10,
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_names(tree: ast.AST, *, top_level_only: bool = False) -> list[str]:
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else list(ast.walk(tree))
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def violations(source: str, room: str) -> list[str]:
    found = []
    for name in imported_names(ast.parse(source)):
        parts = name.split(".")
        if parts[0] != "featbank" or len(parts) < 2:
            continue
        other = parts[1]
        if other not in FLOORS:  # a public name of the package itself, such as featbank.__version__
            if other not in ("__version__",):
                found.append(f"{room} imports featbank.{other}, which has no floor")
            continue
        if other == room or (FLOORS[other] == FLOORS[room] == 0):
            continue
        if FLOORS[other] >= FLOORS[room]:
            found.append(f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})")
    return found


@pytest.mark.slow
def test_a_module_imports_only_from_lower_floors() -> None:
    found = []
    for path in modules():
        room = room_of(path)
        if room == "__init__":
            continue  # the public names, lazily
        assert room in FLOORS, f"{room} has no floor in tests/test_architecture.py"
        found += [f"{path.relative_to(ROOT)}: {one}" for one in violations(path.read_text(), room)]
    assert not found, "\n".join(found)


def test_the_floor_check_sees_a_violation() -> None:
    assert violations("from featbank.sweep import run_sweep", "heads")
    assert violations("import featbank.banks.bank", "datasets")
    assert violations("def f():\n    from featbank.heads import make\n", "metrics")
    assert not violations("from featbank.errors import FeatbankError", "metrics")


def imports_of(source: str, modules: set[str]) -> set[str]:
    """Which of `modules` a source imports: at its top, inside functions, for types alone."""
    names = imported_names(ast.parse(source))
    return {name if name in modules else name.rpartition(".")[0] for name in names} & modules


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return groups of modules of which each leads to each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen, waiting = set(), [*graph[start]]
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen.add(one)
                waiting += graph[one]
        reached[start] = seen
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return sorted(sorted(group) for group in groups)


def import_graph() -> dict[str, set[str]]:
    sources = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in modules()
    }
    # the package itself imports everything, lazily
    return {name: imports_of(source, set(sources)) - {name, "featbank"} for name, source in sources.items()}


def test_no_module_imports_what_imports_it() -> None:
    assert circles(import_graph()) == []


def test_the_search_for_circles_sees_them() -> None:
    modules = {"p.a", "p.b", "p.c", "p"}
    sources = {
        "p.a": "from p import b",
        "p.b": "def f():\n    from p.c import x",
        "p.c": "if TYPE_CHECKING:\n    import p.a",
        "p": "",
    }
    graph = {name: imports_of(source, modules) for name, source in sources.items()}
    assert graph == {"p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.a"}, "p": set()}
    assert circles(graph) == [["p.a", "p.b", "p.c"]]
    graph["p.c"] = set()
    assert circles(graph) == []


def test_banks_know_neither_torch_nor_images() -> None:
    for path in (PACKAGE / "banks").rglob("*.py"):
        names = {name.split(".")[0] for name in imported_names(ast.parse(path.read_text()))}
        assert not names & {"torch", "torchvision", "PIL"}, path


def test_private_modules_stay_in_their_package() -> None:
    found = []
    for path in modules():
        room = room_of(path)
        for name in imported_names(ast.parse(path.read_text())):
            parts = name.split(".")
            if parts[0] == "featbank" and len(parts) > 2 and parts[1] != room:
                found += [
                    f"{path}: {name}"
                    for part in parts[2:]
                    if part.startswith("_") and not part.startswith("__")
                ]
    # names imported from floor 0's own underscore files are public to the house
    found = [
        one for one in found if not any(f"featbank.{zero}" in one for zero in FLOORS if FLOORS[zero] == 0)
    ]
    assert not found, "\n".join(found)


def offers() -> dict[str, set[str]]:
    """Return what each room that is a package has in its `__all__`, and its modules."""
    found = {}
    for path in sorted(PACKAGE.glob("*/__init__.py")):
        tree = ast.parse(path.read_text())
        lists = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        found[path.parent.name] = {name for one in lists for name in ast.literal_eval(one)} | {
            one.stem for one in path.parent.glob("*.py")
        }
    return found


def taken_unoffered(source: str, room: str, offered: dict[str, set[str]]) -> list[str]:
    """Name what a source takes from the package of another room without it being in its `__all__`."""
    return [
        name
        for name in imported_names(ast.parse(source))
        if name.count(".") == 2
        and (parts := name.split("."))[0] == "featbank"
        and parts[1] != room
        and parts[2] not in offered.get(parts[1], {parts[2]})
    ]


def test_what_only_rooms_need_is_imported_from_its_module() -> None:
    offered = offers()
    assert len(offered) > 15
    found = [
        f"{path.relative_to(ROOT)}: {one}, which is not in the room's __all__: import it from its module"
        for path in modules()
        for one in taken_unoffered(path.read_text(), room_of(path), offered)
    ]
    assert not found, "\n".join(found)


def test_the_search_for_what_is_not_offered_sees_it() -> None:
    offered = {"banks": {"Bank", "verification"}}
    assert taken_unoffered("from featbank.banks import Bank, damaged_files", "sweep", offered)
    assert not taken_unoffered("from featbank.banks import Bank, verification", "sweep", offered)
    assert not taken_unoffered("from featbank.banks.verification import damaged_files", "sweep", offered)
    assert not taken_unoffered("from featbank.banks import damaged_files", "banks", offered)


def test_no_vague_names() -> None:
    vague = {"utils", "helpers", "common", "manager"}
    assert not [path for path in modules() if set(path.relative_to(PACKAGE).with_suffix("").parts) & vague]


@pytest.mark.parametrize(
    "statement",
    [
        "import featbank",
        "import featbank.banks, featbank.datasets, featbank.backbones, featbank.heads",
        "import featbank.sweep, featbank.runs, featbank.plots, featbank.metrics, featbank.sampling",
        "import featbank.cli.app",
        "import featbank.extraction, featbank.fitting",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "torchvision", "matplotlib", "sklearn", "scipy", "pandas", "h5py", "PIL.Image"}
    code = f"import sys\n{statement}\nprint(sorted(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_tests_mirror_the_package() -> None:
    rooms = {room_of(path) for path in modules()} - {"__init__", "__main__", "errors", "cli"}
    missing = [
        room
        for room in sorted(rooms)
        if not (ROOT / "tests" / room).is_dir()
        and not (ROOT / "tests" / f"test_{room.lstrip('_')}.py").is_file()
    ]
    assert not missing


def test_help_answers_without_loading_torch() -> None:
    call = "try:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    code = f"import sys\nfrom featbank.cli import main\n{call}\nsys.exit('torch' in sys.modules)"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    assert (
        time.perf_counter() - started < 60
    )  # a hang, not a benchmark: the half second is measured in tests/benchmarks
