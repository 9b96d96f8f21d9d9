"""Quantized models as files: a module a target, with `write`, `verify`, and `read` where the format can hold it."""

from bitwright.export.targets import TARGETS, Target

__all__ = ["TARGETS", "Target"]
