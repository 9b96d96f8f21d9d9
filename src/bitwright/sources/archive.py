"""Which saved programs of `torch.export` are read: a graph and plain tensors, and nothing that runs code.

Reading such a file as torch does may unpickle objects, load compiled machine code, import modules by name, and
evaluate texts as Python. What the graph may hold is therefore listed here, and all else refused before torch sees
it: `torch.ops.aten` operators and arithmetic of sizes, tensors stored as raw bytes, sizes written as sums and products.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from bitwright.sources.records import MiB

LARGEST_GRAPH = 256 * MiB

MEMBERS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|version|\.data/version|\.data/serialization_id|"
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)|"
    r"data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt)"
)

OPERATORS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_)|"
    r"torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)|"
    r"math\.(floor|ceil|trunc|sqrt)|torch\.sym_(int|float|max|min|not|sum)"
)
HARMFUL = re.compile(r"torch\.ops\.aten\.(from_file|_print)\.\w+")

SYMBOL = r"Symbol\('[a-z]+\d+'(, [a-z]+=(True|False))*\)"
SQUARE = re.compile(rf"Pow\({SYMBOL}, Integer\(\d\)\)")
EXPRESSION = re.compile(rf"({SYMBOL}|[a-z]\d+|oo|int_oo|[A-Z]\w*|-?\d{{1,19}}|[\s+\-*/(),<>=&|~])*")
FUNCTIONS = {
    "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv",
    "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt", "ToFloat",
    "Identity", "Max", "Min", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "True", "False",
    "Add", "Mul", "Integer", "Rational",
}  # fmt: skip
LONGEST_EXPRESSION = 2000

CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "builtins.NoneType", "collections.OrderedDict", None}
MODEL_OUTPUTS = re.compile(r"transformers\.modeling_outputs\.\w+")
"""Known once transformers is imported."""


def require_plain(path: Path) -> None:
    """ValueError naming what in the file would run code, or is no part of a saved program."""
    try:
        with zipfile.ZipFile(path) as stored:
            _require_members(stored, path)
            for info in stored.infolist():
                if info.filename.endswith(".json"):
                    _require_json(_json(stored, info, path), path)
                elif info.filename.endswith("sample_inputs/model.pt"):
                    _require_tensors(stored, info, path)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{path} is not a whole program of torch.export ({error}); save it again with torch.export.save"
        ) from None


def _require_members(stored: zipfile.ZipFile, path: Path) -> None:
    names = [info.filename for info in stored.infolist()]
    for name in names:
        if not MEMBERS.fullmatch(name) or ".." in name.split("/"):
            raise _refused(path, f"the member {name!r}")
    if not any(name.endswith("models/model.json") for name in names):
        raise ValueError(f"{path} holds no models/model.json; save it again with torch.export.save")
    if len(set(names)) != len(names):
        raise _refused(path, "two members of one name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in stored.infolist()):
        raise _refused(path, "compressed members, which torch does not write,")


def _json(stored: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Any:
    if info.file_size > LARGEST_GRAPH:
        raise ValueError(f"{path}: {info.filename} has {info.file_size} bytes; graphs of {LARGEST_GRAPH} are read")
    try:
        return json.loads(stored.read(info))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: {info.filename} is not JSON ({error}); save it again with torch.export.save"
        ) from None


def _require_json(found: Any, path: Path) -> None:
    """Every name and text of the graph that torch would resolve or evaluate is one of those listed."""
    for key, value in _pairs(found):
        if key == "use_pickle" and value is not False:
            raise _refused(path, "a pickled tensor")
        if key == "target" and isinstance(value, str) and (not OPERATORS.fullmatch(value) or HARMFUL.match(value)):
            raise _refused(path, f"the operator {value!r}")
        if key == "expr_str" and not _is_expression(value):
            raise _refused(path, f"the size {str(value)[:60]!r}")
        if key in ("as_custom_obj", "as_opaque", "as_operator", "source_fn_stack") and value:
            raise _refused(path, f"{key}")
        if key in ("in_spec", "out_spec") and isinstance(value, str):
            _require_containers(value, path)
        if key == "range_constraints" and isinstance(value, dict):
            for name in value:
                if not _is_expression(name):
                    raise _refused(path, f"the size {name[:60]!r}")


def _is_expression(text: Any) -> bool:
    """Sums, products and quotients of sizes; powers only small ones of a size, as others take for ever."""
    if not isinstance(text, str) or len(text) > LONGEST_EXPRESSION:
        return False
    plain = SQUARE.sub("1", text)
    names = re.findall(r"[A-Z]\w*", re.sub(SYMBOL, "1", plain))
    return bool(EXPRESSION.fullmatch(plain)) and set(names) <= FUNCTIONS and "**" not in plain


def _require_containers(text: str, path: Path) -> None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused(path, "inputs that are no JSON") from None
    for key, value in _pairs(found):
        if key == "type" and MODEL_OUTPUTS.fullmatch(str(value)):
            import_module("transformers.modeling_outputs")
        elif key == "type" and value not in CONTAINERS:
            raise _refused(path, f"inputs or outputs of {value!r}")


def _pairs(found: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _require_tensors(stored: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Torch falls back to full unpickling where this fails."""
    content = stored.read(info)
    try:
        if content:
            torch.load(BytesIO(content), weights_only=True, map_location="meta")
    except Exception as error:  # unpicklers raise anything
        raise _refused(path, f"example inputs that are more than tensors ({type(error).__name__})") from None


def _refused(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} holds {what}, which could run code when it is read; load it yourself where it is trusted, and give "
        "the ExportedProgram in Python or by module:function"
    )
