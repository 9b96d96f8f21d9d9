"""Real networks out and run elsewhere: every scheme of the catalogue, every target of `bitwright.export`.

    BITWRIGHT_DATA=<folder> python experiments/export_round_trips.py [MINUTES]

Rows are saved as they come in runs/export_round_trips.jsonl; a run
stops after MINUTES and the next one goes on, so the page says what has run.
"""

import json
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from transformers_folders import PUBLISHED, inputs_of, write

import bitwright as bw
from bitwright.config import from_text
from bitwright.export import TARGETS, Target, Tracing
from bitwright.export.trace import sites
from bitwright.model.task import Inputs
from bitwright.model.zoo import TASKS
from bitwright.recipe import Recipe, Rule
from bitwright.sources.huggingface import load_folder

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
FOLDERS = {f"{name} in transformers": name for name in PUBLISHED}
"""Networks that transformers has, as folders of its own: compressed-tensors holds no others."""
HELD = (
    *SCHEMES, "integer(3, None, weight_share=PerBlock(4))", "integer(8, 8, zero=Zero.FITTED)",
    "minifloat(input_share=PerRow(), input_range=None)", "nvfp4(weight_only=True)", "nvfp4(four_over_six=True)",
    "mxfp4(weight_only=True)", "mxfp6(weight_only=True)", "mxfp8(weight_only=True)", "mxfp4(RoundedRule())",
    "mxfp8(rule=RoundedRule())",
)  # fmt: skip
"""For those, the forms that the layout has words for as well."""
LIMIT = 3
"""Minutes of a processor for a file to be written, run and compared."""
SLOW = ("qonnx",)
"""Engines that run a node at a time in Python, and whose passes over a graph take the square of its nodes."""
NODES, LAYERS, STEPS = 150, 3, 8
"""In a slow engine: above so many nodes so many layers are quantized, and of a text so many tokens are read."""
CHECKPOINTS = "compressed-tensors"
FAST = tuple(name for name in TARGETS if name not in (*SLOW, CHECKPOINTS))
CORE, REST = SCHEMES[:8], SCHEMES[8:]
TURNS = (
    *((network, HELD, (CHECKPOINTS,)) for network in FOLDERS),
    *((network, CORE, names) for names in (FAST, SLOW) for network in NETWORKS),
    *((network, REST, names) for names in (FAST, SLOW) for network in NETWORKS),
)
"""Networks, schemes and targets in the order in which they are asked for."""


def main(minutes: float) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _out_of_time)
    SAVED.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in SAVED.read_text().splitlines()] if SAVED.exists() else []
    done, end = {(r["network"], r["scheme"], r["target"]) for r in rows}, time.monotonic() + 60 * minutes
    for network, schemes, targets in TURNS:
        left = [(s, [name for name in targets if (network, s, name) not in done]) for s in schemes]
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


@dataclass(frozen=True)
class Network:
    """A float network, what calibrates it, and which of its layers are quantized."""

    model: nn.Module
    batch: Any
    inputs: Inputs
    layers: str | None = None

    @staticmethod
    def of(name: str) -> "Network":
        task = TASKS[FOLDERS.get(name, name)]
        batch = next(iter(task.calibration())).first(CALIBRATION)
        if name not in FOLDERS:
            return Network(task.load(), batch, batch.first(SAMPLES).inputs)
        with tempfile.TemporaryDirectory() as folder:
            model = load_folder(write(FOLDERS[name], Path(folder))).model
        tokens = batch.inputs[0]
        layers = PUBLISHED[FOLDERS[name]].linears
        return Network(model, inputs_of(tokens), inputs_of(tokens[:SAMPLES]), layers)

    def under(self, scheme: str, layers: Sequence[str] = ()) -> nn.Module:
        """Quantized, or only the layers of these names."""
        pattern = self.layers if not layers else f"re:^({'|'.join(map(re.escape, layers))})$"
        return bw.quantize(
            self.model, scheme if pattern is None else Recipe((Rule(pattern, from_text(scheme)),)), [self.batch]
        )

    def shortened(self) -> "Network":
        """With the first steps of a text alone to be compared."""
        return replace(self, inputs=tuple(x if x.is_floating_point() else x[:, :STEPS] for x in self.inputs))


def round_trips(name: str, wanted: list[tuple[str, list[str]]]) -> Iterator[tuple[str, str, str]]:
    """What became of each scheme in each target: a word of its kind, and the reason."""
    if not wanted:
        return
    network, trace = Network.of(name), Tracing()
    for scheme, targets in wanted:
        frozen = network.under(scheme)
        for target in targets:
            reason = TARGETS[target].refusal(frozen)
            found = f"refused: {reason}" if reason else round_trip(TARGETS[target], network, scheme, frozen, trace)
            yield scheme, target, found


def round_trip(target: Target, network: Network, scheme: str, frozen: nn.Module, trace: Tracing) -> str:
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_PROF, 60 * LIMIT)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{target.suffix}"
            try:
                part = written(target, network, scheme, frozen, path, trace)
                found = target.verify(path, part.frozen, network.model, part.inputs)
            except OutOfTime:
                return f"unfinished: {target.engine} needs more than {LIMIT} minutes of a processor"
            except Exception as error:  # whatever an engine raises is what was found
                return f"wrong: {type(error).__name__}: {str(error).replace(folder + '/', '')}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return f"{found}{part.said} in {time.perf_counter() - start:.0f} s"


