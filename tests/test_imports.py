"""Which package may import which, see the layout in CONTRIBUTING.md."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS = {"utils": 0, "models": 1, "datasets": 1, "training": 2, "coding": 2, "benchmarks": 3}
SCRIPT_LEVEL = 4
LAZY = "datasets"  # its __getattr__ imports on demand (PEP 562)
OPTIONAL = {"utils.workers": "_import_distributed"}  # imports what may be missing
COMMANDS = {"benchmark": 3, "compress": 2, "decompress": 3}  # of which main imports each late; --info is one

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*ROOT.glob("*.py"), *(path for name in LEVELS for path in (ROOT / name).rglob("*.py"))]
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
    """Yield each import below a node with the names of its enclosing functions; skip imports for type checks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, functions
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            is_function = isinstance(child, ast.FunctionDef)
            yield from imports_of(child, (*functions, child.name) if is_function else functions)


IMPORTS = {name: list(imports_of(ast.parse(path.read_text(encoding="utf-8")))) for name, path in FILES.items()}


def test_packages_import_from_lower_levels_only():
    for name, imports in IMPORTS.items():
        package = name.partition(".")[0]
        for statement, _ in imports:
            for other in {module.partition(".")[0] for module in modules_of(statement)} - {package}:
                assert LEVELS.get(other, SCRIPT_LEVEL) < LEVELS.get(package, SCRIPT_LEVEL), f"{name} imports {other}"


def test_imports_have_no_cycle():
    graph = {
        name: set().union(*(modules_of(statement) for statement, _ in imports)) for name, imports in IMPORTS.items()
    }
    TopologicalSorter(graph).prepare()


def test_imports_are_at_the_top():
    """Only `main` of a script imports late, once for each command, and what imports an optional dependency."""
    for name, imports in IMPORTS.items():
        late = [functions for _, functions in imports if functions]
        is_script = '__name__ == "__main__"' in FILES[name].read_text(encoding="utf-8")
        allowed = [("__getattr__",)] if name == LAZY else [("main",)] * COMMANDS.get(name, 1) if is_script else []
        allowed = [(OPTIONAL[name],)] if name in OPTIONAL else allowed
        assert not late or late == allowed, f"{name} imports late in {', '.join('.'.join(path) for path in late)}"
