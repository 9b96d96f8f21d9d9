"""Inputs of one scheme with weights of another."""

from bitwright.datapath import Datapath
from bitwright.scheme import Scheme
from bitwright.schemes.ant import ant
from bitwright.schemes.overq import overq


def combined(input: Scheme = overq(4), weight: Scheme = ant(4, 4), datapath: Datapath = Datapath()) -> Scheme:
    """The default: OverQ's inputs and ANT's weights.

    The default datapath takes every pair: exact block sums, times block scales, added in float32.
    """
    sources = dict.fromkeys(source for source in (input.source, weight.source) if source)
    return Scheme(input.input, weight.weight, datapath, "; ".join(sources))
