"""A worker without a network: figures follow from the assignment, and a setup says how it misbehaves."""

import hashlib
import os
import sys
import time
from pathlib import Path

from bitwright.search.point import Alone, Assignment, Damage, Design, Figures, Machine
from bitwright.search.worker import Setup, main

COMMAND = (sys.executable, __file__)


class Toy:
    """Takes some seconds an assignment; the value "poison" kills it, "until FILE" ends when there is one."""

    def __init__(self, seconds: float) -> None:
        self.seconds = float(seconds)

    def figures(self, assignment: Assignment) -> Figures:
        if "poison" in assignment.values():
            os._exit(3)
        print("a library says something")
        for text in assignment.values():
            while text.startswith("until ") and not os.path.exists(text.removeprefix("until ")):
                time.sleep(0.02)
        time.sleep(self.seconds)
        digest = hashlib.sha256(repr(sorted(assignment.items())).encode()).digest()
        return Figures(digest[0] / 2, digest[1] / 2, None, float(digest[2]), 4, self.seconds)

    def damage(self, what: Alone) -> Damage:
        values = [(name, text, len(name) + len(text) / 8) for name, texts in what.choices for text in texts]
        return Damage(tuple(values), 0.0)


def toy_of(setup: Setup) -> Toy:
    """`model` is seconds an assignment, or a misbehaviour."""
    if setup.model == "fails":
        raise ValueError("there is no such model on this machine")
    if setup.model == "dies":
        os._exit(9)
    return Toy(float(setup.model))


def toy_setup(seconds: float | str, folder: str = "") -> Setup:
    return Setup(str(seconds), None, None, (), 0.5, folder)


def designs(count: int) -> list[Design]:
    return [Design((("a", f"scheme {i}"), ("b", "other")), Machine()) for i in range(count)]


def held_up(folder: Path) -> list[Design]:
    """Twelve: two that wait for a file "begun" there, and a last one that waits for "over"."""
    first = [Design((("a", f"until {folder / 'begun'}"), ("b", str(i))), Machine()) for i in range(2)]
    return [*first, *designs(9), Design((("a", f"until {folder / 'over'}"),), Machine())]


def alone(count: int) -> list[Alone]:
    return [Alone("kl", ((f"layer {i}", ("one scheme", "another")),)) for i in range(count)]


if __name__ == "__main__" and sys.argv[1].startswith("{"):
    main(toy_of)
elif __name__ == "__main__":
    from bitwright.search.queue import Clock, work

    made = toy_of if len(sys.argv) == 2 else lambda setup: toy_of(toy_setup(sys.argv[2]))
    try:
        work(sys.argv[1], evaluator_of=made, clock=Clock(1, 3, 0.05), idle=60.0)
    except ValueError as error:
        sys.exit(str(error))
