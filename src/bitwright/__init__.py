"""bitwright: from a trained neural network to a low-precision accelerator.

Names are loaded when first used, so that importing the package costs nothing and never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitwright.comparison import ModelTask, compare
    from bitwright.config import from_text
    from bitwright.datapath import Accumulator, Datapath, Overflow
    from bitwright.formats import Format, Int, Minifloat, Rounding, Table
    from bitwright.model.packed import PackedLinear, pack_linear
    from bitwright.model.prepare import calibrate, freeze, prepare, quantize
    from bitwright.model.reading import reading
    from bitwright.model.task import Batch, Task
    from bitwright.model.train import learn_norms, learn_ranges, train
    from bitwright.model.training import Training
    from bitwright.quantization import BestOf, BySign, PerBlock, PerRow, PerTensor, Quantizer, Scale
    from bitwright.recipe import Recipe, Rule
    from bitwright.report import write_report
    from bitwright.scheme import Scheme

_HOME = {
    "comparison": ("ModelTask", "compare"),
    "config": ("from_text",),
    "datapath": ("Accumulator", "Datapath", "Overflow"),
    "formats": ("Format", "Int", "Minifloat", "Rounding", "Table"),
    "model.packed": ("PackedLinear", "pack_linear"),
    "model.prepare": ("calibrate", "freeze", "prepare", "quantize"),
    "model.reading": ("reading",),
    "model.task": ("Batch", "Task"),
    "model.train": ("learn_norms", "learn_ranges", "train"),
    "model.training": ("Training",),
    "quantization": ("BestOf", "BySign", "PerBlock", "PerRow", "PerTensor", "Quantizer", "Scale"),
    "recipe": ("Recipe", "Rule"),
    "report": ("write_report",),
    "scheme": ("Scheme",),
}
_MODULE_OF = {name: f"bitwright.{module}" for module, names in _HOME.items() for name in names}

__all__ = [
    "Accumulator", "Batch", "BestOf", "BySign", "Datapath", "Format", "Int", "Minifloat", "ModelTask", "Overflow",
    "PackedLinear", "PerBlock", "PerRow", "PerTensor", "Quantizer", "Recipe", "Rounding", "Rule", "Scale", "Scheme",
    "Table", "Task", "Training", "calibrate", "compare", "freeze", "from_text", "learn_norms", "learn_ranges",
    "pack_linear", "prepare", "quantize", "reading", "train", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bitwright' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
