"""How many of the `onnx` package's own tests of operators a converter to torch reads: results/onnx_operators.md.

    python experiments/onnx_operators.py [MODULE:FUNCTION ...]

Each test is a model of one operator, or of the operator written out, with inputs and outputs. Others' converters take a
message and return a module, such as onnx2torch:convert; one that is not installed is left out.
"""

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from bitwright.sources.onnx import load
from bitwright.sources.onnx_file import tensor

HERE = Path(__file__).parent

TOLERANCES = {torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}
"""Two units in the last place, as expanded operators round in between; others 1e-3, the tests' own."""

Convert = Callable[[ModelProto], Callable[..., Any]]


class Outcome(NamedTuple):
    """What became of one test, and why."""

    kind: str  # "equal" | "refused" | "wrong" | "crash"
    reason: str = ""


def ours(model: ModelProto) -> Callable[..., Any]:
    """By way of a file, as a user gives it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return load(path)


def cases() -> list[Any]:
    """The tests of all operators, which the package generates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return list(collect_testcases(None))


def outcome(case: Any, convert: Convert) -> Outcome:
    """Of one test. ValueError and NotImplementedError are refusals; anything else that is raised is a crash."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            module = convert(case.model)
            for inputs, expected in case.data_sets:
                found = module(*[_tensors(x) for x in inputs])
                found = found if isinstance(found, tuple) else (found,)
                if len(found) != len(expected) or not all(
                    _same(a, _tensors(b), case) for a, b in zip(found, expected, strict=True)
                ):
                    return Outcome("wrong")
    except (ValueError, NotImplementedError) as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("crash", repr(error))
    return Outcome("equal")


def _tensors(value: Any) -> Any:
    if value is None or isinstance(value, list):
        return value if value is None else [_tensors(v) for v in value]
    if isinstance(value, TensorProto):
        return tensor(value, None)
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        raise ValueError("texts are no tensors")
    return tensor(numpy_helper.from_array(array), None)


def _same(found: Any, expected: Any, case: Any) -> bool:
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return False
        return all(_same(a, b, case) for a, b in zip(found, expected, strict=True))
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        return False
    relative = max(case.rtol, TOLERANCES.get(expected.dtype, 1e-3))
    a, b = (t.detach().double().numpy() for t in (found, expected))
    return bool(np.allclose(a, b, rtol=relative, atol=max(case.atol, 1e-5), equal_nan=True))


def main(others: list[str]) -> None:
    tests = cases()
    converters: dict[str, Convert] = {"bitwright": ours}
    for name in others:
        module, _, function = name.partition(":")
        package = module.partition(".")[0]
        converters[f"{package} {version(package)}"] = getattr(import_module(module), function)
    lines = [
        f"# Operators of ONNX\n\n{len(tests)} tests of single operators of onnx {onnx.__version__}: equal to the "
        "expected outputs, refused, wrong, or stopped by another error.\n",
        "| converter | equal | refused | wrong | other errors |",
        "|---|---|---|---|---|",
    ]
    refused: Counter[str] = Counter()
    for name, convert in converters.items():
        found = [outcome(case, convert) for case in tests]
        count = Counter(o.kind for o in found)
        lines.append(f"| {name} | {count['equal']} | {count['refused']} | {count['wrong']} | {count['crash']} |")
        if convert is ours:
            refused = Counter(o.reason.partition("model.onnx: ")[2] or o.reason for o in found if o.kind == "refused")
    lines += ["\nWhat bitwright refuses, with the number of tests:\n"]
    lines += [f"- {count}: {reason}" for reason, count in sorted(refused.items(), key=lambda r: (-r[1], r[0]))]
    (HERE / "results" / "onnx_operators.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
