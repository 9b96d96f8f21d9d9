"""The pages under schemes/, written from the catalogue when the site is built (an MkDocs hook)."""

import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from bitwright.recipes import RECIPES
from bitwright.schemes import CATALOGUE, FOLDED


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the index and one page a scheme module, to the files and to the navigation."""
    modules: dict[str, list[Callable[..., Any]]] = {}
    for factory in (*CATALOGUE, *FOLDED, *RECIPES):
        modules.setdefault(factory.__module__, []).append(factory)
    pages = {name.rpartition(".")[2]: (sys.modules[name], made) for name, made in modules.items()}
    files.append(File.generated(config, "schemes/index.md", content=_index(pages)))
    for stem, (module, factories) in pages.items():
        files.append(File.generated(config, f"schemes/{stem}.md", content=_page(module, factories)))
    for entry in config.nav:
        if "Schemes" in entry:
            entry["Schemes"] = ["schemes/index.md", *(f"schemes/{stem}.md" for stem in pages)]
    return files


def _index(pages: dict[str, tuple[Any, list[Callable[..., Any]]]]) -> str:
    rows = [
        f"| [`{factory.__name__}`]({stem}.md) | {_first_line(factory)} | {_source(factory)} |"
        for stem, (_, factories) in pages.items()
        for factory in factories
    ]
    return "\n".join(["# Schemes", "", "| call | what it is | source |", "|---|---|---|", *rows, ""])


def _page(module: Any, factories: list[Callable[..., Any]]) -> str:
    title, _, rest = inspect.getdoc(module).partition("\n\n")  # type: ignore[union-attr]
    heading, colon, idea = title.partition(": ")
    if not colon:
        heading, idea = module.__name__.rpartition(".")[2].capitalize(), title
    parts = [f"# {heading}", idea[:1].upper() + idea[1:], _linked(rest)]
    for factory in factories:
        call = f"```python\n{_call(factory)}\n```"
        parts += [f"## {factory.__name__}", call, _linked(inspect.getdoc(factory) or ""), _made(factory)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _call(factory: Callable[..., Any]) -> str:
    parameters = list(inspect.signature(factory).parameters.values())
    lines = [re.sub(r"bitwright\.[\w.]*\.", "", str(p)) for p in parameters]
    keyword_only = [i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY]
    if keyword_only:
        lines.insert(keyword_only[0], "*")
    return "\n".join([f"{factory.__name__}(", *(f"    {line}," for line in lines), ")"])


def _made(factory: Callable[..., Any]) -> str:
    value = factory()
    if not hasattr(value, "datapath"):
        return ""
    examples = "".join(f"\n- {example.operand}: {example.source}" for example in value.examples)
    return (
        f"Without arguments it makes\n\n```text\ninput:    {value.input!r}\nweight:   {value.weight!r}\n"
        f"datapath: {value.datapath!r}\n```\n\nSource: {_linked(value.source)}."
        + (f"\n\nExamples that the tests hold it to:\n{examples}" if examples else "")
    )


def _source(factory: Callable[..., Any]) -> str:
    cited = re.search(r"^.*\b(?:19|20)\d\d\b", inspect.getdoc(factory) or "", re.MULTILINE)  # recipes cite in words
    return _linked(getattr(factory(), "source", "") or (cited[0] if cited else "–"))


def _first_line(factory: Callable[..., Any]) -> str:
    return (inspect.getdoc(factory) or "").splitlines()[0]


def _linked(text: str) -> str:
    """Markdown of a docstring's text: papers linked, powers not read as bold."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text.replace("**", r"\*\*"))
