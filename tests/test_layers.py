"""The design's layers hold: imports point down, and nothing below the schemes knows one of them by name."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bitwright.recipes import RECIPES
from bitwright.schemes import CATALOGUE, FOLDED

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "bitwright"

ORDINARY = {
    "integer": "an English word: accumulators and scales are integers",
    "minifloat": "the module of the Minifloat format, which any scheme may use",
}
"""Catalogue names that code below the schemes may say, and why."""

SCHEME_NAMES = sorted({factory.__name__ for factory in (*CATALOGUE, *FOLDED, *RECIPES)} - ORDINARY.keys())


def modules_below_schemes() -> list[Path]:
    """Source files of the layers that the import contract puts below `schemes`."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    names = [name.strip() for layer in layers[layers.index("schemes") + 1 :] for name in layer.split("|")]
    return sorted(p for name in names for p in (*(PACKAGE / name).rglob("*.py"), PACKAGE / f"{name}.py") if p.exists())


def test_import_contracts_hold():
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_below_the_schemes_are_found():
    assert {"format.py", "quantizer.py", "accumulator.py", "scheme.py"} <= {p.name for p in modules_below_schemes()}


@pytest.mark.parametrize("path", modules_below_schemes(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_scheme_is_named_below_the_schemes(path):
    named = re.compile(rf"\b({'|'.join(map(re.escape, SCHEME_NAMES))})\b")
    found = [f"line {i}: {line}" for i, line in enumerate(path.read_text().splitlines(), 1) if named.search(line)]
    assert not found, f"{path.name} knows a scheme by name; add the fact that it lacks to Bounds"


def test_importing_bitwright_loads_no_torch():
    heavy = "import sys, bitwright; print(sorted({'torch', 'transformers', 'plotly', 'sklearn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
