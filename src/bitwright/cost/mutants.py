"""Circuits with one fault each, in generated RTLIL, and whether comparing with integer arithmetic notices them.

A mutant differs in one place: a constant's bit, an operator, a wire that is inverted or stuck, a dropped sign extension
or assignment, exchanged branches. R. A. DeMillo, R. J. Lipton, F. G. Sayward, "Hints on test data selection: help for
the practicing programmer", IEEE Computer 11(4), 1978.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from bitwright.cost.formal import Dut, Proof, prove_check, prove_equal
from bitwright.cost.netlist import Netlist, read_netlist, yosys_gates
from bitwright.cost.simulate import Simulator, pack
from bitwright.cost.verify_proofs import Claim
from bitwright.rtl.yosys import Yosys, find_yosys

OTHER_OPERATOR = {
    "$add": "$sub", "$sub": "$add", "$and": "$or", "$or": "$and", "$xor": "$or", "$eq": "$ne", "$ne": "$eq",
    "$lt": "$le", "$le": "$lt", "$gt": "$ge", "$ge": "$gt", "$shl": "$shr", "$shr": "$shl", "$neg": "$pos",
    "$not": "$pos", "$reduce_or": "$reduce_and", "$reduce_bool": "$reduce_and", "$mul": "$add",
}  # fmt: skip
"""What an operator is taken for."""

GATES = """hierarchy
proc -norom
flatten -noscopeinfo
opt_expr
opt_clean
techmap
simplemap
dfflegalize -cell $_DFF_P_ 01
setundef -zero
opt_clean -purge
setattr -unset src *
write_json net.json
"""


@dataclass(frozen=True)
class Mutant:
    """RTLIL with one fault."""

    kind: str
    line: int
    """Of the RTLIL, counted from one."""
    fault: str
    """What stands there now."""
    rtlil: str = field(repr=False)


@dataclass(frozen=True)
class Bench:
    """Inputs of a circuit for every cycle and lane, and what its outputs must be where they count."""

    name: str
    rtlil: str = field(repr=False)
    stimulus: Mapping[str, Shaped[np.ndarray, "cycles lanes"]] = field(repr=False)  # int64, or of wider ports objects
    expected: Mapping[str, Shaped[np.ndarray, "cycles lanes"]] = field(repr=False)
    counts: Mapping[str, Bool[np.ndarray, "cycles lanes"]] = field(repr=False)
    claim: Claim | None = field(default=None, repr=False)
    """What is proved of it; without one a mutant is proved equal to the circuit."""

    def notices(self, netlist: Netlist) -> bool:
        """Whether some output that counts is wrong."""
        simulator = Simulator(netlist, yosys_gates())
        ports = simulator.inputs.items()
        inputs = [{port: _first(planes[port], len(nets)) for port, nets in ports} for planes in self._planes]
        for found, wanted in zip(simulator.walk(inputs, self._mask), self._wanted, strict=True):
            for port, (planes, counts) in wanted.items():
                bits = found.get(port, [])
                if any((a ^ b) & counts for a, b in zip(bits, _first(planes, len(bits)), strict=True)):
                    return True
        return False

    @property
    def _mask(self) -> int:
        return (1 << next(iter(self.stimulus.values())).shape[1]) - 1

    @cached_property
    def _planes(self) -> list[dict[str, list[int]]]:
        """Bits of the inputs in each cycle; ports take as many as they have."""
        cycles = len(next(iter(self.stimulus.values())))
        return [{port: _bits(values[t]) for port, values in self.stimulus.items()} for t in range(cycles)]

    @cached_property
    def _wanted(self) -> list[dict[str, tuple[list[int], int]]]:
        return [
            {port: (_bits(v[t]), pack(self.counts[port][t].astype(np.int64), 1)[0])
             for port, v in self.expected.items()}
            for t in range(len(self._planes))
        ]  # fmt: skip


def _bits(values: Shaped[np.ndarray, " lanes"]) -> list[int]:
    """Bit planes of integers up to their sign, which stands for all bits above."""
    widest = max(int(v).bit_length() for v in values) if values.dtype == object else 63
    return pack(values, widest + 1)


def _first(planes: list[int], width: int) -> list[int]:
    """As many planes as a port has."""
    return planes[:width] + planes[-1:] * (width - len(planes))


@dataclass(frozen=True)
class Trial:
    """One mutant, and whether simulation noticed it."""

    circuit: str
    mutant: Mutant
    is_noticed: bool


def run_trials(benches: Sequence[tuple[Bench, int]], rng: np.random.Generator) -> list[tuple[Bench, Trial]]:
    """So many mutants of each circuit. AssertionError where a circuit without a fault fails on its bench."""
    jobs: list[tuple[Bench, Mutant | None]] = []
    for bench, count in benches:
        jobs += [(bench, None), *((bench, mutant) for mutant in sample(mutants(bench.rtlil), count, rng))]
    made = netlists([bench.rtlil if mutant is None else mutant.rtlil for bench, mutant in jobs])
    trials = []
    for (bench, mutant), netlist in zip(jobs, made, strict=True):
        is_noticed = bench.notices(netlist)
        if mutant is None:
            assert not is_noticed, f"{bench.name} differs from its golden model"
        else:
            trials.append((bench, Trial(bench.name, mutant, is_noticed)))
    return trials


def prove_harmless(bench: Bench, mutant: Mutant, *, timeout_s: float = 60.0, yosys: Yosys | None = None) -> Proof:
    """Whether a mutant still keeps the specification of its circuit, or equals it where that has none."""
    if bench.claim is None:
        return prove_equal(mutant.rtlil, bench.rtlil, latency=1, timeout_s=timeout_s, yosys=yosys)
    dut = Dut.of_rtlil(mutant.rtlil)
    return prove_check(bench.claim.check(), dut, bench.claim.goals, timeout_s=timeout_s, yosys=yosys)


def mutants(rtlil: str) -> list[Mutant]:
    """Every fault of every kind, in the order of the text."""
    lines = rtlil.splitlines()
    made = []
    for kind, at, end, new in _faults(lines):
        if new == lines[at : end + 1]:  # a wire that is stuck already
            continue
        text = "\n".join([*lines[:at], *new, *lines[end + 1 :]]) + "\n"
        changed = [line.strip() for line in new if line not in lines[at : end + 1]] or ["nothing"]
        made.append(Mutant(kind, at + 1, changed[-1], text))
    return made


def sample(found: Sequence[Mutant], count: int, rng: np.random.Generator) -> list[Mutant]:
    """So many, of every kind equally as far as there are."""
    by_kind: dict[str, list[Mutant]] = {}
    for i in rng.permutation(len(found)):
        by_kind.setdefault(found[i].kind, []).append(found[i])
    taken: list[Mutant] = []
    while len(taken) < min(count, len(found)):
        for kind in sorted(by_kind):
            if by_kind[kind] and len(taken) < count:
                taken.append(by_kind[kind].pop())
    return taken


def netlists(texts: Sequence[str], *, yosys: Yosys | None = None) -> list[Netlist]:
    """Each circuit in yosys' gates, all in one run; its top is the first module of its text."""
    together, tops = [], []
    for i, text in enumerate(texts):
        names = re.findall(r"^module \\(\S+)", text, re.M)
        text = re.sub(r"^module \\", rf"module \\m{i}_", text, flags=re.M)
        text = re.sub(rf"^(\s*cell) \\({'|'.join(map(re.escape, names))}) ", rf"\1 \\m{i}_\2 ", text, flags=re.M)
        together.append(text.replace("attribute \\top 1\n", ""))
        tops.append(f"m{i}_{names[0]}")
    script, files = f"read_rtlil all.il\n{GATES}", {"all.il": "".join(together)}
    modules = json.loads((yosys or find_yosys()).run(script, files=files, outputs=["net.json"])["net.json"])["modules"]
    return [read_netlist(json.dumps({"modules": {top: _small(modules[top])}}), top) for top in tops]


