"""The package as a whole: what it loads, what it shows, and the order its modules build on each other."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import alphabar
from alphabar import errors
from alphabar.errors import AlphabarError, MissingExtraError, UnknownNameError, look_up

PACKAGE = Path(alphabar.__file__).parent
PROJECT = Path(__file__).parents[1]

# The top level is the table of contents: each unit imports only from those before it.
UNITS = [
    *("errors", "checks", "schedule", "kernels", "process", "denoise", "samplers"),
    *("training", "evaluation", "diffusers", "convert", "explorer", "cli"),
]
CORE = UNITS[: UNITS.index("training")]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "alphabar"


MODULES = {module_name(path): ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
every_module = pytest.mark.parametrize("name", MODULES)


def imported(tree: ast.Module, name: str = "") -> set[str]:
    """The modules of this package that a module imports, wherever in its text, or names in a string.

    A string may name the module itself, or its own package.
    """
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    own = {f"alphabar.{name}", f"alphabar.{name}".rpartition(".")[0]}
    found = {f"alphabar.{other}" for other in MODULES if f"alphabar.{other}" in texts - own}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name.removeprefix("alphabar.") in MODULES else node.module for name in inner}
    ours = {name for name in found if name.split(".")[0] == "alphabar"}
    return {name.removeprefix("alphabar.") for name in ours}


def test_imports_are_counted_wherever_they_stand():
    lines = (
        "from alphabar.denoise import files",
        "def f():",
        "    import alphabar.checks",
        "    importlib.import_module('alphabar.cli.plots')",
        "TABLE = {'x': 'alphabar.errors'}",
    )
    assert imported(ast.parse("\n".join(lines))) == {"denoise.files", "checks", "cli.plots", "errors"}


def unit(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def test_the_top_level_is_the_table_of_contents():
    shown = {unit(name) for name in MODULES if name not in ("alphabar", "__main__")}
    assert shown <= set(UNITS)
    assert len(shown - {"errors", "checks"}) <= 11


@every_module
def test_a_unit_imports_only_from_units_before_it(name):
    for other in imported(MODULES[name], name):
        if name in ("alphabar", "__main__"):
            assert unit(other) in CORE or name == "__main__"
        elif other != "alphabar":  # the version
            assert UNITS.index(unit(other)) <= UNITS.index(unit(name)), f"{name} imports {other}"


def test_no_modules_import_each_other_in_a_circle():
    # Take away what imports nothing that is left, until nothing is left.
    left = {name: imported(tree, name) for name, tree in MODULES.items()}
    while free := {name for name, needed in left.items() if not needed & left.keys()}:
        left = {name: needed for name, needed in left.items() if name not in free}
    assert left == {}


@every_module
def test_files_are_at_most_350_lines_and_functions_50_without_their_docstrings(name):
    tree, lines = MODULES[name], 0
    for node in ast.walk(tree):
        lines = max(lines, getattr(node, "end_lineno", 0))
        if isinstance(node, ast.FunctionDef):
            text = node.body[0] if ast.get_docstring(node) else None
            length = node.end_lineno - node.lineno + 1 - (text.end_lineno - text.lineno + 1 if text else 0)
            assert length <= 50, f"{name}.{node.name} has {length} lines"
    assert lines <= 350


@every_module
def test_a_module_says_what_it_is(name):
    assert ast.get_docstring(MODULES[name])


def test_every_name_offered_by_the_core_exists():
    for name in MODULES:
        if name == "alphabar" or unit(name) in CORE:  # the others may need packages that are not installed
            module = importlib.import_module("alphabar" if name == "alphabar" else f"alphabar.{name}")
            assert all(hasattr(module, offered) for offered in module.__all__), name


def test_the_public_names_are_all_listed_once():
    names = alphabar.__all__
    public = {
        name
        for name, value in vars(alphabar).items()
        if not name.startswith("_") and not (hasattr(value, "__path__") or hasattr(value, "__file__"))
    }
    assert set(names) == public
    assert len(set(names)) == len(names)


def test_importing_loads_torch_and_the_standard_library_alone():
    program = """
import sys, torch
before = set(sys.modules)
import alphabar
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "alphabar" in loaded
    assert loaded - {"alphabar", "torch"} <= sys.stdlib_module_names


def test_the_package_is_typed_and_has_one_version():
    assert (PACKAGE / "py.typed").is_file()
    version = re.search(r'^version = "(.+)"$', (PROJECT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert alphabar.__version__ == version[1]


# --- the tree of errors ---

CLASSES = {name: getattr(errors, name) for name in errors.__all__ if name.endswith("Error")}


@pytest.mark.parametrize("error", CLASSES.values(), ids=CLASSES.keys())
def test_an_error_is_ours_and_a_built_in_one_and_stands_in_the_tree(error):
    assert issubclass(error, AlphabarError)
    if error is not AlphabarError:
        (built_in,) = (base for base in error.__bases__ if not issubclass(base, AlphabarError))
        assert built_in in (ValueError, TypeError, ImportError, IndexError)
        assert re.search(rf"[├└]── {error.__name__} +\({built_in.__name__}\)", errors.__doc__)


def test_a_missing_extra_names_the_command_that_installs_it():
    assert "pip install 'alphabar[train]'" in str(MissingExtraError("alphabar.training", "train"))


@pytest.mark.parametrize("name", ["c", None, ["a"], 3])
def test_a_name_in_no_table_is_answered_with_the_table(name):
    assert look_up({"b": 1, "a": 2}, "a", "letter") == 2
    with pytest.raises(UnknownNameError, match=re.escape(f"unknown letter {name!r}: choose one of 'a', 'b'")):
        look_up({"b": 1, "a": 2}, name, "letter")
