"""Quantized models as files: a module a target, with `write`, `verify`, and `read` where the format can hold it."""
