"""Changes of a model before it is frozen: those of a float one keep its function, later ones choose its weights."""

from bitwright.model.transform.axe import Budget, InputRange, axe
from bitwright.model.transform.correct_bias import correct_bias
from bitwright.model.transform.fold_batchnorm import fold_batchnorm
from bitwright.model.transform.gptq import ErrorFrom, Gptq, GreedyPath, Method, as_stored, gptq, largest_first
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
    "Budget",
    "ErrorFrom",
    "Gptq",
    "GreedyPath",
    "InputRange",
    "Method",
    "SplitInput",
    "UnrolledCell",
    "UnrolledLayer",
    "as_stored",
    "axe",
    "correct_bias",
    "fold_batchnorm",
    "gptq",
    "input_magnitudes",
    "largest_first",
    "replaced",
    "split_input_channels",
    "split_weight_channels",
    "splittable",
    "unroll_recurrent",
]
