"""The pages' Python runs, in order, and prints what the page says it prints.

A ```python block runs after the blocks before it on the page; with title="NAME" it is a file that they may import.
A ```text block right after it is its output.
"""

import contextlib
import io
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs/tutorials").glob("*.md"), *(ROOT / "docs/concepts").glob("*.md")])
BLOCK = re.compile(
    r"^```python(?: title=\"(?P<file>[\w.]+)\")?\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```)?", re.M | re.S
)


def test_there_are_five_tutorials():
    assert len([p for p in PAGES if p.parent.name == "tutorials"]) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_blocks_run_and_print_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    already = set(sys.modules)
    names = {"__name__": page.stem}
    text = page.read_text()
    for block in BLOCK.finditer(text):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["code"])
            continue
        line = text[: block.start()].count("\n") + 1
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * line + block["code"], str(page), "exec"), names)
        if block["output"] is not None:
            assert printed.getvalue() == block["output"], f"{page.name}, line {line}"
    for module in set(sys.modules) - already:
        if getattr(sys.modules[module], "__file__", None) and str(tmp_path) in str(sys.modules[module].__file__):
            del sys.modules[module]
    for written in tmp_path.glob("test_*.py"):
        test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", written.name]
        done = subprocess.run(test, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, textwrap.indent(done.stdout[-3000:], "  ")


def test_every_link_between_pages_leads_somewhere():
    link = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")
    pages = [*ROOT.glob("*.md"), *(p for p in (ROOT / "docs").rglob("*.md") if "schemes" not in p.parts)]
    made = {ROOT / "docs" / "schemes"}  # written when the site is built
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in link.findall(page.read_text())
        if not (path := (page.parent / target).resolve()).exists() and not made & {path, *path.parents}
    ]
    assert not missing
