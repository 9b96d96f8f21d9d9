"""The one table of what files a quantized model leaves as: what each holds, how it is written and what checks it.

Modules of targets are imported when they are used, as each needs its own packages.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from bitwright.export.layers import Writer
    from bitwright.export.onnx import Variant
    from bitwright.export.tracing import Tracer
    from bitwright.model.task import Inputs


class Target(ABC):
    """Files of one kind. `suffix` is that of a file; a folder has none."""

    name: str
    suffix: str
    engine: str
    """What a file is run in to be checked."""

    @abstractmethod
    def refusal(self, frozen: "nn.Module") -> str | None:
        """Why it cannot hold this model, naming the layer; None where it can."""

    @abstractmethod
    def write(self, frozen: "nn.Module", path: Path, inputs: "Inputs", trace: "Tracer") -> None:
        """Write a frozen model; `trace` gives its graph. ValueError where it cannot be held."""

    @abstractmethod
    def verify(self, path: Path, frozen: "nn.Module", model: "nn.Module", inputs: "Inputs") -> str:
        """Run what was written and compare it with `frozen`, which was made of `model`; says what was found."""


@dataclass(frozen=True)
class _Bundle(Target):
    name: str = "bundle"
    suffix: str = ""
    engine: str = "reading it back"

    def refusal(self, frozen: "nn.Module") -> str | None:
        return None

    def write(self, frozen: "nn.Module", path: Path, inputs: "Inputs", trace: "Tracer") -> None:
        from bitwright.export import bundle

        bundle.write(frozen, path)

    def verify(self, path: Path, frozen: "nn.Module", model: "nn.Module", inputs: "Inputs") -> str:
        from bitwright.export import bundle

        bundle.verify(path, frozen, model, inputs)
        return "equal bit for bit"


class _Graph(Target):
    """ONNX and its dialects."""

    @abstractmethod
    def _words(self) -> "tuple[str, Writer]": ...

    def refusal(self, frozen: "nn.Module") -> str | None:
        from bitwright.export.layers import refusal

        name, write = self._words()
        return refusal(frozen, write, name)


@dataclass(frozen=True)
class _Onnx(_Graph):
    name: str
    variant: str
    suffix: str
    engine: str = "ONNX Runtime"

    def _variant(self) -> "Variant":
        from bitwright.export import onnx

        return getattr(onnx, self.variant)

    def _words(self) -> "tuple[str, Writer]":
        variant = self._variant()
        return variant.name, variant.write

    def write(self, frozen: "nn.Module", path: Path, inputs: "Inputs", trace: "Tracer") -> None:
        from bitwright.export import onnx

        onnx.write(frozen, path, inputs, self._variant(), trace)

    def verify(self, path: Path, frozen: "nn.Module", model: "nn.Module", inputs: "Inputs") -> str:
        from bitwright.export import engines, onnx

        found = {engine.name: engine for engine in (engines.ONNX_RUNTIME, engines.REFERENCE)}
        return _equal(onnx.verify(path, frozen, inputs, engine=found[self.engine]))


@dataclass(frozen=True)
class _Qonnx(_Graph):
    name: str = "qonnx"
    suffix: str = ".qonnx.onnx"
    engine: str = "qonnx"

    def _words(self) -> "tuple[str, Writer]":
        from bitwright.export import qonnx

        return "QONNX", qonnx.WORDS.write

    def write(self, frozen: "nn.Module", path: Path, inputs: "Inputs", trace: "Tracer") -> None:
        from bitwright.export import qonnx

        qonnx.write(frozen, path, inputs, trace)

    def verify(self, path: Path, frozen: "nn.Module", model: "nn.Module", inputs: "Inputs") -> str:
        from bitwright.export import qonnx

        return _equal(qonnx.verify(path, frozen, inputs))


@dataclass(frozen=True)
class _CompressedTensors(Target):
    name: str = "compressed-tensors"
    suffix: str = ".checkpoint"
    engine: str = "transformers"

    def refusal(self, frozen: "nn.Module") -> str | None:
        from bitwright.export import compressed_tensors

        if not hasattr(getattr(frozen, "config", None), "to_dict"):
            return "compressed-tensors holds models of transformers, and this one has no config of theirs"
        try:
            compressed_tensors.placed(frozen)
        except ValueError as error:
            return str(error)
        return None

    def write(self, frozen: "nn.Module", path: Path, inputs: "Inputs", trace: "Tracer") -> None:
        from bitwright.export import compressed_tensors

        compressed_tensors.write(frozen, path)

    def verify(self, path: Path, frozen: "nn.Module", model: "nn.Module", inputs: "Inputs") -> str:
        from bitwright.export import compressed_tensors

        compressed_tensors.verify(path, frozen)
        if not (find_spec("transformers") and find_spec("compressed_tensors")):
            return "weights decode to the same values; not run, as compressed-tensors is not installed"
        from bitwright.export.compressed_tensors_run import compare

        return str(compare(path, frozen, inputs))


def _equal(difference: float) -> str:
    return f"equal integers, outputs within {difference:.1g}"


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _Bundle(), _Onnx("onnx", "EVERYWHERE", ".onnx"),
        _Onnx("onnx-integers", "INTEGER_OPERATORS", ".integers.onnx"),
        _Onnx("onnx-native", "NATIVE_TYPES", ".native.onnx", "onnx.reference"), _Qonnx(),
        _CompressedTensors(),
    )
}  # fmt: skip


def ways_out(frozen: "nn.Module") -> str:
    """The targets that hold this model, for a message."""
    return f"targets that can: {', '.join(n for n, t in TARGETS.items() if t.refusal(frozen) is None)}"
