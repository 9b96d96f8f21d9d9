"""Every layer of a network under every scheme that may be chosen, each made once: mixed networks are put together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from torch import nn

from bitwright.comparison import Bench
from bitwright.config import from_text
from bitwright.cost.widths import require_fit
from bitwright.gemm import LayerGemm
from bitwright.model.attention import Attention
from bitwright.model.layers import FakeQuantizedLayer, QuantizedEmbedding
from bitwright.model.measure import model_bits, stored_bits, weight_bits
from bitwright.model.prepare import freeze_layer, prepare
from bitwright.model.products import Products, products
from bitwright.model.site import Site, naming
from bitwright.model.task import Inputs, Task
from bitwright.scheme import Scheme
from bitwright.search.point import Assignment, scheme_of

Made = FakeQuantizedLayer | Attention | QuantizedEmbedding

PLAIN = "integer(8, 8)"
"""A scheme that every kind of layer takes: the places are those that it finds."""


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product of a layer under a scheme: the same object each time, so that it is a key by itself."""

    gemm: LayerGemm
    scheme: Scheme


@dataclass
class Layer:
    """A layer under a scheme: as it simulates, as it computes exactly, and what it asks of hardware."""

    simulated: Made
    exact: nn.Module
    bits: float  # of what it stores, scales counted
    accumulator_bits: int | None  # of its widest register, by its weights

    @property
    def scheme(self) -> Scheme:
        """With the formats that calibration chose."""
        made = self.simulated
        if isinstance(made, FakeQuantizedLayer):
            assert made.weight_quantizer is not None, "resolved before"
            return replace(made.scheme, input=made.input_quantizer, weight=made.weight_quantizer, examples=())
        return made.scheme


