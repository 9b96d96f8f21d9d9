"""Quantized models as files: a module a target, with `write`, `verify`, and `read` where the format can hold it."""

from bitwright.export.targets import TARGETS, Target, ways_out
from bitwright.export.tracing import Tracing

__all__ = ["TARGETS", "Target", "Tracing", "ways_out"]
