"""One name for every model: built in, a Python function, a file, a folder, or a name in a collection of others."""

import importlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from bitwright.checkpoint.folder import CONFIG, read_config
from bitwright.model.task import Task
from bitwright.model.zoo import TASKS
from bitwright.sources.network import Network
from bitwright.sources.readers import reader
from bitwright.sources.readers.arrays import Arrays
from bitwright.sources.roles import NextTokens, role_of
from bitwright.sources.task import FunctionTask, SourceTask
from bitwright.sources.windows import Windows

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")

KINDS = (
    "a built-in task, module:function, FILE.onnx, FILE.pt2, a folder with config.json and safetensors, hf:org/name, "
    "timm:name or torchvision:name"
)


def load_task(
    model: str | Path | nn.Module | ExportedProgram | Task,
    data: str | Path | None = None,
    *,
    calibration: str | Path | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> Task:
    """The task that a name says, on data that a path or module:function says.

    `calibration` is data of its own for ranges; without it samples spread over `data` calibrate and are not tested on.
    `window` and `stride` cut texts for language models, in tokens; they raise ValueError for others. What a task of its
    own has (built-in ones, functions that return a Task) needs no data and takes none.
    """
    found = load_network(model) if isinstance(model, str | Path) else model
    is_cut = window is not None or stride is not None
    if isinstance(found, Task):
        if is_cut:
            raise _no_text(model)
        given = data if data is not None else calibration
        if given is not None and not (isinstance(model, str) and model in TASKS):
            raise ValueError(f"{model} is a task with data of its own; leave {given} out")
        return found
    network = found if isinstance(found, Network) else of_module(found, "model")
    if data is None:
        raise ValueError(
            f"{network.name} is a torch module; say what to test it on with --data FILE.npz or --data FOLDER"
        )
    if is_function(data):
        if is_cut:
            raise _no_text(data)
        return FunctionTask(network, str(data), function(str(data)))
    task = with_reader(network, data, calibration, Windows.of(network.longest, window, stride))
    if is_cut and not isinstance(task.role, NextTokens):
        raise _no_text(data)
    return task


def _no_text(source: object) -> ValueError:
    return ValueError(f"{source} is not text that a language model continues, and only that is cut; leave window and "
                      "stride out")  # fmt: skip


def load_network(name: str | Path) -> Task | Network:
    """The model that a name says; a Task where it brings its own data. ValueError naming what is near."""
    name = str(name)
    if name in TASKS:
        return TASKS[name]
    prefix, colon, rest = name.partition(":")
    path = Path(name)
    if colon and prefix in COLLECTIONS and not path.exists():
        return COLLECTIONS[prefix](rest)
    if path.is_dir():
        return of_folder(path)
    if path.suffix in FILES or path.suffix in PICKLED:
        return of_file(path)
    if not colon:
        near = get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(TASKS)}, or give {KINDS}"
        raise ValueError(f"there is no task {name!r}; {hint}")
    return of_function(name)


def of_module(model: Any, name: str, source: str | None = None) -> Network:
    """A torch module, or a program of `torch.export`."""
    if isinstance(model, ExportedProgram):
        from bitwright.sources.exported import of_program

        return of_program(model, name, source or "given by the caller")
    return Network(model.eval(), name, source or "given by the caller")


def of_function(name: str) -> Task | Network:
    made = called(name)
    if isinstance(made, Task | Network):
        return made
    if not isinstance(made, nn.Module | ExportedProgram):
        raise ValueError(f"{name} gives a {type(made).__name__}; it must return a bitwright Task or a torch module")
    return of_module(made, name, name)


def of_folder(folder: Path) -> Task | Network:
    from bitwright.sources import huggingface

    config = read_config(folder / CONFIG)
    if (folder / "hf_quant_config.json").exists() or config.get("quantization_config"):
        return as_network(quantized(folder), folder.resolve().name, str(folder))
    return huggingface.load_folder(folder)


def of_file(path: Path) -> Task | Network:
    if path.suffix in PICKLED:
        raise ValueError(
            f"{path} is pickled and could run code when it is read; build the model in module:function and fill it "
            "from torch.load(file, weights_only=True), or save it as safetensors or with torch.export.save"
        )
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return as_network(FILES[path.suffix](path), path.stem, str(path))


def as_network(found: Any, name: str, source: str) -> Task | Network:
    return found if isinstance(found, Task | Network) else of_module(found, name, source)


def exported(path: Path) -> Any:
    from bitwright.sources.exported import load

    return load(path)


def onnx(path: Path) -> Any:
    return optional("onnx", "ONNX files", path)


def quantized(folder: Path) -> Any:
    return optional("quantized", "folders that were quantized elsewhere", folder)


def optional(module: str, what: str, path: Path) -> Any:
    try:
        found = importlib.import_module(f"bitwright.sources.{module}")
    except ModuleNotFoundError as error:
        if error.name != f"bitwright.sources.{module}":
            raise
        raise ValueError(f"{path}: this version reads no {what}") from None
    return found.load(path)


def hub(name: str) -> Network:
    from bitwright.sources.huggingface import load_hub

    return load_hub(name)


def timm(name: str) -> Network:
    from bitwright.sources.named import load_timm

    return load_timm(name)


def torchvision(name: str) -> Network:
    from bitwright.sources.named import load_torchvision

    return load_torchvision(name)


COLLECTIONS: dict[str, Callable[[str], Network]] = {"hf": hub, "timm": timm, "torchvision": torchvision}

FILES: dict[str, Callable[[Path], Any]] = {".pt2": exported, ".onnx": onnx}


def with_reader(network: Network, data: str | Path, calibration: str | Path | None, windows: Windows) -> SourceTask:
    found = reader(data)
    first = next((record for _, record in found.records(lambda index: index == 0)), None)
    if first is None:
        raise ValueError(f"{data} holds no samples; at least 2 are needed to calibrate and to test")
    held = reader(calibration) if calibration is not None else None
    if held is None and isinstance(found, Arrays):
        held = found.calibration
    return SourceTask(network, role_of(network, first, found, windows), found, held)


def is_function(data: str | Path) -> bool:
    _, colon, member = str(data).partition(":")
    return bool(colon) and member.isidentifier() and not Path(data).exists()


def called(name: str) -> Any:
    """What module:function returns, or is."""
    made = function(name)
    return made() if callable(made) and not isinstance(made, nn.Module | Task) else made


def function(name: str) -> Any:
    """What a module holds under this name; a module of the working directory too."""
    module, _, member = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` finds them
    try:
        found = getattr(importlib.import_module(module), member, None)
    except (ImportError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"module {module} cannot be imported ({error}); correct the name, or run where it lies"
        ) from None
    if found is None:
        raise ValueError(f"module {module} has no {member!r}; name a function that returns a Task or a torch module")
    return found
