"""Published recipes: which layers of a network get which scheme."""

from collections.abc import Callable
from dataclasses import replace

from bitwright.recipe import Promotion, Recipe, Rule
from bitwright.scheme import Scheme
from bitwright.schemes import ant, integer, term_revealing
from bitwright.schemes.term_revealing import Recoding


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


def term_revealing_cnn(
    weight_bits: int = 8, input_bits: int = 8, budget: int = 12, data_terms: int = 3, group: int = 8
) -> Recipe:
    """Term Revealing's artifact on CNNs: first product and linear layers in float, its recoding and scale of data.

    Differs: depthwise layers keep `weight_bits` and all terms (the artifact gives them 16 bits, and 16 terms each).
    """
    scheme = _as_in_the_artifact(weight_bits, input_bits, budget, data_terms, group)
    return Recipe((Rule("first", None), Rule("Linear", None), Rule("*", scheme)))


def term_revealing_mlp(weight_bits: int = 4, budget: int = 12, group: int = 16) -> Recipe:
    """Term Revealing's artifact on linear layers: weights alone, as its data stay in float there."""
    scheme = _as_in_the_artifact(weight_bits, weight_bits, budget, 1, group)
    return Recipe.uniform(replace(scheme, input=None))


def _as_in_the_artifact(weight_bits: int, input_bits: int, budget: int, data_terms: int, group: int) -> Scheme:
    return term_revealing(
        weight_bits, input_bits, group=group, budget=budget, data_terms=data_terms,
        recoding=Recoding.HESE_ARTIFACT, quirks=True,
    )  # fmt: skip


RECIPES: tuple[Callable[..., Recipe], ...] = (ant4_8, kept_ends, term_revealing_cnn, term_revealing_mlp)
