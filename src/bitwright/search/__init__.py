"""The best scheme for each layer, and the array, under a budget in physical units."""

from bitwright.search.budget import Budget, Limit
from bitwright.search.driver import Question, search
from bitwright.search.point import Design, Machine, recipe_of, recipe_text

__all__ = ["Budget", "Design", "Limit", "Machine", "Question", "recipe_of", "recipe_text", "search"]