@dataclass
class Candidates:
    """Layers of `bench`'s model under `schemes`, made when they are first asked for.

    A scheme that some layer cannot have is refused for that layer, with a sentence; a layer that can have none is an
    error. `frozen` puts a network together; it is the same module each time, so the last one is gone.
    """

    bench: Bench
    schemes: Mapping[str, Scheme]
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    _made: dict[str, dict[str, Layer]] = field(default_factory=dict)
    _products: dict[tuple[str, str], tuple[Product, ...]] = field(default_factory=dict)

    @staticmethod
    def of(bench: Bench, texts: Sequence[str]) -> "Candidates":
        """Of texts of schemes, with a name or without, and of recipes that give every layer the same one.

        ValueError for other recipes, which assign layers themselves, one scheme in two words, or none.
        """
        parsed: dict[str, Scheme] = {}
        for text in texts:
            scheme = scheme_of(text)
            if scheme is None:
                raise ValueError(f"{text} assigns schemes to layers itself; a search takes schemes, such as ant(4, 4)")
            if scheme.input is None:
                raise ValueError(f"{text} leaves inputs in float, which an array does not multiply; give it input bits")
            other = next((known for known, made in parsed.items() if made == scheme and known != text), None)
            if other is not None:
                raise ValueError(f"{other!r} and {text!r} are the same scheme; leave one of them out")
            parsed[text] = scheme
        if not parsed:
            raise ValueError("no scheme to choose from; name some, as 'integer(8, 8); ant(4, 4)'")
        return Candidates(bench, parsed)

    @property
    def task(self) -> Task:
        return self.bench.task

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Layers as the model lists them."""
        return tuple(self.float_layers)

    @cached_property
    def float_layers(self) -> dict[str, nn.Module]:
        """What computes in float in each place."""
        return {name: module for *_, name, module in self._slots}

    @cached_property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """Schemes that each layer can have."""
        made = {text: self._layers(text) for text in self.schemes}
        found = {name: tuple(text for text in made if name in made[text]) for name in self.names}
        for name, texts in found.items():
            if not texts:
                reasons = "; ".join(dict.fromkeys(r for (layer, _), r in self.refused.items() if layer == name))
                raise ValueError(f"layer {name} can have none of these schemes ({reasons}); add one that it can have")
        return found

    @cached_property
    def is_weighted(self) -> bool:
        """Whether every layer is one of weights: none is attention or an embedding."""
        return all(isinstance(layer, FakeQuantizedLayer) for layer in self.float_layers.values())

    def layer(self, name: str, text: str) -> Layer:
        return self._layers(text)[name]

    def frozen(self, assignment: Assignment, others: Mapping[str, nn.Module] = MappingProxyType({})) -> nn.Module:
        """The network computing exactly, each layer under its scheme; others in float, or what stands for them."""
        for parent, key, name, module in self._slots:
            text = assignment.get(name)
            parent._modules[key] = others.get(name, module) if text is None else self.layer(name, text).exact
        return self._holder[0]  # type: ignore[index]

    def work(self, assignment: Assignment) -> dict[str, tuple[Product, ...]]:
        """The matrix products of one sample by the scheme that computes them, for prices."""
        found: dict[str, list[Product]] = {}
        for name in self._gemms:
            if name in assignment:
                found.setdefault(assignment[name], []).extend(self._of(name, assignment[name]))
        return {text: tuple(products) for text, products in found.items()}

    def widest_work(self, texts: Iterable[str]) -> dict[str, tuple[Product, ...]]:
        """Every layer under each of these schemes that it can have."""
        found: dict[str, tuple[Product, ...]] = {}
        for text in texts:
            found |= self.work(dict.fromkeys(self.able(text), text))
        return found

    def able(self, text: str) -> tuple[str, ...]:
        """Layers that can have a scheme."""
        return tuple(name for name, texts in self.choices.items() if text in texts)

    def model_bytes(self, assignment: Assignment) -> float:
        """Of the whole network, biases and what stays in float at 32 bits."""
        return self._other_bytes + sum(self.layer(name, text).bits for name, text in assignment.items()) / 8

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """What stays in float whatever is chosen."""
        return self._plain.left_out

    @cached_property
    def _plain(self) -> Products:
        return products(self.task, from_text(PLAIN))

    @cached_property
    def _holder(self) -> nn.Module:
        """What holds the network, which may be a layer itself."""
        return nn.Sequential(prepare(self.bench.model, from_text(PLAIN), self._example))

    @cached_property
    def _slots(self) -> tuple[tuple[nn.Module, str, str, nn.Module], ...]:
        """Module, attribute and layer of every place, and what computes in float there: a layer without ranges."""
        slots, embeddings = [], dict(self.bench.model.named_modules())
        for parent in list(self._holder.modules()):
            for key, child in list(parent._modules.items()):
                if isinstance(child, QuantizedEmbedding):
                    slots.append((parent, key, child.name, embeddings[child.name]))
                elif isinstance(child, Site):
                    slots.append((parent, key, child.name, child))
        return tuple(slots)

    def _of(self, name: str, text: str) -> tuple[Product, ...]:
        if (name, text) not in self._products:
            scheme = self.layer(name, text).scheme
            gemms = self._gemms[name]
            require_fit([(gemm, scheme) for gemm in gemms if gemm.is_of_activations])
            self._products[name, text] = tuple(Product(gemm, scheme) for gemm in gemms)
        return self._products[name, text]

    @property
    def _example(self) -> Inputs:
        return self.bench.calibration[0].inputs

    @cached_property
    def _gemms(self) -> dict[str, list[LayerGemm]]:
        """Products by the layer that they belong to."""
        found: dict[str, list[LayerGemm]] = {}
        for gemm, _ in self._plain.layers:
            found.setdefault(gemm.name.rpartition(" ")[0] if gemm.is_of_activations else gemm.name, []).append(gemm)
        return found

    @cached_property
    def _other_bytes(self) -> float:
        prepared = prepare(self.bench.model, from_text(PLAIN), self._example)
        for site in prepared.modules():
            if isinstance(site, Site):
                site.resolve(self.bench.seen.get(site.name))
        own = sum(_bits(m) for m in prepared.modules() if isinstance(m, Made))
        return model_bits(prepared, ())[2] - own / 8

    def _layers(self, text: str) -> dict[str, Layer]:
        if text not in self._made:
            self._made[text] = dict(self._make(text))
        return self._made[text]

    def _make(self, text: str) -> Iterator[tuple[str, Layer]]:
        prepared = prepare(self.bench.model, self.schemes[text], self._example)
        coverage = {entry.name: entry.reason for entry in prepared.coverage if entry.reason}  # type: ignore[union-attr]
        made = {m.name: m for m in prepared.modules() if isinstance(m, Made)}
        for name in self.names:
            if name not in made:
                self.refused[name, text] = coverage.get(name, "it stays in float there")
                continue
            try:
                with naming(name):
                    yield name, self._finish(made[name])
            except (ValueError, OverflowError) as error:
                self.refused[name, text] = str(error)

    def _finish(self, made: Made) -> Layer:
        if isinstance(made, QuantizedEmbedding):
            return Layer(made, made, _bits(made), None)
        made.resolve(self.bench.seen.get(made.name))  # type: ignore[arg-type]  # of its kind
        if isinstance(made, Attention):
            made.is_exact = True
            return Layer(made, made, 0.0, None)
        exact = freeze_layer(made)
        assert exact.certificate is not None, "inputs are quantized"
        outer = exact.certificate.outer_bits
        return Layer(made, exact, _bits(made), max(outer or 0, exact.certificate.inner_bits))


def _bits(made: Made) -> float:
    if isinstance(made, FakeQuantizedLayer):
        return made.weight.numel() * weight_bits(made)
    return made.weight.numel() * stored_bits(made.quantized) if isinstance(made, QuantizedEmbedding) else 0.0
