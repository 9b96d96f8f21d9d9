"""Trained networks with their data: two embedded ones, and real ones whose files stand in $BITWRIGHT_DATA."""

from bitwright.model.task import Task
from bitwright.model.zoo.embedded import EMBEDDED
from bitwright.model.zoo.real import REAL

TASKS: dict[str, Task] = {**EMBEDDED, **REAL}

__all__ = ["EMBEDDED", "REAL", "TASKS"]
