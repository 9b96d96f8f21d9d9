"""What every generated unit is: an Amaranth component whose ports stand in its signature and its docstring."""

import re
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

from amaranth.hdl import ClockSignal, Instance, Module, Signal
from amaranth.lib.wiring import Component, In, Member


class Unit(Component):
    """A component that is made from values: equal values make equal circuits. It may be made for its ports alone."""

    _MustUse__silence = True  # Amaranth warns of components that are never elaborated
    is_clocked: ClassVar[bool] = False

    def __init__(self, ports: Mapping[str, Member], *values: Hashable) -> None:
        super().__init__(dict(ports))
        self.identity: tuple[Any, ...] = (type(self), *values)

    def again(self) -> "Unit":
        """An equal unit with wires of its own."""
        make, *values = self.identity
        return make(*values)

    def ports(self) -> dict[str, tuple[Signal, bool]]:
        """Each port's wires, and whether it is an input."""
        return {name: (getattr(self, name), member.flow is In) for name, member in self.signature.members.items()}


class Library:
    """A platform, in Amaranth's sense, under which equal units become one module and many instances."""

    def __init__(self, top: str) -> None:
        self.top = top
        self.units: dict[str, Unit] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def instance(self, name: str, unit: Unit) -> Instance:
        """The unit as an instance of a module of its own, its wires named after it."""
        if unit.identity not in self._names:
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(unit).__name__).lower()
            same = sum(type(other) is type(unit) for other in self.units.values())
            module = f"{self.top}_{words}" + (f"_{same + 1}" if same else "")
            self._names[unit.identity] = module
            self.units[module] = unit.again()
        wires = {}
        for port, (wire, is_input) in unit.ports().items():
            wire.name = f"{name}_{port}"
            wires[f"{'i' if is_input else 'o'}_{port}"] = wire
        clock = {"i_clk": ClockSignal()} if unit.is_clocked else {}
        return Instance(self._names[unit.identity], **wires, **clock)


def place(m: Module, platform: object, name: str, unit: Unit) -> None:
    """Put a unit into a module."""
    m.submodules[name] = platform.instance(name, unit) if isinstance(platform, Library) else unit
