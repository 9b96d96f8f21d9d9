"""Accumulator widths layer by layer: so many bits below what the data types ask for at each layer's K."""

import re
from collections.abc import Callable

from torch import nn

from bitwright.datapath.widths import data_type_bits
from bitwright.model.inspect import inspect
from bitwright.model.site import naming
from bitwright.model.task import Inputs
from bitwright.model.transform import unroll
from bitwright.recipe import PRODUCTS, Recipe, Rule
from bitwright.scheme import Scheme
from bitwright.schemes import a2q, integer


def below_data_types(
    model: nn.Module,
    below: int,
    *,
    weight_bits: int = 4,
    input_bits: int = 8,
    scheme: Callable[[int, int, int], Scheme] = a2q,
    ends: Scheme | None = integer(8, 8),
    example: Inputs | None = None,
) -> Recipe:
    """Each matrix product gets `scheme(weight_bits, input_bits, P)`, P bits being the data-type bound less `below`.

    The bound is that of unsigned inputs (arXiv:2301.13376). `ends`, where given, is the scheme of the first and the
    last product. A width too narrow for one non-zero weight raises ValueError naming the layer and the least width.
    """
    unrolled = unroll(model)
    products = [layer for layer in inspect(unrolled, example).layers if layer.kind in PRODUCTS]
    rules = [] if ends is None else [Rule("first", ends), Rule("last", ends)]
    for layer in products if ends is None else products[1:-1]:
        weight = unrolled.get_submodule(layer.name).get_parameter("weight")
        with naming(layer.name):
            width = data_type_bits(weight[0].numel(), input_bits, weight_bits, is_input_signed=False) - below
            rules.append(Rule(f"re:^{re.escape(layer.name)}$", scheme(weight_bits, input_bits, width)))
    return Recipe(tuple(rules))
