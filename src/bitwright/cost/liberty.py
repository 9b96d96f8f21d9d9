"""Reads cell libraries in the Liberty format (NLDM tables) into `Library`; cells are read when first asked for.

Checked on sky130hd, ASAP7, SG13G2, OSU018 and GT2N. What differs among them: units, the order of the tables' axes,
inverted flip-flop outputs, enable flip-flops that read their own state, several files to one library.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from bitwright.cost.liberty_function import Function, parse_function
from bitwright.cost.liberty_groups import Group, parse_group, split_cells
from bitwright.cost.library import Arc, Cell, Energy, FlipFlop, Library, Pin, Table

SCALES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "": 1.0}
NAND = (1, 1, 1, 0)
DELAYS = {"combinational", "rising_edge", "falling_edge", "combinational_rise", "combinational_fall"}


def read_liberty(name: str, texts: Sequence[str], *, unused: Sequence[str] = (), source: str = "") -> Library:
    """A library of one or several texts. Cells whose names match a pattern of `unused` are left out, for yosys too.

    Cells that their library marks dont_use are left out as well.
    """
    cells: dict[str, tuple[str, "_Reader"]] = {}
    kept_texts, readers = [], []
    for text in texts:
        head, found, tail = split_cells(text)
        reader = _Reader(parse_group(head))
        kept = {n: body for n, body in found.items() if not any(fnmatchcase(n, p) for p in unused)}
        kept = {n: body for n, body in kept.items() if not re.search(r'\bdont_use\s*:\s*"?true', body)}
        cells |= {n: (body, reader) for n, body in kept.items()}
        kept_texts.append(head + "".join(kept.values()) + tail)
        readers.append(reader)
    return Library(
        name=name,
        voltage_v=readers[0].voltage_v,
        gate_area_um2=_nand_area(name, {n: body for n, (body, _) in cells.items()}),
        cells=_Cells(cells),
        liberty=tuple(kept_texts),
        source=source,
    )


class _Cells(Mapping[str, Cell]):
    """Cells by name, parsed when first looked up: a netlist uses few of a library's hundreds."""

    def __init__(self, sources: dict[str, tuple[str, "_Reader"]]) -> None:
        self._sources, self._read = sources, dict[str, Cell]()

    def __getitem__(self, name: str) -> Cell:
        if name not in self._read:
            text, reader = self._sources[name]
            self._read[name] = reader.cell(parse_group(text))
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def _nand_area(name: str, bodies: Mapping[str, str]) -> float:
    areas = []
    for body in bodies.values():
        functions = re.findall(r'\bfunction\s*:\s*"([^"]*)"', body)
        if len(functions) == 1 and len(functions[0]) < 40 and "IQ" not in functions[0]:
            function = parse_function(functions[0])
            area = re.search(r'\barea\s*:\s*"?([\d.eE+-]+)', body)
            if area and len(function.inputs) == 2 and function.truth == NAND:
                areas.append(float(area[1]))
    if not areas:
        raise ValueError(f"the library {name} has no two-input NAND, the unit of area")
    return min(areas)


