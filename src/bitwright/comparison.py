"""The main job: one float model under many schemes, evaluated exactly, saved row by row."""

import hashlib
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitwright.config import code_of, from_text, label_of
from bitwright.model.evaluate import Evaluation, Reference, evaluate, forward, reference, require_finite
from bitwright.model.measure import layer_results, measure, model_bits, pictures
from bitwright.model.neighbours import lane_row, neighbour_result, sample_levels
from bitwright.model.prepare import Seen, freeze, observe, prepare, resolve
from bitwright.model.task import Batch, Metric, Task, Top1, batches_digest, state_digest
from bitwright.model.term_pairs import term_pairs
from bitwright.model.transform import fold_batchnorm
from bitwright.recipe import Recipe
from bitwright.result import Comparison, RunInfo, SchemeResult
from bitwright.scheme import Scheme
from bitwright.store import key_of, read_json, write_json

DEFAULT_SCHEMES = (
    "integer(8, 8)", "integer(6, 6)", "integer(4, 4)", "integer(3, 3)", "integer(2, 2)",
    "vs_quant(6, 6, 6, 6)", "vs_quant(4, 4, 4, 4)", "vs_quant(3, 3, 4, 4)", "vs_quant_chip()",
    "ant(4, 4)", "ant(3, 3)", "ant4_8(promoted=2)",
    "minifloat(4, 3)", "minifloat(2, 1)",
    "mxint8()", "mxfp8()", "mxfp6()", "mxfp4()", "nvfp4()", "nvfp4(four_over_six=True)",
    "overq(4, 4)", "overq(4, 4, precision_overwrite=True)", "term_revealing()", "combined(overq(4), term_revealing())",
)  # fmt: skip
"""From 8 down to 2 bits, one or more of every family."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many samples are done, and how many there are."""

BOTH, EXACT, SIMULATED = "exact and simulated", "exact", "simulated"
EVALUATIONS = (BOTH, EXACT, SIMULATED)

CALIBRATION_SEED = 0
"""Of the reservoir that samples calibration rows."""


@dataclass(frozen=True)
class ModelTask(Task):
    """A model of the caller's with batches of the caller's."""

    model: nn.Module
    calibration_batches: tuple[Batch, ...]
    test_batches: tuple[Batch, ...]
    metric: Metric = Top1()
    name: str = "model"
    source: str = "given by the caller"
    data_source: str = "given by the caller"
    float_metric: float = float("nan")

    def load(self) -> nn.Module:
        return self.model.eval()

    def calibration(self) -> Iterator[Batch]:
        return iter(self.calibration_batches)

    def test(self, limit: int | None = None) -> Iterator[Batch]:
        left = limit
        for batch in self.test_batches:
            count = len(batch.targets) if left is None else min(left, len(batch.targets))
            if count:
                yield batch.first(count)
            left = None if left is None else left - count

    def files(self) -> dict[str, Callable[[], bytes]]:
        return {
            "weights": lambda: state_digest(self.model),
            "calibration data": lambda: batches_digest(self.calibration_batches),
            "test data": lambda: batches_digest(self.test_batches),
        }


def compare(
    model: Task | nn.Module,
    schemes: Sequence[str] = DEFAULT_SCHEMES,
    *,
    calibration: Iterable[Batch] = (),
    test: Iterable[Batch] = (),
    metric: Metric | None = None,
    limit: int | None = None,
    folder: Path | None = None,
    evaluation: str = BOTH,
    command: str = "bitwright.compare",
    progress: Progress | None = None,
    row_done: Callable[[SchemeResult, bool], None] | None = None,
) -> Comparison:
    """Evaluate the model under each scheme. Rows already in `folder` under the same key are read, not computed.

    All schemes are parsed before anything runs. A scheme that fails becomes a row with `error`; the others go on.
    """
    task = model if isinstance(model, Task) else ModelTask(model, tuple(calibration), tuple(test), metric or Top1())
    if evaluation not in EVALUATIONS:
        raise ValueError(f"evaluation {evaluation!r} found; choose from {', '.join(map(repr, EVALUATIONS))}")
    parsed = {text: from_text(text) for text in schemes}
    _require_own_names(parsed)
    say = progress or (lambda what, done, total: None)
    bench = Bench.build(task, limit, say)
    info = run_info(task, bench, evaluation, command)
    rows = []
    for text, recipe in parsed.items():
        what = text, code_of(text, recipe), evaluation
        key = key_of(*what, info.task, info.hashes, info.samples, info.versions["bitwright"], source_hash())
        path = None if folder is None else folder / "rows" / f"{key}.json"
        is_saved = path is not None and path.exists()
        if is_saved and path is not None:
            row = read_json(path, SchemeResult)
        else:
            row = _row(bench, text, recipe, evaluation, say)
            if path is not None and row.error is None:
                write_json(path, row)
        rows.append(row)
        if row_done:
            row_done(row, is_saved)
    comparison = Comparison(info, tuple(rows))
    if folder is not None:
        write_json(folder / "comparison.json", comparison)
    return comparison


