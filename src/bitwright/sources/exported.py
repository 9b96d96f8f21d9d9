"""Programs of `torch.export`, from files or from Python, as networks whose layers can be quantized."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bitwright.sources.archive import require_plain
from bitwright.sources.lifting import lift
from bitwright.sources.network import Network


def load(path: Path) -> ExportedProgram:
    """A saved program, read without unpickling or running anything of the file. ValueError where that cannot be."""
    require_plain(path)
    logger = logging.getLogger("torch.export")
    was_disabled, logger.disabled = logger.disabled, True  # its words on damaged files come with tracebacks
    try:
        return torch.export.load(path)
    except Exception as error:  # deserialisation raises whatever it stumbles over
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read ({reason}); save it again with this version of torch") from None
    finally:
        logger.disabled = was_disabled


def of_program(program: ExportedProgram, name: str, source: str) -> Network:
    """Its module with layers; a size of the batch that the program fixes is kept to."""
    module = program.module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule), "what torch.export makes"
    module.graph.set_codegen(torch.fx.graph.CodeGen())  # inputs by their own names, outputs as they stand in the graph
    for node in module.graph.nodes:
        if node.target in (torch.ops.aten.dropout.default, torch.ops.aten.dropout_.default) and node.args[2]:
            raise ValueError(f"{name} was exported in training mode; call model.eval() before torch.export")
    graph = lift(module).graph
    for node in graph.nodes:
        node.meta.clear()  # traces of the export, which take memory and cannot be copied
    return Network(Program(torch.fx.GraphModule(module, graph)), name, source, batch_size=batch_size(program))


class Program(nn.Module):
    """A lifted graph; it stays as it is in eval mode, which graphs of `torch.export` cannot be switched to."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph
        self.requires_grad_(False)
        self.training = False

    def forward(self, *arguments: Tensor, **named: Tensor) -> Any:
        outputs = self.graph(*arguments, **named)
        return outputs[0] if len(outputs) == 1 else outputs

    def train(self, mode: bool = True) -> "Program":
        if mode:
            raise ValueError("a program of torch.export is for inference; train the module that it was exported from")
        return self


def batch_size(program: ExportedProgram) -> int | None:
    """The first axis of the first input, where it is no symbol."""
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            value = node.meta.get("val")
            if isinstance(value, Tensor) and value.dim() and isinstance(value.shape[0], int):
                return value.shape[0]
            return None
    return None
