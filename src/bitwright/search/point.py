"""Designs as recipes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitwright.config import definition_of, from_text
from bitwright.recipe import Recipe, Rule
from bitwright.result_search import Costs, Design, Figures, Machine, Point
from bitwright.scheme import Scheme
from bitwright.store import key_of

Assignment = Mapping[str, str]
"""The scheme's text of each layer."""


@dataclass(frozen=True)
class Alone:
    """To be measured: what each of some schemes does to each of some layers, all others in float."""

    measure: str
    choices: tuple[tuple[str, tuple[str, ...]], ...]  # layer and its schemes

    @property
    def key(self) -> str:
        return key_of(self.measure, self.choices)


@dataclass(frozen=True)
class Damage:
    """What was measured, by layer and scheme."""

    values: tuple[tuple[str, str, float], ...]
    seconds: float
    error: str | None = None


Job = Design | Alone
"""What a worker is asked for; its answer is `Figures` or `Damage`. A design's machine does not matter to it."""

Answer = Figures | Damage


def words_of(job: Job) -> Any:
    """A job as JSON."""
    if isinstance(job, Design):
        return [list(layer) for layer in job.layers]
    return {"measure": job.measure, "choices": [[name, list(texts)] for name, texts in job.choices]}


def job_of(words: Any) -> Job:
    """The job of `words_of`."""
    if isinstance(words, dict):
        return Alone(words["measure"], tuple((name, tuple(texts)) for name, texts in words["choices"]))
    return Design(tuple((name, text) for name, text in words))


def answer_of(words: dict[str, Any]) -> Answer:
    """Of an answer's fields, as JSON has them."""
    if "values" in words:
        return Damage(tuple(map(tuple, words["values"])), words["seconds"], words["error"])
    return Figures(**words)


def answer_kind(job: Job) -> type[Answer]:
    """What answers a job."""
    return Figures if isinstance(job, Design) else Damage


def failed(job: Job, sentence: str) -> Answer:
    """The answer where there is none."""
    if isinstance(job, Alone):
        return Damage((), 0.0, sentence)
    return Figures(0.0, None, None, None, 0, 0.0, sentence)


def recipe_of(design: Design, parsed: Mapping[str, Scheme]) -> Recipe:
    """A rule a layer, or one for all where they agree."""
    if len(design.schemes) == 1:
        return Recipe.uniform(parsed[design.schemes[0]])
    return Recipe(tuple(Rule(exact_name(name), parsed[text]) for name, text in design.layers))


def recipe_text(design: Design) -> str:
    """The same as a text that stands in place of a scheme, a line a layer; names of schemes are left out."""
    if len(design.schemes) == 1:
        return f"{definition_of(design.schemes[0])}\n"
    rules = "".join(f"    Rule({exact_name(name)!r}, {_argument(text)}),\n" for name, text in design.layers)
    return f"Recipe((\n{rules}))\n"


def _argument(text: str) -> str:
    """A scheme's text inside of a call, where no name and no module may stand."""
    own = definition_of(text)
    return own if ":" not in own and isinstance(from_text(own), Scheme) else repr(scheme_of(own))


def scheme_of(text: str) -> Scheme | None:
    """That of a text that gives every layer the same one: a scheme's, or a recipe's of one rule for all."""
    parsed = from_text(text)
    if isinstance(parsed, Scheme):
        return parsed
    is_uniform = len(parsed.rules) == 1 and parsed.rules[0].layers == "*" and parsed.promotion is None
    return parsed.rules[0].scheme if is_uniform else None


def exact_name(name: str) -> str:
    """A pattern of `Rule` that matches this name alone."""
    return f"re:^{re.escape(name)}$"


__all__ = [
    "Alone", "Answer", "Assignment", "Costs", "Damage", "Design", "Figures", "Job", "Machine", "Point", "answer_kind",
    "answer_of", "exact_name", "failed", "job_of", "recipe_of", "recipe_text", "scheme_of",
    "words_of",
]  # fmt: skip
