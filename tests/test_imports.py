"""Which package may import which, by the imports in the source; CONTRIBUTING has the rules."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = {"utils": 0, "models": 1, "datasets": 1, "training": 2, "coding": 2, "benchmarks": 3}
SCRIPT = 4
LAZY = "datasets"  # its __getattr__ imports on demand (PEP 562)
COMMANDS = {"benchmark": 3, "compress": 2, "decompress": 2}  # late imports in main, one per command or --info

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
}


def modules_of(statement):
    """Return the modules of this repository that an import statement names."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    else:
        # `from package import module` names the module, `from module import name` the module before it.
        full = [f"{statement.module}.{alias.name}" for alias in statement.names]
        names = [name if name in FILES else statement.module for name in full]
    return {name for name in names if name in FILES}


def imports_of(node, functions=()):
    """Yield each import below a node with the names of the functions around it, those for type checks left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, functions
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            is_function = isinstance(child, ast.FunctionDef)
            yield from imports_of(child, (*functions, child.name) if is_function else functions)


IMPORTS = {name: list(imports_of(ast.parse(path.read_text(encoding="utf-8")))) for name, path in FILES.items()}


def test_rooms_import_from_rooms_below():
    for name, imports in IMPORTS.items():
        room = name.partition(".")[0]
        for statement, _ in imports:
            for other in {module.partition(".")[0] for module in modules_of(statement)} - {room}:
                assert ROOMS.get(other, SCRIPT) < ROOMS.get(room, SCRIPT), f"{name} imports {other}"


def test_imports_form_no_circle():
    graph = {
        name: set().union(*(modules_of(statement) for statement, _ in imports)) for name, imports in IMPORTS.items()
    }
    TopologicalSorter(graph).prepare()


def test_imports_stand_at_the_top():
    """Only the main function of a script imports late, once for each command."""
    for name, imports in IMPORTS.items():
        late = [functions for _, functions in imports if functions]
        is_script = '__name__ == "__main__"' in FILES[name].read_text(encoding="utf-8")
        allowed = [("__getattr__",)] if name == LAZY else [("main",)] * COMMANDS.get(name, 1) if is_script else []
        assert not late or late == allowed, f"{name} imports late in {', '.join('.'.join(path) for path in late)}"
