"""Changes of a model before it is frozen: those of a float one keep its function, later ones choose its weights."""

from bitwright.model.transform.axe import WIDER, Budget, InputRange, axe
from bitwright.model.transform.channel_paths import BoundedReLU, Link
from bitwright.model.transform.correct_bias import correct_bias
from bitwright.model.transform.equalize import Balance, Magnitudes, Migration, WeightRanges, equalize, links
from bitwright.model.transform.fold_batchnorm import fold_batchnorm
from bitwright.model.transform.gptq import (
    AS_CALIBRATED,
    ErrorFrom,
    Gptq,
    GreedyPath,
    Method,
    ScaleSearch,
    as_stored,
    gptq,
    largest_first,
)
from bitwright.model.transform.replaced import replaced
from bitwright.model.transform.split_channels import (
    SplitInput,
    input_magnitudes,
    split_input_channels,
    split_weight_channels,
    splittable,
)
from bitwright.model.transform.unroll import unroll
from bitwright.model.transform.unroll_attention import UnrolledAttention, unroll_attention
from bitwright.model.transform.unroll_encoder import UnrolledEncoderLayer, unroll_encoder
from bitwright.model.transform.unroll_recurrent import UnrolledCell, UnrolledLayer, unroll_recurrent
from bitwright.model.transform.unroll_transposed import UnrolledTransposed, unroll_transposed
from bitwright.model.transform.untranspose_linear import untranspose_linear

__all__ = [
    "AS_CALIBRATED",
    "WIDER",
    "Balance",
    "BoundedReLU",
    "Budget",
    "ErrorFrom",
    "Gptq",
    "GreedyPath",
    "InputRange",
    "Link",
    "Magnitudes",
    "Method",
    "Migration",
    "ScaleSearch",
    "SplitInput",
    "UnrolledAttention",
    "UnrolledCell",
    "UnrolledEncoderLayer",
    "UnrolledLayer",
    "UnrolledTransposed",
    "WeightRanges",
    "as_stored",
    "axe",
    "correct_bias",
    "equalize",
    "fold_batchnorm",
    "gptq",
    "input_magnitudes",
    "largest_first",
    "links",
    "replaced",
    "split_input_channels",
    "split_weight_channels",
    "splittable",
    "unroll",
    "unroll_attention",
    "unroll_encoder",
    "unroll_recurrent",
    "unroll_transposed",
    "untranspose_linear",
]
