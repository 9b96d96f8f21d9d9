"""Stored samples, each kind by what is found at a path."""

from bitwright.sources.readers.find import reader as reader
