"""Schemes and recipes as text: the call that makes them, parsed with `ast`, literals and known names only.

"vs_quant(4, 8, weight_scale_bits=6)" is a call of the catalogue; `repr` of any scheme is text for the same scheme. A
third party's scheme is "their_package.module:scheme(bits=4)". A text may have a name in front, "mine = nvfp4()", which
stands for it in tables.
"""

import ast
import hashlib
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from bitwright import datapath, formats, quantization
from bitwright.quantization.scale import ScaleValue
from bitwright.recipe import Promotion, Recipe, Rule
from bitwright.recipes import RECIPES
from bitwright.scheme import Scheme
from bitwright.schemes import CATALOGUE, FOLDED
from bitwright.schemes.a2q import L1Bounded
from bitwright.schemes.mx import CeilingRule, OcpRule, RoundedRule
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import ArtifactGrid, Recoding, TermBudget

_SCHEMES: dict[str, Callable[..., Scheme]] = {f.__name__: f for f in (*CATALOGUE, *FOLDED)}
_RECIPES: dict[str, Callable[..., Recipe]] = {f.__name__: f for f in RECIPES}
FACTORIES: dict[str, Callable[..., Scheme | Recipe]] = {**_SCHEMES, **_RECIPES}
"""What stands at the front of a scheme text."""

LARGEST_EXPONENT = 1024
"""Of a power that is written out: beyond it no float has a value."""

_NOUNS: dict[str, Any] = {
    name: getattr(module, name)
    for module in (formats, quantization, datapath)
    for name in module.__all__
    if name[0].isupper()
} | {
    c.__name__: c
    for c in (
        Scheme, Recipe, Rule, Promotion, ScaleValue, OcpRule, CeilingRule, RoundedRule, Overwrite, Pick, TermBudget,
        Recoding, ArtifactGrid, L1Bounded,
    )
}  # fmt: skip


_NAMED = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*=(?=\s*[A-Za-z_])")


def label_of(text: str) -> str:
    """The name in front of a scheme's text, or the text itself."""
    found = _NAMED.match(text)
    return found[1] if found else text


def definition_of(text: str) -> str:
    """A scheme's text without the name in front."""
    return _NAMED.sub("", text, count=1).strip() if _NAMED.match(text) else text


WORDS = "bitwright.words"
"""Entry points of installed packages: classes of formats, scales and the like that a text may name."""


def from_text(text: str, words: tuple[type, ...] = ()) -> Scheme | Recipe:
    """The scheme or recipe that a text makes. A wrong name or argument raises ValueError with the nearest right one.

    `words` are classes of one's own that it may name, besides those that installed packages offer as `WORDS`.
    """
    text = definition_of(text)
    module, colon, call = text.partition(":")
    external: dict[str, Any] = {}
    is_external = bool(colon) and all(part.isidentifier() for part in module.strip().split("."))
    if is_external:
        external, text = _import(module.strip()), call
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last three: null bytes, and too deep nesting
        raise ValueError(
            f"{text[:80]!r} is not a scheme; write a call such as vs_quant(4, 8) or integer(weight_bits=4)"
        ) from None
    if isinstance(tree, ast.Name):
        tree = ast.Call(tree, [], [])
    if is_external and isinstance(tree, ast.Call) and ast.unparse(tree.func) not in external:
        raise ValueError(
            f"{module.strip()} has no function {ast.unparse(tree.func)!r} "
            f"that is annotated to return a Scheme or a Recipe{_nearest(ast.unparse(tree.func), list(external))}"
        )
    own = {word.__name__: word for word in words}
    value = _value(tree, {**_installed(), **own, **_NOUNS, **FACTORIES, **external}, text)
    if not isinstance(value, Scheme | Recipe):
        raise ValueError(f"{text!r} makes a {type(value).__name__}; a scheme or a recipe is needed")
    return value


def scheme_texts_of(text: str) -> tuple[str, ...]:
    """Texts of the schemes that a recipe's rules and promotion assign, each once; of a scheme its own.

    None of a recipe that a factory makes, as its schemes stand in no text.
    """
    if isinstance(from_text(text), Scheme):
        return (text,)
    calls = [node for node in ast.walk(ast.parse(definition_of(text).strip())) if isinstance(node, ast.Call)]
    assigning = [call for call in calls if ast.unparse(call.func) in (Rule.__name__, Promotion.__name__)]
    found = [
        scheme for call in assigning
        for scheme in (*call.args[1:2], *(word.value for word in call.keywords if word.arg == "scheme"))
    ]  # fmt: skip
    return tuple(dict.fromkeys(ast.unparse(scheme) for scheme in found if not isinstance(scheme, ast.Constant)))