@dataclass(frozen=True)
class Part:
    """What of a network was written, and on what it is compared."""

    frozen: nn.Module
    inputs: Inputs
    said: str = ""


def written(target: Target, network: Network, scheme: str, frozen: nn.Module, path: Path, trace: Tracing) -> Part:
    """The file at `path`: of the network, or of a few of its layers in float where a slow engine would not end."""
    if target.name not in SLOW:
        target.write(frozen, path, network.inputs, trace)
        return Part(frozen, network.inputs)
    short = network.shortened()
    target.write(frozen, path, short.inputs, trace)
    every = list(sites(frozen))
    if len(onnx.load(path).graph.node) <= NODES or len(every) <= LAYERS:
        return Part(frozen, short.inputs)
    chosen = [every[round(i * (len(every) - 1) / (LAYERS - 1))] for i in range(LAYERS)]
    few = network.under(scheme, chosen)
    target.write(few, path, short.inputs, trace)
    return Part(few, short.inputs, f" ({LAYERS} of {len(every)} layers)")


class OutOfTime(Exception):
    """A file took longer than LIMIT."""


def _out_of_time(*_: object) -> None:
    raise OutOfTime


def page(rows: list[dict[str, str]]) -> str:
    """The results as a table a network."""
    found = {(r["network"], r["scheme"], r["target"]): r["found"] for r in rows}
    tables = [(network, SCHEMES, (*FAST, *SLOW)) for network in NETWORKS]
    tables += [(network, HELD, (CHECKPOINTS,)) for network in FOLDERS]
    found = {(n, s, t): found[n, s, t] for n, schemes, names in tables for s in schemes for t in names
             if (n, s, t) in found}  # fmt: skip
    every = sum(len(schemes) * len(targets) for _, schemes, targets in tables)
    kinds = [text.partition(":")[0] for text in found.values()]
    equal, parts = sum(kind.startswith("equal") for kind in kinds), sum(" layers)" in text for text in found.values())
    lines = [
        "# Real networks in other engines", "",
        f"**{every} files: {equal} equal, {kinds.count('refused')} refused with the reason below, "
        f"{kinds.count('wrong')} wrong, {kinds.count('unfinished')} not ended within {LIMIT} minutes of a processor, "
        f"{every - len(found)} not run.** An empty cell has not been reached yet.", "",
        f"{len(NETWORKS)} networks, {len(SCHEMES)} schemes, {len(FAST + SLOW)} targets; {CHECKPOINTS} holds models of "
        f"transformers alone: {len(FOLDERS)} of the networks as its folders, their linear layers but for the head, "
        f"under {len(HELD)} schemes. {CALIBRATION} samples calibrate, "
        f"{SAMPLES} of them is compared layer by layer with exact arithmetic: integers of both operands (or sums, "
        "by integer operators) must be equal, outputs equal but for the order of float additions. "
        "Made by `python experiments/export_round_trips.py`.", "",
        f"The `qonnx` package runs a node at a time, and its cleanup takes the square of a graph's nodes. {STEPS} "
        f"tokens of a text are read there, and of networks whose file has more than {NODES} nodes {LAYERS} layers are "
        f"quantized, from the first to the last at equal distances: {parts} files, marked \\*.", "",
        "compressed-tensors has no integers without the lowest code, which ours leave out: † counts the inputs that "
        "are at it there, and ‡ those so near a tie that a zero point added before rounding moves them across.", "",
        "Each number is the largest difference of a layer's output, as a part of its largest value.",
    ]  # fmt: skip
    reasons: dict[str, int] = {}
    for network, schemes, targets in tables:
        lines += ["", f"## {network}", "", f"| scheme | {' | '.join(targets)} |", f"|{'---|' * (1 + len(targets))}"]
        for scheme in schemes:
            cells = [_cell(found.get((network, scheme, name), ""), reasons) for name in targets]
            if any(cells):
                lines.append(f"| `{scheme}` | {' | '.join(cells)} |")
    lines += ["", "## Reasons", "", *(f"{number}. {reason}" for reason, number in reasons.items())]
    return "\n".join(lines) + "\n"


def _cell(text: str, reasons: dict[str, int]) -> str:
    kind, colon, reason = text.partition(": ")
    if colon:
        reason = re.sub(r"^layer \S+: ", "", reason)  # the first that is refused; others are like it
        return f"{kind} ({reasons.setdefault(reason, len(reasons) + 1)})"
    number = re.sub(r"^equal integers, outputs within (\S+?);?( .*|$)", r"\1", text).partition(" in ")[0]
    counts = re.findall(r"(\d+) of [\d,]+ inputs at (a code|ties)", text)
    marks = [f"{count} {'†' if where == 'a code' else '‡'}" for count, where in counts]
    part = "\\*" * (" layers)" in text)
    return ", ".join([number.replace(" bit for bit", "") + part, *marks])


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 600)
