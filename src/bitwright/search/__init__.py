"""The best scheme for each layer, and the array, under a budget in physical units."""

from typing import TYPE_CHECKING, Any

from bitwright.search.budget import Budget, Limit
from bitwright.search.point import Design, Machine, recipe_of, recipe_text
from bitwright.search.question import Question

if TYPE_CHECKING:
    from bitwright.search.driver import search

__all__ = ["Budget", "Design", "Limit", "Machine", "Question", "recipe_of", "recipe_text", "search"]


def __getattr__(name: str) -> Any:
    """Workers import this package too, before they know that they need torch."""
    if name != "search":
        raise AttributeError(f"bitwright.search has no {name!r}")
    from bitwright.search import driver

    return driver.search
