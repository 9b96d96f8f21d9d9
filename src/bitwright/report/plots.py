"""The interactive figures, checked by plotly and written as data for the page's one copy of plotly.js."""

import json

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from bitwright.report.palette import INK

_FONT = {"family": "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif", "size": 12, "color": INK}
_HOVER = {"bgcolor": "white", "bordercolor": "#888888", "align": "left", "font": {"size": 12}}
_LOOK = {"template": "none", "paper_bgcolor": "white", "plot_bgcolor": "white", "font": _FONT, "hoverlabel": _HOVER}


def script() -> str:
    """The plotly.js that draws the figures."""
    return get_plotlyjs()


def as_json(figure: dict) -> str:
    """Traces and layout, checked by plotly, as text that is safe inside a script element."""
    checked = go.Figure(data=figure["data"], layout={**_LOOK, **figure["layout"]}).to_plotly_json()
    text = json.dumps(checked, sort_keys=True, allow_nan=False, ensure_ascii=False)
    # no "</script>" and no "<!--" can survive this
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
