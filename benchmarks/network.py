"""Whole networks evaluated exactly beside the same network in float, on the same batches.

    BITWRIGHT_DATA=... python benchmarks/network.py [--network mobilenetv2] [--images 40] [--threads 1]

Each batch goes through the float network and every scheme in shuffled order, `--rounds` times; the figures are medians
of ratios to the float network's time on the same batch. `float again` is the float network under another name: where it
is not near 1, the machine is too noisy to read the rest. One thread is timed by its own clock, several by the wall's.
Memory is what one evaluation of the whole run adds at its peak to what the process held before it.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bitwright as bw
from bitwright.model.data import data_folder
from bitwright.model.task import Batch, Task
from bitwright.model.transform import fold_batchnorm
from bitwright.model.zoo import EMBEDDED, REAL

SCHEMES = (
    "integer(8, 8)", "integer(4, 4)", "a2q(8, 8, 20)", "ant(4, 4)", "minifloat(4, 3)", "vs_quant(4, 4, 4, 4)",
    "vs_quant(6, 6, 6, 6)", "vs_quant_chip()", "mxint8()", "mxfp8()", "mxfp6()", "mxfp4()", "nvfp4()",
    "nvfp4(four_over_six=True)", "overq(4, 4)", "overq(4, 4, precision_overwrite=True)", "term_revealing()",
    "combined(overq(4), term_revealing())",
)  # fmt: skip
FLOAT, AGAIN = "float", "float again"


def models(task: Task, schemes: list[str], calibration: int) -> Iterator[tuple[str, nn.Module]]:
    """The float network twice, then frozen under each scheme."""
    batch = next(iter(task.calibration())).first(calibration)
    plain = fold_batchnorm(task.load(), batch.inputs).requires_grad_(False)
    yield FLOAT, plain
    yield AGAIN, plain
    for scheme in schemes:
        try:
            prepared = bw.prepare(plain, bw.from_text(scheme), batch.inputs)
            yield scheme, bw.freeze(bw.calibrate(prepared, [batch], task.forward))
        except ValueError as error:
            print(f"{scheme}: {error}", file=sys.stderr)


def batches(task: Task, images: int, size: int) -> list[Batch]:
    """The first test samples, `size` together."""
    found: list[Batch] = []
    for batch in task.test(images):
        for start in range(0, len(batch.targets), size):
            cut = slice(start, start + size)
            found.append(Batch(tuple(x[cut] for x in batch.tensors), batch.targets[cut]))
    return list(islice(found, -(-images // size)))


def added_megabytes(work: Callable[[], object]) -> float | None:
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


@torch.no_grad()
def measure(task: Task, networks: dict[str, nn.Module], data: list[Batch], rounds: int) -> dict[str, list[float]]:
    """Seconds of each network on each batch."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in networks}
    shuffle = random.Random(0).shuffle
    for batch in data * rounds:
        order = list(networks)
        shuffle(order)
        for name in order:
            start = clock()
            task.forward(networks[name], batch)
            times[name].append(clock() - start)
    return times


def main() -> None:
    known = {**EMBEDDED, **REAL}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenetv2", choices=sorted(known))
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--calibration", type=int, default=4, help="images that ranges are taken from")
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    task = known[arguments.network]
    if arguments.network in REAL:
        data_folder()  # says what is missing
    torch.set_num_threads(arguments.threads)
    networks = dict(models(task, arguments.schemes, arguments.calibration))
    data = batches(task, arguments.images, arguments.batch)
    warm = Batch(tuple(x[:1] for x in data[0].tensors), data[0].targets[:1])
    with torch.no_grad():
        for network in networks.values():
            task.forward(network, warm)
        memory = {
            name: added_megabytes(lambda m=network: task.forward(m, data[0])) for name, network in networks.items()
        }
    times = measure(task, networks, data, arguments.rounds)
    print(
        f"{task.name}, {arguments.images} samples in batches of {arguments.batch}, threads: {arguments.threads}; "
        f"float: {1000 * float(np.median(times[FLOAT])) / arguments.batch:.1f} ms a sample\n"
        "time over float's, median and quartiles; peak of memory, MB"
    )
    for name, own in times.items():
        low, middle, high = np.percentile(np.divide(own, times[FLOAT]), [25, 50, 75])
        added = "" if memory[name] is None else f"{memory[name]:7.0f}"
        print(f"  {name:40} {middle:7.2f}  [{low:.2f}, {high:.2f}]  {added}")


if __name__ == "__main__":
    main()
