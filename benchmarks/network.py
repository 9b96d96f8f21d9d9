"""Whole networks evaluated exactly beside the same network in float, on the same batch.

    BITWRIGHT_DATA=... python benchmarks/network.py [--networks mobilenetv2] [--schemes "integer(8, 8)"] [--batch 8]

Each scheme's outputs are first compared, bit for bit, with those of the kernels in torch alone, on one sample. The note
is what one evaluation adds to resident memory at its peak. Networks whose data are not at hand are left out, aloud.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from timing import Case, Group, main
from torch import nn

import bitwright as bw
from bitwright import kernels
from bitwright.model.data import data_folder
from bitwright.model.task import Batch, Task
from bitwright.model.transform import fold_batchnorm
from bitwright.model.zoo import EMBEDDED, TASKS

NETWORKS = {"mobilenetv2": 8, "resnet20": 64, "digits": 256}
"""With the samples of a batch."""

SCHEMES = (
    "integer(8, 8)", "integer(4, 4)", "a2q(8, 8, 20)", "ant(4, 4)", "minifloat(4, 3)", "vs_quant(4, 4, 4, 4)",
    "vs_quant(6, 6, 6, 6)", "vs_quant_chip()", "mxint8()", "mxfp8()", "mxfp6()", "mxfp4()", "nvfp4()",
    "nvfp4(four_over_six=True)", "overq(4, 4)", "overq(4, 4, precision_overwrite=True)", "term_revealing()",
    "combined(overq(4), term_revealing())",
)  # fmt: skip
CALIBRATION = 4
"""Samples that ranges are taken from."""


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    """One a network."""
    for name in arguments.networks:
        task = TASKS[name]
        if name not in EMBEDDED:
            try:
                data_folder()
            except FileNotFoundError as missing:
                print(f"{name} is left out: {missing}")
                continue
        batch = next(iter(task.test(arguments.batch or NETWORKS.get(name, 8))))
        calibration = next(iter(task.calibration())).first(CALIBRATION)
        plain = fold_batchnorm(task.load(), batch.inputs).requires_grad_(False)
        cases = [_case(task, plain, scheme, calibration, batch) for scheme in arguments.schemes]
        samples = len(batch.targets)
        yield Group(f"{name}, {samples} samples", Case("float", _forward(task, plain, batch)), cases)


def _case(task: Task, plain: nn.Module, scheme: str, calibration: Batch, batch: Batch) -> Case:
    prepared = bw.prepare(plain, bw.from_text(scheme), calibration.inputs)
    frozen = bw.freeze(bw.calibrate(prepared, [calibration], task.forward))
    run = _forward(task, frozen, batch)

    def check() -> str | None:
        one = _forward(task, frozen, batch.first(1))
        found = one()
        with kernels.only("torch", "reference"):
            return None if torch.equal(found, one()) else "outputs differ from those of the kernels in torch"

    added = _added_megabytes(run)
    return Case(scheme, run, check, "" if added is None else f"{added:.0f} MB")


def _forward(task: Task, network: nn.Module, batch: Batch) -> Callable[[], torch.Tensor]:
    @torch.no_grad()
    def run() -> torch.Tensor:
        return task.forward(network, batch)

    return run


def _added_megabytes(work: Callable[[], object]) -> float | None:
    """Peak of resident memory while it works, over what was resident before; None where the system does not tell."""
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        return None
    before = _kilobytes(status, "VmRSS")
    work()
    return (_kilobytes(status, "VmHWM") - before) / 1024


def _kilobytes(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))


if __name__ == "__main__":
    main(
        __doc__ or "",
        groups,
        ("--networks", {"nargs": "+", "default": list(NETWORKS), "choices": sorted(TASKS)}),
        ("--schemes", {"nargs": "+", "default": list(SCHEMES)}),
        ("--batch", {"type": int, "help": "samples; as many as usual for the network"}),
    )
