from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("factory", "generators", "refiners", "training")
FILES = sorted(path for package in PRODUCT for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "transformers", "vllm", "trl", "peft", "datasets", "pandas", "accelerate", "bitsandbytes")
FORBIDDEN_NAMES = ("utils", "util", "common", "helpers", "helper", "misc", "base", "manager", "core")
FORBIDDEN_WORDS = ("Base", "Manager")
MAX_LINES = 300


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_keep_their_direction() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("package", PRODUCT)
def test_importing_a_package_pulls_in_nothing_heavy(package: str) -> None:
    """Of generators and refiners every module; of training what the registry loads."""
    modules = [f"{package}.{path.stem}" for path in (ROOT / package).glob("*.py") if path.stem != "__init__"]
    if package == "training":
        modules = ["training.qlora", "training.evaluate"]
    script = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    script += f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\nassert not heavy, heavy"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_module_says_what_it_is_and_stays_small(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    assert len(text.splitlines()) <= MAX_LINES
    assert path.stem not in FORBIDDEN_NAMES
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert not [
        each for each in classes if each.startswith(FORBIDDEN_WORDS) or each.endswith(FORBIDDEN_WORDS)
    ]


def test_public_functions_and_classes_are_documented() -> None:
    bare = []
    for path in FILES:
        for node in ast.parse(path.read_text("utf-8")).body:
            defined = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if defined and not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{name(path)}: {node.name}")
    assert bare == []
