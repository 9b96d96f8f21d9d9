"""The best scheme for each layer under a budget in physical units."""

from bitwright.search.budget import Budget, Limit
from bitwright.search.candidates import Candidates
from bitwright.search.point import Assignment, Design, Figures, Point

__all__ = ["Assignment", "Budget", "Candidates", "Design", "Figures", "Limit", "Point"]