def _small(module: dict[str, Any]) -> dict[str, Any]:
    """What a netlist is read from."""
    cells = {name: {"type": cell["type"], "connections": cell["connections"]} for name, cell in module["cells"].items()}
    nets = {name: net for name, net in module["netnames"].items() if "init" in net["attributes"]}
    return {"ports": module["ports"], "cells": cells, "netnames": nets}


Fault = tuple[str, int, int, list[str]]
"""Kind, first and last line, and what takes their place."""


def _faults(lines: list[str]) -> Iterator[Fault]:
    for at, line in enumerate(lines):
        words = line.split()
        if words[:1] == ["cell"] and words[1].startswith("$"):
            end = lines.index("  end", at)
            yield from _of_cell(lines[at : end + 1], at)
        if words[:1] in (["connect"], ["assign"], ["case"]) and line.startswith(" "):
            yield from ((kind, at, at, [new]) for kind, new in (*_of_constants(line), *_of_sign_extension(line)))
        if words[:1] == ["assign"]:
            yield "dropped assignment", at, at, []


def _of_cell(block: list[str], at: int) -> Iterator[Fault]:
    """A cell is its type, then its parameters, then what its ports connect to."""
    kind, end = block[0].split()[1], at + len(block) - 1
    where = {words[1].removeprefix("\\"): i for i, words in enumerate(map(str.split, block)) if len(words) > 2}

    def put(port: str, wire: str) -> list[str]:
        return [f"    connect \\{port} {wire}" if i == where[port] else line for i, line in enumerate(block)]

    def wire(port: str) -> str:
        return block[where[port]].split(maxsplit=2)[2]

    if kind in OTHER_OPERATOR:
        yield "operator", at, at, [block[0].replace(kind, OTHER_OPERATOR[kind])]
    if "A_SIGNED" in where and wire("A_SIGNED") == "1":
        yield "dropped sign", at, end, [line.replace("_SIGNED 1", "_SIGNED 0") for line in block]
    if kind == "$mux":
        first, second = put("A", wire("B")), put("B", wire("A"))
        yield "exchanged branches", at, end, [second[i] if i == where["B"] else x for i, x in enumerate(first)]
    for port in ("A", "B", "S"):
        if port in where and (width := int(wire(f"{port}_WIDTH" if f"{port}_WIDTH" in where else "WIDTH"))):
            width = 1 if port == "S" else width
            yield from (("stuck wire", at, end, put(port, f"{width}'{value * width}")) for value in "01")
            inverter = [
                f"  wire width {width} \\mutant", "  cell $not \\mutant_cell", "    parameter \\A_SIGNED 0",
                f"    parameter \\A_WIDTH {width}", f"    parameter \\Y_WIDTH {width}",
                f"    connect \\A {wire(port)}", "    connect \\Y \\mutant", "  end",
            ]  # fmt: skip
            yield "inverted wire", at, end, [*inverter, *put(port, "\\mutant")]


def _of_constants(line: str) -> Iterator[tuple[str, str]]:
    for literal in re.finditer(r"\d+'([01]+)", line):
        for i in range(literal.start(1), literal.end(1)):
            yield "constant bit", line[:i] + "10"[int(line[i])] + line[i + 1 :]


def _of_sign_extension(line: str) -> Iterator[tuple[str, str]]:
    for repeated in re.finditer(r"(\S+) \[(\d+)\] (?=\1 \[\2)", line):
        yield "dropped sign", f"{line[: repeated.start()]}1'0 {line[repeated.end() :]}"