@dataclass(frozen=True)
class Bench:
    """What every scheme shares: the folded float model, its outputs, calibration batches and their statistics."""

    task: Task
    model: nn.Module
    against: Reference
    calibration: tuple[Batch, ...]
    seen: Seen
    float_bytes: int

    @staticmethod
    def build(task: Task, limit: int | None, say: Progress) -> "Bench":
        float_model = task.load()
        calibration = tuple(task.calibration())
        if not calibration:
            raise ValueError(f"{task.name}: the calibration data is empty; give at least one batch")
        example = calibration[0].inputs
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            say("float model", done, limit or 0)

        def run(network: nn.Module, batch: Batch) -> Any:
            return forward(task, network, batch)

        run(float_model, calibration[0])  # a batch that does not fit is said before anything is folded
        model = fold_batchnorm(float_model, example)
        total = sum(len(b.targets) for b in calibration)
        say("calibration", 0, total)
        prepared = prepare(model, from_text("integer(8, 8)"), example)
        seen = observe(prepared, calibration, run)
        say("calibration", total, total)
        against = reference(task, float_model, limit, tick)
        size = sum(p.numel() * 4 for p in float_model.parameters())
        return Bench(task, model, against, calibration, seen, size)


def _require_own_names(texts: Iterable[str]) -> None:
    """ValueError where two texts have one name: rows are told apart by it."""
    by_name: dict[str, str] = {}
    for text in texts:
        other = by_name.setdefault(label_of(text), text)
        if other != text:
            raise ValueError(f"two schemes are named {label_of(text)!r}; give each a name of its own")


def _row(bench: Bench, text: str, recipe: Scheme | Recipe, evaluation: str, say: Progress) -> SchemeResult:
    started = time.perf_counter()
    try:
        return _measured_row(bench, text, recipe, evaluation, say, started)
    except (ValueError, OverflowError) as error:
        seconds = time.perf_counter() - started
        return SchemeResult(
            scheme=label_of(text), title=label_of(text), definition=text,
            metric=None, simulated_metric=None, agreement=None, output_sqnr_db=None,
            weight_bits=None, input_bits=None, model_bytes=None, accumulator_bits=None, overflow_rate=None,
            seconds=seconds, error=str(error),
        )  # fmt: skip


def _measured_row(
    bench: Bench, text: str, recipe: Scheme | Recipe, evaluation: str, say: Progress, started: float
) -> SchemeResult:
    task = bench.task
    prepared = resolve(prepare(bench.model, recipe, bench.calibration[0].inputs), bench.seen)
    measure(task, prepared, bench.calibration[:1])
    results: dict[str, Evaluation] = {}
    frozen = freeze(prepared) if evaluation != SIMULATED else None
    stages = [(SIMULATED, prepared)] if evaluation != EXACT else []
    stages += [(EXACT, frozen)] if frozen is not None else []
    total = bench.against.samples * len(stages)
    done = 0
    for name, model in stages:

        def tick(count: int) -> None:
            nonlocal done
            done += count
            say(text, done, total)

        say(text, done, total)
        results[name] = evaluate(task, model, bench.against, tick)
    for result in results.values():
        require_finite(task.metric, result.metric)
    layers = layer_results(prepared, frozen)
    weight_bits, input_bits, size = model_bits(prepared, layers)
    main = results.get(EXACT) or results[SIMULATED]
    seconds = time.perf_counter() - started
    levels = sample_levels(task, prepared, bench.calibration[0])
    widths = [r.accumulator_bits for r in layers if r.accumulator_bits is not None]
    return SchemeResult(
        scheme=label_of(text), title=label_of(text), definition=text,
        metric=main.metric, simulated_metric=results[SIMULATED].metric if SIMULATED in results else None,
        agreement=main.agreement, output_sqnr_db=main.output_sqnr_db,
        weight_bits=weight_bits, input_bits=input_bits, model_bytes=size,
        accumulator_bits=max(widths) if widths else None,
        overflow_rate=main.overflows / main.accumulations if main.accumulations else None,
        seconds=seconds, layers=layers,
        coverage=prepared.coverage, pictures=pictures(prepared, bench.seen),  # type: ignore[arg-type]
        neighbours=tuple(map(neighbour_result, levels)), lane_row=lane_row(levels),
        term_pairs=term_pairs(task, prepared, bench.calibration[0]),
    )  # fmt: skip


def run_info(task: Task, bench: Bench, evaluation: str, command: str) -> RunInfo:
    """What identifies a run of a task."""
    return RunInfo(
        task=task.name, model_source=task.source, data_source=task.data_source,
        metric=task.metric.name, metric_unit=task.metric.unit, higher_is_better=task.metric.higher_is_better,
        float_metric=bench.against.metric, float_bytes=bench.float_bytes, samples=bench.against.samples,
        calibration_samples=sum(len(b.targets) for b in bench.calibration), seed=CALIBRATION_SEED,
        evaluation=evaluation, command=command, started=datetime.now(UTC).isoformat(timespec="seconds"),
        hashes={name: hashlib.sha256(read()).hexdigest() for name, read in task.files().items()},
        versions=_versions(), machine=f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}",
    )  # fmt: skip


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("bitwright", "numpy", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def source_hash() -> str:
    """Of the code that computes results, so that a change of it never reads an old row."""
    root = Path(__file__).parent
    folders = ("formats", "quantization", "datapath", "schemes", "kernels", "model", "search")
    modules = [root / f"{name}.py" for name in ("scheme", "recipe", "recipes", "comparison")]
    files = sorted([*modules, *(p for f in folders for p in (root / f).rglob("*.py"))])
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()
