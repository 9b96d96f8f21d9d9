"""Function-preserving changes of a float model before it is quantized."""

from bitwright.model.transform.fold_batchnorm import fold_batchnorm
from bitwright.model.transform.replaced import replaced
from bitwright.model.transform.split_channels import (
    SplitInput,
    input_magnitudes,
    split_input_channels,
    split_weight_channels,
    splittable,
)
from bitwright.model.transform.unroll_recurrent import UnrolledCell, UnrolledLayer, unroll_recurrent

__all__ = [
    "SplitInput",
    "UnrolledCell",
    "UnrolledLayer",
    "fold_batchnorm",
    "input_magnitudes",
    "replaced",
    "split_input_channels",
    "split_weight_channels",
    "splittable",
    "unroll_recurrent",
]
