"""AXI4-Stream ports: what a beat carries, as wires and as bytes.

A beat moves at a clock edge at which `tvalid` and `tready` are both high (AMBA AXI-Stream Protocol Specification,
ARM IHI 0051). Every `tvalid` and `tready` here is a function of registers alone, so streams may be connected in rings.
Widths are whole bytes; the lowest bits belong to the first field.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Const, Module, Signal, Value, unsigned
from amaranth.lib.wiring import In, Member, Out
from jaxtyping import Shaped, UInt8


@dataclass(frozen=True)
class Field:
    """`count` integers of `bits` each, the first one lowest."""

    name: str
    bits: int
    count: int = 1
    is_signed: bool = False


@dataclass(frozen=True)
class Beat:
    """What `tdata` carries: fields one after another, filled up with zeros to whole bytes."""

    fields: tuple[Field, ...]

    @property
    def used_bits(self) -> int:
        return sum(field.bits * field.count for field in self.fields)

    @property
    def bytes(self) -> int:
        return max(-(-self.used_bits // 8), 1)

    @property
    def bits(self) -> int:
        """Of `tdata`."""
        return 8 * self.bytes

    def described(self) -> str:
        """Where each field lies."""
        parts, low = [], 0
        for field in self.fields:
            high = low + field.bits * field.count
            what = f"{field.count} x {field.bits} bits {field.name}" if field.count > 1 else field.name
            parts.append(f"[{high - 1}:{low}] {what}")
            low = high
        return ", ".join(parts)

    def split(self, data: Value) -> dict[str, list[Value]]:
        """The wires of each field."""
        found: dict[str, list[Value]] = {}
        low = 0
        for field in self.fields:
            found[field.name] = []
            for _ in range(field.count):
                wires = data[low : low + field.bits]
                found[field.name].append(wires.as_signed() if field.is_signed else wires)
                low += field.bits
        return found

    def join(self, values: Mapping[str, Sequence[Value]]) -> Value:
        """Wires of all fields as `tdata`."""
        parts: list[Value] = []
        for field in self.fields:
            parts += [value[: field.bits] for value in values[field.name]]
        return Cat(*parts, Const(0, unsigned(self.bits - self.used_bits)))

    def pack(self, values: Mapping[str, Shaped[np.ndarray, "beats _"]]) -> UInt8[np.ndarray, "beats bytes"]:
        """Beats of these integers, a row of them each; the first byte is the lowest."""
        planes = []
        for field in self.fields:
            integers = np.asarray(values[field.name])
            wide = object if field.bits > 62 else np.int64
            shifted = integers.astype(wide)[..., None] >> np.arange(field.bits).astype(wide)
            planes.append((shifted & 1).astype(np.uint8).reshape(len(integers), -1))
        bits = np.concatenate(planes, 1)
        padding = np.zeros((len(bits), self.bits - bits.shape[1]), np.uint8)
        return np.packbits(np.concatenate([bits, padding], 1), axis=1, bitorder="little")

    def unpack(self, packed: UInt8[np.ndarray, "beats bytes"]) -> dict[str, Shaped[np.ndarray, "beats _"]]:
        """The integers of each field."""
        bits = np.unpackbits(packed, axis=1, bitorder="little")
        found, low = {}, 0
        for field in self.fields:
            high = low + field.bits * field.count
            planes = bits[:, low:high].reshape(len(bits), field.count, field.bits)
            wide = object if field.bits > 62 else np.int64
            weights = np.asarray([1 << i for i in range(field.bits)], wide)
            if field.is_signed:
                weights[-1] = -weights[-1]
            found[field.name] = planes.astype(wide) @ weights
            low = high
        return found


def hex_words(beats: UInt8[np.ndarray, "beats bytes"]) -> list[str]:
    """One hexadecimal word a beat, as Verilog's $readmemh reads it."""
    return [bytes(beat[::-1]).hex() for beat in beats]


def from_hex(words: Iterable[str], width: int) -> UInt8[np.ndarray, "beats bytes"]:
    """Beats of `width` bytes from what $writememh wrote; comments and addresses are skipped."""
    digits = [word.strip() for word in words if word.strip() and not word.lstrip().startswith(("/", "@"))]
    rows = [np.frombuffer(bytes.fromhex(word.zfill(2 * width)), np.uint8)[::-1] for word in digits]
    return np.stack(rows) if rows else np.zeros((0, width), np.uint8)


def sink(name: str, beat: Beat, *, has_last: bool = True) -> dict[str, Member]:
    """Ports of a stream that is taken in."""
    ports = {f"{name}_tvalid": In(1), f"{name}_tready": Out(1), f"{name}_tdata": In(beat.bits)}
    return ports | ({f"{name}_tlast": In(1)} if has_last else {})


def source(name: str, beat: Beat) -> dict[str, Member]:
    """Ports of a stream that is given out."""
    return {
        f"{name}_tvalid": Out(1), f"{name}_tready": In(1), f"{name}_tdata": Out(beat.bits), f"{name}_tlast": Out(1),
    }  # fmt: skip


def stages(m: Module, name: str, value: Value, cycles: int) -> list[Value]:
    """The value, and what it is 1, 2, … `cycles` cycles later."""
    found = [value]
    for i in range(cycles):
        later = Signal(value.shape(), name=f"{name}_after_{i + 1}")
        m.d.sync += later.eq(found[-1])
        found.append(later)
    return found
