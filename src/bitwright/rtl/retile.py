"""The text of a scheme whose groups of neighbours fit an array's rows, where the given one's do not."""

import ast
from collections.abc import Iterator

from bitwright.config import from_text
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import Plan, neighbours, plan
from bitwright.scheme import Scheme

KEYWORDS = ("tile", "group")
"""What schemes call the lanes that are encoded together."""


def require_rows(text: str, made: Plan, rows: int, sign: Sign = Sign.BOTH) -> None:
    """ValueError with the text to type instead, where rows of an array cut the neighbours of this scheme's inputs."""
    group = neighbours(made)
    if rows % group == 0:
        return
    for candidate in _candidates(text, rows):
        if _fits(candidate, rows, made.k, sign):
            raise ValueError(
                f"{text} encodes {group} neighbours together, {rows} rows found; use {candidate}, or a multiple of "
                f"{group} rows"
            )


def _candidates(text: str, rows: int) -> Iterator[str]:
    """The text with each call's tile or group set to the rows."""
    module, colon, call = text.rpartition(":")
    call = call if "(" in call else f"{call}()"
    count = sum(isinstance(node, ast.Call) for node in ast.walk(ast.parse(call, mode="eval")))
    for i in range(count):
        for keyword in KEYWORDS:
            tree = ast.parse(call, mode="eval")
            found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)][i]
            found.keywords = [k for k in found.keywords if k.arg != keyword]
            found.keywords.append(ast.keyword(keyword, ast.Constant(rows)))
            yield module + colon + ast.unparse(tree)


def _fits(text: str, rows: int, k: int, sign: Sign) -> bool:
    """Whether a text is a scheme of which an array of these rows can be planned."""
    try:
        scheme = from_text(text)
        return isinstance(scheme, Scheme) and rows % neighbours(plan(scheme, k=k, sign=sign)) == 0
    except ValueError:  # no such argument, or a scheme that has no circuit
        return False
