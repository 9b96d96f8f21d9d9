"""Real networks out and run elsewhere: every scheme of the catalogue, every target of `bitwright.export`.

    BITWRIGHT_DATA=<folder> python experiments/export_round_trips.py [MINUTES]

Rows are saved as they come in runs/export_round_trips.jsonl; a run
stops after MINUTES and the next one goes on, so the page says what has run.
"""

import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

import bitwright as bw
from bitwright.export import TARGETS, Tracing
from bitwright.model.zoo import TASKS

HERE = Path(__file__).parent
SAVED = Path("runs/export_round_trips.jsonl")
PAGE = HERE / "results" / "export_round_trips.md"

SMALL = ("digits", "lenet", "fashion_cnn", "resnet8", "dscnn_kws", "espcn", "resnet20", "charrnn", "stories260k")
LARGE = ("mobilenetv1_vww", "resnet32", "tiny_darknet", "minilm_sst2", "mobilenetv2", "efficientnet_lite0")
NETWORKS = SMALL + LARGE
SCHEMES = (
    "integer(8, 8)", "nvfp4()", "vs_quant(4, 8)", "integer(4, None)", "mxfp4()", "ant(4, 4)", "mxfp8()",
    "minifloat(4, 3)", "a2q(4, 8, 16)", "integer(2, 8)", "mxint8()", "mxfp6()", "ant_type()", "vs_quant_chip()",
    "overq(4, 8)", "overq_on()", "term_revealing()", "combined()",
)  # fmt: skip
CALIBRATION, SAMPLES = 8, 1
SLOW = ("qonnx",)
"""Engines that run a node at a time in Python."""
TURNS = tuple(
    (networks, tuple(name for name in TARGETS if (name in SLOW) == is_slow))
    for networks in (SMALL, LARGE) for is_slow in (False, True)
)  # fmt: skip
"""Networks and targets in the order in which they are asked for."""


def main(minutes: float) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    SAVED.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in SAVED.read_text().splitlines()] if SAVED.exists() else []
    done, end = {(r["network"], r["scheme"], r["target"]) for r in rows}, time.monotonic() + 60 * minutes
    for networks, targets in TURNS:
        for network in networks:
            left = [(s, [name for name in targets if (network, s, name) not in done]) for s in SCHEMES]
            for scheme, target, found in round_trips(network, [(s, names) for s, names in left if names]):
                rows.append({"network": network, "scheme": scheme, "target": target, "found": found})
                with SAVED.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(*rows[-1].values(), flush=True)
                if time.monotonic() > end:
                    break
            PAGE.write_text(page(rows))
            if time.monotonic() > end:
                return


def round_trips(network: str, wanted: list[tuple[str, list[str]]]) -> Iterator[tuple[str, str, str]]:
    """What became of each scheme in each target: a word of its kind, and the reason."""
    if not wanted:
        return
    task, trace = TASKS[network], Tracing()
    model, batch = task.load(), next(iter(task.calibration())).first(CALIBRATION)
    inputs = batch.first(SAMPLES).inputs
    for scheme, names in wanted:
        frozen = bw.quantize(model, scheme, [batch])
        for name in names:
            reason = TARGETS[name].refusal(frozen)
            found = f"refused: {reason}" if reason else round_trip(TARGETS[name], frozen, model, inputs, trace)
            yield scheme, name, found


def round_trip(target, frozen, model, inputs, trace) -> str:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{target.suffix}"
        try:
            target.write(frozen, path, inputs, trace)
            found = target.verify(path, frozen, model, inputs)
        except Exception as error:  # whatever an engine raises is what was found
            return f"wrong: {type(error).__name__}: {str(error).replace(folder + '/', '')}"
        return f"{found} in {time.perf_counter() - start:.0f} s"


def page(rows: list[dict[str, str]]) -> str:
    """The results as a table a network."""
    found = {(r["network"], r["scheme"], r["target"]): r["found"] for r in rows}
    kinds = [text.partition(":")[0] for text in found.values()]
    equal = sum(kind.startswith("equal") for kind in kinds)
    every = len(NETWORKS) * len(SCHEMES) * len(TARGETS)
    lines = [
        "# Real networks in other engines", "",
        f"**{every} files: {equal} equal, {kinds.count('refused')} refused with the reason below, "
        f"{kinds.count('wrong')} wrong, {every - len(found)} not run.** An empty cell has not been reached yet.", "",
        f"{len(NETWORKS)} networks, {len(SCHEMES)} schemes, {len(TARGETS)} targets; {CALIBRATION} samples calibrate, "
        f"{SAMPLES} are compared layer by layer with exact arithmetic: integers of both operands (or sums, by integer "
        "operators) must be equal, outputs equal but for the order of float additions. "
        "Made by `python experiments/export_round_trips.py`.", "",
        "Each number is the largest difference of a layer's output, as a part of its largest value.",
    ]  # fmt: skip
    reasons: dict[str, int] = {}
    for network in NETWORKS:
        lines += ["", f"## {network}", "", f"| scheme | {' | '.join(TARGETS)} |", f"|{'---|' * (1 + len(TARGETS))}"]
        for scheme in SCHEMES:
            cells = [_cell(found.get((network, scheme, name), ""), reasons) for name in TARGETS]
            if any(cells):
                lines.append(f"| `{scheme}` | {' | '.join(cells)} |")
    lines += ["", "## Reasons", "", *(f"{number}. {reason}" for reason, number in reasons.items())]
    return "\n".join(lines) + "\n"


def _cell(text: str, reasons: dict[str, int]) -> str:
    kind, colon, reason = text.partition(": ")
    if not colon:
        return text.replace("equal integers, outputs within ", "").partition(" in ")[0].replace(" bit for bit", "")
    reason = re.sub(r"^layer \S+: ", "", reason)  # the first that is refused; others are like it
    return f"{kind} ({reasons.setdefault(reason, len(reasons) + 1)})"


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 600)
