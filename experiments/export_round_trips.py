"""Real networks out and run elsewhere: every scheme of the catalogue, every target of `bitwright.export`.

    BITWRIGHT_DATA=<folder> python experiments/export_round_trips.py [MINUTES]

Rows are saved as they come in runs/export_round_trips.jsonl; a run
stops after MINUTES and the next one goes on, so the page says what has run.
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

import bitwright as bw
from bitwright.export import TARGETS
from bitwright.model.zoo import TASKS

HERE = Path(__file__).parent
SAVED = Path("runs/export_round_trips.jsonl")
PAGE = HERE / "results" / "export_round_trips.md"

NETWORKS = ("lenet", "resnet20", "stories260k", "minilm_sst2", "charrnn", "mobilenetv2")
SCHEMES = (
    "integer(8, 8)", "nvfp4()", "vs_quant(4, 8)", "integer(4, None)", "mxfp4()", "ant(4, 4)", "mxfp8()",
    "minifloat(4, 3)", "a2q(4, 8, 16)", "integer(2, 8)", "mxint8()", "mxfp6()", "ant_type()", "vs_quant_chip()",
    "overq(4, 8)", "overq_on(4, 8)", "term_revealing()", "combined()",
)  # fmt: skip
CALIBRATION, SAMPLES = 8, 1
LONG = {"qonnx": ("minilm_sst2", "mobilenetv2", "stories260k"), "onnx-native": ("mobilenetv2",)}
"""Engines that run a node at a time in Python, and networks that take them minutes."""


def main(minutes: float) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    SAVED.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in SAVED.read_text().splitlines()] if SAVED.exists() else []
    done, end = {(r["network"], r["scheme"], r["target"]) for r in rows}, time.monotonic() + 60 * minutes
    for scheme in SCHEMES:
        for network in NETWORKS:
            left = [name for name in TARGETS if (network, scheme, name) not in done]
            if not left or time.monotonic() > end:
                continue
            for name, found in round_trips(network, scheme, left):
                row = {"network": network, "scheme": scheme, "target": name, "found": found}
                rows.append(row)
                with SAVED.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(*row.values(), flush=True)
            PAGE.write_text(page(rows))
    PAGE.write_text(page(rows))


def round_trips(network: str, scheme: str, names: list[str]) -> Iterator[tuple[str, str]]:
    """What became of each target: one word a kind, and the reason."""
    task = TASKS[network]
    model, batch = task.load(), next(iter(task.calibration())).first(CALIBRATION)
    frozen = bw.quantize(model, scheme, [batch])
    inputs = batch.first(SAMPLES).inputs
    for name in names:
        target = TARGETS[name]
        reason = target.refusal(frozen)
        if reason is not None:
            yield name, f"refused: {reason}"
        elif network in LONG.get(name, ()):
            yield name, "not run: its engine takes minutes for a network of this size"
        else:
            yield name, round_trip(target, frozen, model, inputs)


def round_trip(target, frozen, model, inputs) -> str:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{target.suffix}"
        try:
            target.write(frozen, path, inputs)
            found = target.verify(path, frozen, model, inputs)
        except ValueError as error:
            return f"wrong: {str(error).replace(folder + '/', '')}"
        return f"{found} in {time.perf_counter() - start:.0f} s"


def page(rows: list[dict[str, str]]) -> str:
    """The results as a table a network."""
    found = {(r["network"], r["scheme"], r["target"]): r["found"] for r in rows}
    kinds = [text.partition(":")[0] for text in found.values()]
    equal = sum(kind.startswith("equal") for kind in kinds)
    lines = [
        "# Real networks in other engines", "",
        f"{len(NETWORKS)} networks, {len(SCHEMES)} schemes, {len(TARGETS)} targets; {CALIBRATION} samples calibrate, "
        f"{SAMPLES} are compared layer by layer with exact arithmetic: integers of both operands (or sums, by integer "
        "operators) must be equal, outputs equal but for the order of float additions. "
        "Made by `python experiments/export_round_trips.py`.", "",
        f"{len(found)} of {len(NETWORKS) * len(SCHEMES) * len(TARGETS)} files have been asked for: {equal} equal, "
        f"{kinds.count('refused')} refused, {kinds.count('wrong')} wrong, {kinds.count('not run')} not run. "
        "An empty cell has not been reached yet.", "",
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
    return f"{kind} ({reasons.setdefault(reason, len(reasons) + 1)})"


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 600)
