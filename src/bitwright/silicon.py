"""A comparison on an accelerator: area, energy and delay beside the metric of each scheme, and where they come from."""

from collections.abc import Callable
from dataclasses import replace

from bitwright.comparison import Progress
from bitwright.config import from_text
from bitwright.cost.accelerator import Accelerator
from bitwright.cost.figure import Sum
from bitwright.cost.mac import Mac
from bitwright.cost.memory import DRAM_PJ_PER_BIT
from bitwright.cost.parts import ElementParts, parts_of
from bitwright.cost.schedule import Cell
from bitwright.cost.widths import cell_for, widest_mac
from bitwright.cost.wires import array_wires
from bitwright.pricing import Price, Source, Work, cell_notes, price
from bitwright.recipe import Recipe
from bitwright.result import Comparison, Hardware, Priced, SchemePrice, Silicon
from bitwright.scheme import Scheme


def priced(
    comparison: Comparison, source: Source, accelerator: Accelerator, *, cells: Callable[[Work], Mac] = widest_mac,
    progress: Progress | None = None,
) -> Comparison:  # fmt: skip
    """The comparison with the price of each of its schemes; `source` is `pricing.task_source` of its task.

    A scheme that cannot be priced has a sentence instead; those without a result are not priced.
    """
    say = progress or (lambda what, done, total: None)
    found, known = [], []
    for i, row in enumerate(comparison.rows):
        say("prices", i, len(comparison.rows))
        if row.error is not None:
            found.append(SchemePrice(row.scheme, error="the scheme gave no result"))
            continue
        try:
            made, record = _price(row.definition or row.scheme, source, accelerator, cells)
        except (ValueError, OverflowError) as error:
            found.append(SchemePrice(row.scheme, error=str(error)))
            continue
        known.append(made)
        found.append(record)
    notes = tuple(cell_notes(known)) if known else ()
    return replace(comparison, silicon=Silicon(_hardware(accelerator), tuple(found), notes))


def _price(
    text: str, source: Source, accelerator: Accelerator, cells: Callable[[Work], Mac]
) -> tuple[Price, SchemePrice]:
    recipe = from_text(text)
    work = source(recipe)
    (found,) = price(lambda _: work, [text], accelerator, cells=cells)
    return found, _with_parts(replace(_record(found), wires=array_wires(work[0])), recipe, accelerator)


def _record(found: Price) -> SchemePrice:
    cost = found.cost
    clock = f"cycles of the schedule at the given {cost.accelerator.clock_mhz:g} MHz"
    return SchemePrice(
        found.scheme,
        area_mm2=_priced(cost.area_um2, 1e6), energy_uj=_priced(cost.energy_pj, 1e6),
        delay_ms=Priced(1e3 * cost.seconds, ("counted",), (clock,)),
        array_mm2=sum(cost.areas_um2[name].value for name in ("array", "edge") if name in cost.areas_um2) / 1e6,
        array_uj=(cost.mac_pj.value + cost.edge_pj.value) / 1e6,
        sram_uj=cost.sram_pj.value / 1e6, dram_uj=cost.dram_pj.value / 1e6,
        is_published=found.mac is None or found.mac.feature_nm is None,
        cycles=cost.cycles, utilization=cost.utilization, left_out=found.left_out,
    )  # fmt: skip


def _priced(found: Sum, unit: float) -> Priced:
    return Priced(found.value / unit, found.origins, found.sources)


def _with_parts(found: SchemePrice, recipe: Scheme | Recipe, accelerator: Accelerator) -> SchemePrice:
    parts = _measured(recipe)
    if isinstance(parts, str):
        return replace(found, parts_note=parts)
    return replace(
        found, parts_um2=tuple(shares(parts, accelerator).items()), parts_sum_bits=parts.sum_bits,
        parts_source=f"{parts.library}, {parts.tool}",
    )  # fmt: skip


def _measured(recipe: Scheme | Recipe) -> ElementParts | str:
    """The element's parts, or why there are none."""
    if isinstance(recipe, Recipe):
        return "a recipe mixes the elements of several schemes"
    if recipe.input is not None and cell_for(recipe) != Cell():
        return "its cells add pairs of terms one after the other; parts were measured of multipliers"
    return parts_of(recipe) or "not among the elements that experiments/pe_breakdown.py measured"


def shares(parts: ElementParts, accelerator: Accelerator) -> dict[str, float]:
    """µm² an element: its own parts, and its share of what stands once a row or once a column."""
    rows, columns, own = accelerator.rows, accelerator.columns, parts.of_element()
    return {
        "multiplier": own["multiplier_um2"],
        "shifter, multiplexer": own["shifter_um2"] + own["neighbour_um2"],
        "adder": own["adder_um2"],
        "sum register": own["sum_register_um2"],
        "operand registers": own["operand_registers_um2"],
        "decoders": parts.input_decoder_um2 / columns + parts.weight_decoder_um2 / rows,
        "scales, outer register": parts.collector_um2 / rows,
    }


def _hardware(accelerator: Accelerator) -> Hardware:
    sizes = accelerator.weight_buffer, accelerator.input_buffer, accelerator.output_buffer
    weight, inputs, sums = (float(buffer.kilobytes) for buffer in sizes)
    dram = next((n for n, pj in DRAM_PJ_PER_BIT.items() if pj == accelerator.dram.pj_per_bit), "DRAM")
    return Hardware(
        accelerator.rows, accelerator.columns, accelerator.dataflow.name, weight, inputs, sums,
        dram.upper(), accelerator.dram.bits_per_cycle, float(accelerator.clock_mhz),
    )  # fmt: skip
