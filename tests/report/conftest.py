"""Synthetic comparisons with the shape of real ones: accuracy of an image model, perplexity of a language model."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bitwright.result import Comparison, Coverage, LayerResult, Picture, RunInfo, SchemeResult

LAYERS = ("conv1", *(f"stage{i}.{j}.conv{k}" for i in (1, 2, 3) for j in (0, 1) for k in (1, 2)), "head")

# scheme, title, weight format, weight bits, input bits, accuracy, perplexity
SCHEMES = (
    ("integer(8, 8)", "8-bit integers", "Int(8)", 8.0, 8.0, 97.81, 12.34),
    ("integer(4, 8)", "4-bit weights", "Int(4)", 4.0, 8.0, 96.92, 13.91),
    ("integer(4, 4)", "4-bit integers", "Int(4)", 4.0, 4.0, 94.37, 61.20),
    ("integer(3, 3)", "3-bit integers", "Int(3)", 3.0, 3.0, 61.05, 2893.1),
    ("mxfp4()", "OCP MXFP4", "E2M1", 4.25, 4.25, 96.48, 15.02),
    ("mxfp8()", "OCP MXFP8", "E4M3", 8.25, 8.25, 97.79, 12.31),
    ("nvfp4()", "NVFP4", "E2M1", 4.5, 4.5, 97.14, 13.40),
    ("vs_quant(weight_bits=4, input_bits=4)", "VS-Quant", "Int(4)", 4.38, 4.38, 97.26, 13.22),
    ("ant(4, 4)", "ANT", "flint(4)", 4.01, 4.01, 96.55, 17.80),
    ("overq(4, cascade=4)", "OverQ", "Int(4)", 4.0, 5.0, 97.02, 14.44),
    ("a2q(weight_bits=4, accumulator_bits=12)", "A2Q", "L1Bounded(Int(4))", 4.0, 4.0, 93.80, 88.00),
    ("olive(4)", "OliVe", "abfloat", 4.0, 4.0, None, None),
)

GRIDS = {
    "E2M1": tuple(sorted({s * v for s in (-1.0, 1.0) for v in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)})),
    "flint(4)": tuple(float(v) for v in (-16, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 16)),
    "E4M3": tuple(sorted({s * m / 8 * 2.0**e for s in (-1.0, 1.0) for m in range(8, 16) for e in range(-6, 9)})),
}


def grid_of(name: str) -> tuple[float, ...]:
    bits = {"Int(8)": 8, "Int(3)": 3}.get(name, 4)
    return GRIDS.get(name, tuple(float(v) for v in range(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))))


def picture(layer: str, operand: str, name: str, generator: np.random.Generator) -> Picture:
    grid = grid_of(name)
    values = generator.standard_t(5, 20_000) * grid[-1] / 4
    values = np.maximum(values, 0) if operand == "input" else values
    counts, edges = np.histogram(values, bins=96, range=(-1.25 * grid[-1], 1.25 * grid[-1]))
    return Picture(layer, operand, name, tuple(edges.tolist()), tuple(counts.tolist()), grid)


def layer_result(index: int, weight: str, weight_bits: float, input_bits: float, generator) -> LayerResult:
    name = LAYERS[index]
    k = 27 if index == 0 else 64 * 9
    sqnr = 6.02 * min(weight_bits, input_bits) - 6 + float(generator.normal(0, 1.8))
    bound = math.ceil(weight_bits + input_bits + math.log2(k))
    is_float = weight == "E2M1"
    overflows = int(generator.integers(0, 900)) if weight == "Int(3)" and index % 3 == 0 else 0
    return LayerResult(
        name=name, kind="Linear" if name == "head" else "Conv2d", m=1 if name == "head" else 1024, k=k, n=64, groups=1,
        input_format=weight.replace("L1Bounded(Int(4))", "UInt(4)"), weight_format=weight, input_bits=input_bits,
        weight_bits=weight_bits, input_range=None if is_float else (-2.61 - index / 10, 2.61 + index / 10),
        input_sqnr_db=sqnr + 3.1, weight_sqnr_db=sqnr + 4.2, output_sqnr_db=sqnr,
        input_clipped=float(generator.uniform(0, 0.004)), weight_clipped=0.0,
        input_zeros=float(generator.uniform(0.2, 0.6)), weight_zeros=float(generator.uniform(0.02, 0.2)),
        accumulator_bits_bound=None if is_float else bound, accumulator_bits=None if is_float else bound - 3,
        accumulator_bits_available=None if is_float else 24, overflows=overflows, accumulations=1024 * 64,
    )  # fmt: skip


COVERAGE = (
    *(Coverage(name, "Linear" if name == "head" else "Conv2d", "quantized", "") for name in LAYERS),
    Coverage("pool", "AdaptiveAvgPool2d", "float", "no multiplication"),
    *(Coverage(f"stage{i}.add", "add", "float", "residual sums stay in float") for i in (1, 2, 3)),
    Coverage("attention.softmax", "softmax", "unsupported", "exponentials have no integer datapath", 2),
)


def scheme_result(index: int, metric: float | None, seed: int) -> SchemeResult:
    scheme, title, weight, weight_bits, input_bits, *_ = SCHEMES[index]
    generator = np.random.default_rng([seed, index])
    if metric is None:
        error = f"{scheme}: outlier pairs need an even K, layer conv1 has 27; pad the input channels"
        return SchemeResult(scheme, title, None, None, None, None, None, None, None, None, None, 0.4, error=error)
    layers = tuple(layer_result(i, weight, weight_bits, input_bits, generator) for i in range(len(LAYERS)))
    coverage = COVERAGE if index % 5 else (replace(COVERAGE[0], status="float", reason="first layer"), *COVERAGE[1:])
    pictures = tuple(
        picture(layer, operand, weight, generator) for layer in ("conv1", "head") for operand in ("weight", "input")
    )
    return SchemeResult(
        scheme=scheme, title=title, metric=metric, simulated_metric=metric + 0.01,
        agreement=100 - 40 / 2 ** (weight_bits + input_bits - 6), output_sqnr_db=6.02 * weight_bits - 9.3,
        weight_bits=weight_bits, input_bits=input_bits, model_bytes=int(272_474 * weight_bits / 8) + 1940,
        accumulator_bits=None if weight == "E2M1" else int(weight_bits + input_bits + 6),
        overflow_rate=0.0031 if weight == "Int(3)" else 0.0, seconds=4.1 + 0.7 * index, layers=layers,
        coverage=coverage, pictures=pictures,
    )  # fmt: skip


INFO = RunInfo(
    task="ResNet-20 on digits", model_source="bitwright.zoo/resnet20_digits.safetensors",
    data_source="scikit-learn digits, 8 × 8 grey images", metric="top-1 accuracy", metric_unit="%",
    higher_is_better=True, float_metric=97.87, float_bytes=1_089_896, samples=899, calibration_samples=128, seed=0,
    evaluation="exact", command="bitwright compare resnet20-digits --schemes all --seed 0 --out runs/digits",
    started="2025-11-21T12:36:04Z",
    hashes={"weights": "3f1c" * 16, "test data": "9ab0" * 16, "calibration data": "c77e" * 16},
    versions={"bitwright": "0.1.0", "python": "3.11.7", "numpy": "2.1.3", "torch": "2.8.0"},
    machine="x86-64, 16 cores, Linux 6.1",
)  # fmt: skip


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    """Twelve schemes, fourteen layers, one failure; metric in per cent."""
    return Comparison(INFO, tuple(scheme_result(i, row[5], 0) for i, row in enumerate(SCHEMES)))


@pytest.fixture(scope="session")
def perplexity() -> Comparison:
    """The same schemes judged by a metric without unit whose small values are good, over two decades."""
    info = replace(INFO, task="GPT-2 small on WikiText-2", metric="perplexity", metric_unit="", higher_is_better=False,
                   float_metric=12.29, float_bytes=497_759_232, samples=287)  # fmt: skip
    rows = (scheme_result(i, row[6], 1) for i, row in enumerate(SCHEMES))
    return Comparison(info, tuple(replace(row, model_bytes=row.model_bytes and row.model_bytes * 450) for row in rows))