class _Reader:
    """One library file's units and table templates."""

    def __init__(self, head: Group) -> None:
        self.voltage_v = float(head.attributes.get("nom_voltage", "1"))
        self.ns = _unit(head.attributes.get("time_unit", "1ns"), "s") / 1e-9
        amount, unit = head.lists.get("capacitive_load_unit", ("1", "pf"))
        self.ff = float(amount) * SCALES[unit.lower()[:-1]] / 1e-15
        volts = _unit(head.attributes.get("voltage_unit", "1V"), "v")
        self.fj = self.ff * volts**2
        self.nw = _unit(head.attributes.get("leakage_power_unit", "1nW"), "w") / 1e-9
        self.default_ff = float(head.attributes.get("default_input_pin_cap", "0")) * self.ff
        self.templates = {t.arguments[0]: t for t in head.of("lu_table_template", "power_lut_template") if t.arguments}

    def cell(self, group: Group) -> Cell:
        pins = [*group.of("pin"), *(pin for bus in group.of("bus", "bundle") for pin in bus.of("pin"))]
        names = _state_names(group)
        return Cell(
            name=group.arguments[0],
            area_um2=float(group.attributes.get("area", "0")),
            leakage_nw=self._leakage_nw(group),
            pins=tuple(self._pin(pin, name, names) for pin in pins for name in pin.arguments),
            flip_flop=_flip_flop(group, names),
        )

    def _leakage_nw(self, group: Group) -> float:
        if "cell_leakage_power" in group.attributes:
            return float(group.attributes["cell_leakage_power"]) * self.nw
        stated = [float(g.attributes["value"]) for g in group.of("leakage_power") if "value" in g.attributes]
        return sum(stated) / len(stated) * self.nw if stated else 0.0

    def _pin(self, pin: Group, name: str, states: tuple[str, ...]) -> Pin:
        is_output = pin.attributes.get("direction") in ("output", "inout")
        function = pin.attributes.get("function")
        if "state_function" in pin.attributes or (function is None and pin.attributes.get("internal_node")):
            function = None
        capacitance = pin.attributes.get("capacitance")
        return Pin(
            name=name,
            is_output=is_output,
            capacitance_ff=float(capacitance) * self.ff if capacitance else 0.0 if is_output else self.default_ff,
            function=parse_function(function) if function else None,
            arcs=tuple(arc for timing in pin.of("timing") for arc in self._arcs(timing)),
            energies=tuple(energy for power in pin.of("internal_power") for energy in self._energies(power)),
        )

    def _arcs(self, timing: Group) -> Iterator[Arc]:
        kind = timing.attributes.get("timing_type", "combinational")
        sources = timing.attributes.get("related_pin", "").split()
        if kind.startswith("setup_"):
            read = self._tables(timing, "rise_constraint", "fall_constraint")
            yield from (Arc(s, "setup", "non_unate", *read) for s in sources)
        elif kind in DELAYS:
            read = self._tables(timing, "cell_rise", "cell_fall", "rise_transition", "fall_transition")
            sense = timing.attributes.get("timing_sense", "non_unate")
            name = "clock" if kind.endswith("_edge") else "combinational"
            yield from (Arc(s, name, sense, *read) for s in sources)

    def _energies(self, power: Group) -> Iterator[Energy]:
        rise, fall, both = self._tables(power, "rise_power", "fall_power", "power", scale=self.fj)
        for source in power.attributes.get("related_pin", "").split() or (None,):
            yield Energy(source, rise or both, fall or both)

    def _tables(self, group: Group, *names: str, scale: float | None = None) -> list[Table | None]:
        found = {inner.name: inner for inner in group.groups}
        return [self._table(found[name], scale or self.ns) if name in found else None for name in names]

    def _table(self, group: Group, scale: float) -> Table:
        template = self.templates.get(group.arguments[0] if group.arguments else "", Group(""))
        (is_second, one), (_, two) = (self._axis(group, template, number) for number in (1, 2))
        flat = [x * scale for x in _numbers(group.lists["values"])]
        width = len(two) or 1
        rows = tuple(tuple(flat[start : start + width]) for start in range(0, len(flat), width))
        if is_second:
            rows, one, two = tuple(zip(*rows, strict=True)), two, one
        return Table(one or (0.0,), two or (0.0,), rows)

    def _axis(self, group: Group, template: Group, number: int) -> tuple[bool, tuple[float, ...]]:
        """Whether it is our second axis, a load or the clock's slew, and its points in our units."""
        variable = template.attributes.get(f"variable_{number}", "")
        if not variable:
            return False, ()
        is_load = "capacitance" in variable
        text = group.lists.get(f"index_{number}", template.lists.get(f"index_{number}", ()))
        points = tuple(x * (self.ff if is_load else self.ns) for x in _numbers(text))
        return is_load or variable.startswith("related_pin"), points


def _numbers(rows: tuple[str, ...]) -> list[float]:
    return [float(x) for x in re.split(r"[\s,\\]+", ",".join(rows)) if x]


def _unit(text: str, letter: str) -> float:
    """An amount with a unit such as 1ns or 100uW, in the unit without its prefix."""
    found = re.fullmatch(r"\s*([\d.eE+-]+)\s*([a-z]?)" + letter + r"\s*", text.lower())
    if found is None:
        raise ValueError(f"{text!r} is no amount in {letter}")
    return float(found[1]) * SCALES[found[2]]


def _state_names(cell: Group) -> tuple[str, ...]:
    return next((g.arguments for g in cell.of("ff")), ())


def _flip_flop(cell: Group, names: tuple[str, ...]) -> FlipFlop | None:
    group = next(cell.of("ff"), None)
    if group is None or "next_state" not in group.attributes:
        return None

    def optional(name: str) -> Function | None:
        return parse_function(group.attributes[name]) if name in group.attributes else None

    return FlipFlop(
        state=names[0],
        negated=names[1],
        clock=parse_function(group.attributes["clocked_on"]),
        next_state=parse_function(group.attributes["next_state"]),
        clear=optional("clear"),
        preset=optional("preset"),
    )
