"""What is loaded when: importing the package, or asking a command for help, costs nothing."""

import subprocess
import sys

import pytest

from bitwright import cli

HEAVY = ("torch", "amaranth", "transformers", "plotly", "sklearn", "jinja2")
SHOW = f"import sys; print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]


def loaded(program: str) -> tuple[str, str]:
    """Standard output of a program in a process of its own, and the heavy modules that it loaded."""
    done = subprocess.run([sys.executable, "-c", f"{program}\n{SHOW}"], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.strip()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded("import bitwright") == ("", "[]")


def test_formats_schemes_and_texts_need_no_torch():
    program = "from bitwright.config import from_text; from bitwright.schemes import CATALOGUE; from_text('mxfp4()')"
    assert loaded(program) == ("", "[]")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(command):
    arguments = ["bitwright", *command.split(), "--help"]
    out, modules = loaded(f"import sys; sys.argv = {arguments!r}\nfrom bitwright.cli import main; main()")
    assert "Usage" in out
    assert modules == "[]"


def test_every_public_name_is_there():
    import bitwright

    assert all(getattr(bitwright, name) is not None for name in bitwright.__all__)
