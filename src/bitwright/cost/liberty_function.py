"""Boolean functions as cell libraries write them: `!(A * B) + C'`, `A ^ B`, `(A&B)|!C`, `A B`.

Kept in postfix order, so that evaluating one and turning it into code are the same short loop over a stack.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

OPERATORS = {"&": 3, "*": 3, "^": 2, "|": 1, "+": 1}
"""Binary operators and how strongly they bind; a blank between two operands means `&`."""

SAME = {"*": "&", "+": "|"}
TOKEN = re.compile(r"\s*([A-Za-z_][\w\[\].]*|[01]|[&*^|+!'()])")


@dataclass(frozen=True)
class Function:
    """A boolean function: names, "0", "1", and the operators `& | ^ !`, operands before operators."""

    postfix: tuple[str, ...]

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names read, in order of first appearance."""
        return tuple(dict.fromkeys(word for word in self.postfix if word not in "&|^!01"))

    def __call__(self, values: Mapping[str, int], mask: int = 1) -> int:
        """Value in all lanes at once: bit i of every integer is lane i; `mask` has a one in each lane."""
        stack: list[int] = []
        for word in self.postfix:
            if word == "!":
                stack.append(mask ^ stack.pop())
            elif word in "&|^":
                right, left = stack.pop(), stack.pop()
                stack.append(left & right if word == "&" else left | right if word == "|" else left ^ right)
            else:
                stack.append({"0": 0, "1": mask}[word] if word in "01" else values[word])
        (value,) = stack
        return value

    def code(self, name: Callable[[str], str]) -> str:
        """Python source of the same value, of the names that `name` gives the inputs and the mask `m`."""
        stack: list[str] = []
        for word in self.postfix:
            if word == "!":
                stack.append(f"(m ^ {stack.pop()})")
            elif word in "&|^":
                right, left = stack.pop(), stack.pop()
                stack.append(f"({left} {word} {right})")
            else:
                stack.append({"0": "0", "1": "m"}[word] if word in "01" else name(word))
        (text,) = stack
        return text

    @functools.cached_property
    def truth(self) -> tuple[int, ...]:
        """The value for every assignment of the inputs; the first input changes slowest."""
        rows = product((0, 1), repeat=len(self.inputs))
        return tuple(self(dict(zip(self.inputs, row, strict=True))) for row in rows)

    def sense(self, name: str) -> str:
        """How the value follows one input: positive_unate, negative_unate or non_unate."""
        others = [other for other in self.inputs if other != name]
        rises = falls = False
        for row in product((0, 1), repeat=len(others)):
            given = dict(zip(others, row, strict=True))
            step = self(given | {name: 1}) - self(given | {name: 0})
            rises, falls = rises or step > 0, falls or step < 0
        return "non_unate" if rises and falls else "negative_unate" if falls else "positive_unate"


@functools.cache
def parse_function(text: str) -> Function:
    """A function from a library's text. ValueError quotes a text that is none."""
    output: list[str] = []
    waiting: list[str] = []  # operators and open parentheses
    operand_before = False

    def reduce_down_to(strength: int) -> None:
        while waiting and waiting[-1] != "(" and OPERATORS.get(waiting[-1], 4) >= strength:
            output.append(waiting.pop())

    try:
        for word in _words(text):
            starts_operand = word not in OPERATORS and word not in "')"
            if starts_operand and operand_before:  # a blank is an and
                reduce_down_to(OPERATORS["&"])
                waiting.append("&")
            if word == "'":
                if not operand_before:
                    raise ValueError
                output.append("!")
            elif word in "!(":
                waiting.append(word)
            elif word == ")":
                reduce_down_to(0)
                waiting.pop()
            elif word in OPERATORS:
                if not operand_before:
                    raise ValueError
                reduce_down_to(OPERATORS[word])
                waiting.append(SAME.get(word, word))
            else:
                output.append(word)
            operand_before = word in "')" or (starts_operand and word not in "!(")
        reduce_down_to(0)
        if waiting or not operand_before:
            raise ValueError
        function = Function(tuple(output))
        function.code(str)  # every operator has its operands
        return function
    except (ValueError, IndexError):
        raise ValueError(f"{text!r} is no boolean function of names, & * | + ^ ! ' and parentheses") from None


def _words(text: str) -> list[str]:
    words, place, text = [], 0, text.strip()
    while place < len(text):
        found = TOKEN.match(text, place)
        if found is None:
            raise ValueError
        words.append(found[1])
        place = found.end()
    return words
