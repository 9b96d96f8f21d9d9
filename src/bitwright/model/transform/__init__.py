"""Function-preserving changes of a float model before it is quantized."""

from bitwright.model.transform.fold_batchnorm import fold_batchnorm

__all__ = ["fold_batchnorm"]
