"""Every product a layer: modules that keep several in one call, or write one in their own way, are taken apart."""

from torch import nn

from bitwright.model.transform.unroll_attention import unroll_attention
from bitwright.model.transform.unroll_encoder import unroll_encoder
from bitwright.model.transform.unroll_recurrent import unroll_recurrent
from bitwright.model.transform.unroll_transposed import unroll_transposed
from bitwright.model.transform.untranspose_linear import untranspose_linear


def unroll(model: nn.Module) -> nn.Module:
    """A copy of which `inspect` sees every product that it can; it computes the same function."""
    for taken_apart in (untranspose_linear, unroll_recurrent, unroll_transposed, unroll_encoder, unroll_attention):
        model = taken_apart(model)
    return model
