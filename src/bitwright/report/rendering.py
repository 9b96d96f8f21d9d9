"""Templates to pages: one jinja environment for every page, and one sentence where the `report` extra is missing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitwright.report import notation
from bitwright.report.tables import Cell

_DEPENDENCIES = ("jinja2", "markupsafe", "plotly")


def write_page(template: str, path: Path, figures: Mapping[str, dict | None], **context: Any) -> None:
    """The template with plotly's figures by element id; those that are None are left out."""
    try:
        import jinja2
        from markupsafe import Markup

        from bitwright.report import plots
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _DEPENDENCIES:
            raise
        raise ImportError(
            f"the HTML report needs jinja2 and plotly, found no {error.name}; pip install 'bitwright[report]'",
            name=error.name,
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sort_key"] = _sort_key
    environment.filters["text_key"] = _text_key
    environment.filters["trusted"] = Markup  # drawings of this package, whose words are escaped
    drawn = {name: Markup(plots.as_json(figure)) for name, figure in figures.items() if figure is not None}
    page = environment.get_template(template).render(**context, figures=drawn, plotly=Markup(plots.script()))
    Path(path).write_text(page, encoding="utf-8", newline="\n")


def _sort_key(cell: Cell) -> str:
    """The cell's value as the page's script compares it; empty sorts last."""
    return "" if cell.value is None or cell.value != cell.value else str(cell.value).replace("inf", "Infinity")


def _text_key(text: str) -> str:
    """The same of a cell that is text already: the number that it shows, or the text itself."""
    value = notation.value(text)
    return "" if text == notation.DASH else text if value is None else repr(value)
