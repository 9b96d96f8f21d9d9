"""Designs as recipes."""

import re
from collections.abc import Mapping

from bitwright.config import definition_of, from_text
from bitwright.recipe import Recipe, Rule
from bitwright.result_search import Costs, Design, Figures, Machine, Point
from bitwright.scheme import Scheme

Assignment = Mapping[str, str]
"""The scheme's text of each layer."""


def recipe_of(design: Design, parsed: Mapping[str, Scheme]) -> Recipe:
    """A rule a layer, or one for all where they agree."""
    if len(design.schemes) == 1:
        return Recipe.uniform(parsed[design.schemes[0]])
    return Recipe(tuple(Rule(exact_name(name), parsed[text]) for name, text in design.layers))


def recipe_text(design: Design) -> str:
    """The same as a text that stands in place of a scheme, a line a layer; names of schemes are left out."""
    if len(design.schemes) == 1:
        return f"{definition_of(design.schemes[0])}\n"
    rules = "".join(f"    Rule({exact_name(name)!r}, {_argument(text)}),\n" for name, text in design.layers)
    return f"Recipe((\n{rules}))\n"


def _argument(text: str) -> str:
    """A scheme's text inside of a call, where no name and no module may stand."""
    own = definition_of(text)
    return repr(from_text(own)) if ":" in own else own


def exact_name(name: str) -> str:
    """A pattern of `Rule` that matches this name alone."""
    return f"re:^{re.escape(name)}$"


__all__ = ["Assignment", "Costs", "Design", "Figures", "Machine", "Point", "exact_name", "recipe_of", "recipe_text"]
