"""A simulator's program for one circuit: values in, values out; or streams that pause at random."""

import hashlib
import os
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt32

from bitwright.rtl.engine_image import Beats
from bitwright.simulators.design import WORD, Design

LIMIT_S = 600.0
"""Seconds that one program may run."""


class SimulatorError(RuntimeError):
    """A circuit that a simulator or its compiler did not take, or a run that it did not end."""


@dataclass(frozen=True)
class Pauses:
    """How likely each stream waits at a clock, in 256ths: sources offer nothing, the sink takes nothing.

    Every simulator draws the same numbers from the same seed, so that runs agree cycle by cycle.
    """

    sources: int = 0
    sink: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.sources < 256 and 0 <= self.sink < 256 and 0 < self.seed < 2**32):
            raise ValueError(f"{self} found; chances are 0 to 255, the seed 1 to 2**32 - 1")


@dataclass(frozen=True)
class Streamed:
    """What came out of a stream, and after how many clock edges the last beat had left."""

    beats: Beats
    cycles: int
    is_complete: bool  # False where the limit of cycles came first
    flags: dict[str, int]  # other outputs, at the end


@dataclass(frozen=True)
class Program:
    """A built simulation of one circuit."""

    design: Design
    simulator: str  # with its version
    command: tuple[str, ...]
    build_s: float  # 0 where it was built before

    def steps(
        self, values: Mapping[str, Sequence[int] | Shaped[np.ndarray, " steps"]]
    ) -> dict[str, Shaped[np.ndarray, " steps"]]:
        """Outputs at each step, before the clock's edge that ends it. Inputs without values stay zero."""
        rows = self.design.inputs.pack(values)
        with tempfile.TemporaryDirectory(prefix="bitwright_") as scratch:
            folder = Path(scratch)
            write_words(folder / "in.hex", rows)
            self._run(folder, [0, len(rows), 0, 0, 0, 1])
            found = read_words(folder / "out.hex", self.design.outputs.words)
        return self.design.outputs.unpack(found)

    def streams(self, sources: Mapping[str, Beats], results: int, *, pauses: Pauses = Pauses(), limit: int) -> Streamed:
        """Feed the sources until so many beats have left the circuit's stream, or `limit` cycles have passed.

        A beat that was offered stays until it is taken; where none is offered, the port carries its complement.
        """
        takes, gives = self.design.streams
        if set(sources) != set(takes) or len(gives) != 1:
            raise ValueError(f"streams {', '.join(sources)} found; the circuit takes {', '.join(takes)}")
        data = next(port for port in self.design.outputs.ports if port.name == f"{gives[0]}_tdata")
        with tempfile.TemporaryDirectory(prefix="bitwright_") as scratch:
            folder = Path(scratch)
            for name, beats in sources.items():
                write_words(folder / f"{name}.hex", _rows(beats))
            counts = [len(sources[name].data) for name in takes]
            self._run(folder, [1, results, limit, pauses.sources, pauses.sink, pauses.seed, *counts])
            found = read_words(folder / "out.hex", data.words + 1)
            (cycles,) = read_words(folder / "cycles.hex", 1)[0].tolist()
            last = self.design.outputs.unpack(read_words(folder / "end.hex", self.design.outputs.words))
        bytes_ = np.ascontiguousarray(found[:, : data.words]).astype("<u4").view(np.uint8)[:, : data.bits // 8]
        flags = {name: int(value[0]) for name, value in last.items() if "_t" not in name}
        return Streamed(Beats(bytes_, found[:, data.words] != 0), cycles, len(found) == results, flags)

    def _run(self, folder: Path, numbers: Sequence[int]) -> None:
        """The program in this folder, told what to do by `run.hex`."""
        write_words(folder / "run.hex", np.asarray(numbers, np.uint32)[:, None])
        try:
            done = subprocess.run(
                self.command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise SimulatorError(f"{self.simulator} was stopped after {LIMIT_S:g} s; give it fewer cycles") from None
        if done.returncode or not (folder / "out.hex").exists():
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise SimulatorError(f"{self.simulator} failed with status {done.returncode}: {said[-1] if said else '-'}")


class Simulator(ABC):
    """A program that others wrote. Making one raises ImportError, with what to install, where it is not there."""

    version: str

    @abstractmethod
    def make(self, design: Design, folder: Path) -> tuple[str, ...]:
        """Build the circuit in this folder and say how to run it; `{folder}` stands for where it will lie."""

    @property
    @abstractmethod
    def inputs(self) -> str:
        """What a built program depends on beside the circuit: versions, flags, text of the driver."""

    def build(self, design: Design, cache: Path) -> Program:
        """The program of a circuit, built once for each circuit and release and kept in `cache`."""
        ports = repr((design.inputs, design.outputs, design.is_clocked))
        text = "\0".join([self.version, self.inputs, design.name, design.sha256, ports])
        folder = cache / f"{design.name[:40]}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        started, is_new = time.perf_counter(), not folder.exists()
        if is_new:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix="making_") as scratch:
                made = Path(scratch, "made")
                made.mkdir()
                command = self.make(design, made)
                (made / "command").write_text("\n".join(command))
                try:
                    os.replace(made, folder)
                except OSError:
                    if not folder.exists():  # two may build at once: the first one's stays
                        raise
        command = tuple(
            part.replace("{folder}", str(folder.resolve())) for part in (folder / "command").read_text().split("\n")
        )
        return Program(design, self.version, command, time.perf_counter() - started if is_new else 0.0)


def write_words(path: Path, rows: UInt32[np.ndarray, "rows words"]) -> None:
    """A hexadecimal number a line, as $readmemh reads it: the first word is the lowest."""
    digits = np.ascontiguousarray(rows[:, ::-1]).astype(">u4").tobytes().hex()
    width = rows.shape[1] * WORD // 4
    path.write_text("".join(digits[i : i + width] + "\n" for i in range(0, len(digits), width or 1)))


def read_words(path: Path, words: int) -> UInt32[np.ndarray, "rows {words}"]:
    """Rows that a program wrote so."""
    packed = np.frombuffer(bytes.fromhex("".join(path.read_text().split())), ">u4")
    return packed.reshape(-1, words)[:, ::-1].astype(np.uint32)


def _rows(beats: Beats) -> UInt32[np.ndarray, "beats words"]:
    """Whole words of data, and one of tlast."""
    count, width = beats.data.shape
    padded = np.pad(beats.data, ((0, 0), (0, -width % 4)))
    data = np.ascontiguousarray(padded).view("<u4").reshape(count, -1)
    return np.concatenate([data, beats.last[:, None]], 1).astype(np.uint32)
