"""The plan of the package: what each part may import, and how long its files and functions may be."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import bsqcodec

PACKAGE = Path(bsqcodec.__file__).parent
MODULES = {
    ".".join(("bsqcodec", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
# What the modules of a part never load, themselves or through each other, when they are imported.
FORBIDDEN = {
    "bsqcodec.stream": {"torch", "av", "bsqcodec.network", "bsqcodec.gop"},
    "bsqcodec.network": {"av", "constriction", "bsqcodec.stream", "bsqcodec.gop", "bsqcodec.media"},
    "bsqcodec.gop": {"av", "bsqcodec.media", "bsqcodec.jobs", "bsqcodec.api"},
    "bsqcodec.jobs": {"av", "bsqcodec.media", "bsqcodec.api"},
    "bsqcodec.media": {"torch", "constriction", "bsqcodec.stream", "bsqcodec.network", "bsqcodec.gop"},
    "bsqcodec.train": {"av", "constriction", "bsqcodec.api", "bsqcodec.media"},
    "bsqcodec.api": {"av", "bsqcodec.media", "bsqcodec.file_encoder", "bsqcodec.file_decoder"},
    "bsqcodec.describe": {"torch", "av"},
    "bsqcodec.pillow": {"torch", "av", "constriction", "bsqcodec.network", "bsqcodec.gop", "bsqcodec.media"},
    "bsqcodec.settings": {"torch", "numpy", "av", "constriction"},
    "bsqcodec.__main__": {"torch", "numpy", "av", "constriction"},
}
MAX_LINES, MAX_FUNCTION_LINES = 400, 60


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports when it is loaded: not what its functions import, nor what only a type checker reads."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    statements = list(ast.parse(path.read_text()).body)
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else base for name in names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            statements += node.body
    return frozenset(found)


def loaded(module: str) -> set[str]:
    """All that is loaded with a module, of this package and of others; loading a module loads its packages."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parts = name.split(".")
        waiting += [".".join(parts[:i]) for i in range(1, len(parts))]
        if name in MODULES:
            waiting += imports(name)
    return seen


def test_the_parts_are_there():
    assert all(any(name == part or name.startswith(f"{part}.") for name in MODULES) for part in FORBIDDEN)
    assert "torch" in loaded("bsqcodec.network.layers") and "constriction" in loaded("bsqcodec.stream.range_coder")


@pytest.mark.parametrize("part", FORBIDDEN)
def test_what_a_part_may_import(part):
    for module in MODULES:
        if module == part or module.startswith(f"{part}."):
            found = loaded(module)
            wrong = {bad for bad in FORBIDDEN[part] for name in found if name == bad or name.startswith(f"{bad}.")}
            assert not wrong, f"{module} loads {', '.join(sorted(wrong))}"


def test_nothing_but_the_benchmark_and_its_command_imports_the_benchmark():
    for module in MODULES:
        if not module.startswith("bsqcodec.bench"):
            assert not any(name.startswith("bsqcodec.bench") for name in loaded(module)), module


def test_no_module_imports_itself_through_others():
    for module in MODULES:
        seen: set[str] = set()
        waiting = list(imports(module))
        while waiting:
            name = waiting.pop()
            if name in MODULES and name not in seen:
                seen.add(name)
                waiting += imports(name)
        assert module not in seen, f"{module} is part of a circle"


def test_no_private_name_is_imported():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("bsqcodec")):
                private = [a.name for a in node.names if a.name.startswith("_") and not a.name.startswith("__")]
                assert not private, f"{module} imports {private} of another module"


@pytest.mark.parametrize("folder", ["bsqcodec", "benchmarks", "examples", "tests"])
def test_files_and_functions_are_short(folder):
    for path in sorted((PACKAGE.parent / folder).rglob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= MAX_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import bsqcodec; bsqcodec.EncodeSettings(quality=40)", "torch numpy av"),
        ("import bsqcodec.api", "av"),
        ("import bsqcodec.train.trainer", "av constriction"),
        ("import bsqcodec.pillow; from PIL import Image; Image.open(stream)", "torch av"),
        ("from bsqcodec.describe import describe; describe(stream)", "torch av"),
    ],
)
def test_what_is_not_loaded(statement, absent):
    """The same in a process: what a module loads only when it runs counts, too."""
    stream = next((PACKAGE / "conformance").glob("*.bsq"))
    code = (
        f"import sys; stream = {str(stream)!r}\n{statement}\nprint([m for m in {absent.split()} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
