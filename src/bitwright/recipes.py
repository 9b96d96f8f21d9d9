"""Published recipes: which layers of a network get which scheme."""

from collections.abc import Callable

from bitwright.recipe import Promotion, Recipe, Rule
from bitwright.scheme import Scheme
from bitwright.schemes import ant, integer


def ant4_8(promoted: int = 4, always: tuple[str, ...] = ()) -> Recipe:
    """ANT4-8: four bits everywhere, and the `promoted` layers with the largest error at 8-bit integers.

    Guo et al., MICRO 2022; artifact option -n8. `always` names layers promoted first (the artifact's last two of BERT).
    """
    if promoted < len(always):
        raise ValueError(f"ant4_8: {len(always)} layers always promoted, but only {promoted} in all; raise promoted")
    return Recipe((Rule("*", ant(4, 4)),), Promotion(promoted, ant(8, 8), always))


def kept_ends(scheme: Scheme = integer(4, 4), ends: Scheme = integer(8, 8)) -> Recipe:
    """One scheme with the first and last product wider, as most papers report them: `kept_ends(overq(4))`."""
    return Recipe.uniform(scheme, ends=ends)


RECIPES: tuple[Callable[..., Recipe], ...] = (ant4_8, kept_ends)