@cache
def _installed() -> dict[str, Any]:
    return {point.name: point.load() for point in entry_points(group=WORDS)}


def code_of(text: str, made: Scheme | Recipe) -> str:
    """A digest of the modules outside of this package that a text, and what it makes, come from; "" for none."""
    modules = {definition_of(text).partition(":")[0].strip(), *_modules(made)} & sys.modules.keys()
    files = {getattr(sys.modules[name], "__file__", None) for name in modules if name.partition(".")[0] != "bitwright"}
    digests = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if file]
    return " ".join(sorted(digests))


def _modules(value: Any) -> Iterator[str]:
    """Of the types that a value is made of."""
    yield type(value).__module__
    if is_dataclass(value):
        for field in fields(value):
            yield from _modules(getattr(value, field.name))
    elif isinstance(value, tuple):
        for part in value:
            yield from _modules(part)


def _import(module: str) -> dict[str, Any]:
    try:
        names = vars(importlib.import_module(module))
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"{module!r} could not be imported ({error}); install it or correct the name") from None
    return {name: value for name, value in names.items() if _makes_schemes(value)}


def _makes_schemes(value: Any) -> bool:
    """A function whose annotation says so: a text must not call anything else of a module."""
    try:
        made = inspect.signature(value).return_annotation
    except (TypeError, ValueError):
        return False
    return made in (Scheme, Recipe) or str(made).rpartition(".")[2] in ("Scheme", "Recipe")


def _value(node: ast.expr, names: dict[str, Any], text: str) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Tuple(elts) | ast.List(elts):
            return tuple(_value(e, names, text) for e in elts)
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)):
            return -number
        case ast.BinOp(ast.Constant(int() | float() as base), ast.Pow(), right):
            exponent = _value(right, names, text) if isinstance(right, ast.Constant | ast.UnaryOp) else None
            if isinstance(exponent, int) and abs(exponent) <= LARGEST_EXPONENT and base:
                return base**exponent
        case ast.Name(name):
            return _look_up(name, names, text)
        case ast.Attribute(ast.Name(owner), member):
            enum = _look_up(owner, names, text)
            if isinstance(enum, type) and issubclass(enum, Enum):
                return _look_up(member, dict(enum.__members__), text, f"{owner} has")
        case ast.Call(ast.Name(name), args, keywords):
            function = _look_up(name, names, text)
            positional = [_value(a, names, text) for a in args]
            named = {k.arg or "": _value(k.value, names, text) for k in keywords}
            return _call(name, function, positional, named)
    raise ValueError(f"{ast.unparse(node)!r} in {text!r} is not allowed; use numbers, names and calls of the catalogue")


def _call(name: str, function: Any, positional: list[Any], named: dict[str, Any]) -> Any:
    if not callable(function):
        raise ValueError(f"{name} is a value, not a call; write it without parentheses")
    signature = inspect.signature(function)
    for key in named:
        if key not in signature.parameters:
            raise ValueError(f"{name} has no argument {key!r}{_nearest(key, list(signature.parameters))}")
    try:
        bound = signature.bind(*positional, **named)
    except TypeError as error:
        raise ValueError(f"{name}: {error}; it takes {signature}") from None
    for key, value in bound.arguments.items():
        kind = signature.parameters[key].annotation
        if not _fits(value, kind):
            raise ValueError(f"{name}: {key} is {value!r}; it must be {inspect.formatannotation(kind)}")
    try:
        return function(*positional, **named)
    except TypeError as error:
        raise ValueError(f"{name}: an argument has the wrong type ({error}); it takes {signature}") from None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated kind; kinds that are no classes are left to the call."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in typing.get_args(kind))
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    kind = typing.get_origin(kind) or (type(None) if kind is None else kind)
    return not isinstance(kind, type) or kind is inspect.Parameter.empty or isinstance(value, kind)


def _look_up(name: str, names: dict[str, Any], text: str, owner: str = "") -> Any:
    if name not in names:
        choices = list(names) if owner else list(dict.fromkeys([*FACTORIES, *names]))
        raise ValueError(f"{owner or 'there is'} no {name!r} (in {text!r}){_nearest(name, choices)}")
    return names[name]


def _nearest(name: str, choices: list[str]) -> str:
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    choices = [c for c in choices if c.islower()]
    return f"; choose from {', '.join(choices)}" if choices else ""
