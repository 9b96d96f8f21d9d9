"""`bitwright cost`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli import hardware
from bitwright.cli.common import CALIBRATION, DATA, chosen_task, one_sentence, scheme_texts


def cost(
    model: Annotated[
        str,
        typer.Argument(
            help="A model as in compare; or a language model's config.json, or a "
            ".safetensors file, of which only the header is read."
        ),
    ] = "digits",
    scheme: Annotated[
        list[str] | None,
        typer.Option("--scheme", "-s", help="A scheme such as 'vs_quant(4, 4)'; repeat, or separate by ';'."),
    ] = None,
    array: Annotated[str, hardware.ARRAY] = "32x32",
    dataflow: Annotated[str, hardware.DATAFLOW] = "ws",
    buffers: Annotated[str, hardware.BUFFERS] = "128,128,128",
    dram: Annotated[str, hardware.DRAM] = "lpddr4",
    dram_bits: Annotated[int, hardware.DRAM_BITS] = 256,
    clock: Annotated[float, hardware.CLOCK] = 500.0,
    batch: Annotated[int, typer.Option(min=1, help="Samples at once.")] = 1,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens at once, of a language model's description. Default: 512.")
    ] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Keys that each token looks at. Default: tokens.")] = None,
    library: Annotated[str, hardware.LIBRARY] = "generic45",
    has_cacti: Annotated[bool, hardware.CACTI] = False,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Price lanes of vector units in place of systolic elements.")
    ] = False,
    equal_area: Annotated[
        bool, typer.Option("--equal-area", help="Give each scheme the area of the first one's array and edge.")
    ] = False,
    data: Annotated[str | None, DATA] = None,
    calibration: Annotated[str | None, CALIBRATION] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Cycles, traffic, energy and area of a network on a systolic array, layer by layer; several schemes side by side.

    Cells come from a table of measured circuits, memories from tables and constants of others; lines below say which.
    """
    with one_sentence():
        texts = scheme_texts(scheme or ["integer(8, 8)"])
        from bitwright import pricing
        from bitwright.cost.cacti import CactiSram
        from bitwright.cost.fpga import is_family
        from bitwright.cost.hardware import accelerator
        from bitwright.cost.memory import Sram
        from bitwright.cost.table_cells import PUBLISHED, cells_of

        if vectors and library == PUBLISHED:
            raise ValueError(
                "--vectors prices measured lanes, and published constants have none; leave one of them out"
            )
        memory = CactiSram if has_cacti else Sram
        machine = accelerator(array, dataflow, buffers, dram, dram_bits=dram_bits, clock_mhz=clock, memory=memory)
        if is_family(library) and (vectors or equal_area):
            option = "--vectors" if vectors else "--equal-area"
            raise ValueError(
                f"{option} needs areas of cells, and {library} is an FPGA, which has counts alone; leave it out, or "
                "name a library such as generic45"
            )
        cells = None if is_family(library) else cells_of(library, has_vectors=vectors)
        path = Path(model)
        if path.suffix in (".json", ".safetensors"):
            if calibration is not None:
                raise ValueError(f"--calibration belongs to a network, {model} describes one; leave it out")
            source = pricing.described_source(path, 512 if tokens is None else tokens, context)
        else:
            for option, value in (("tokens", tokens), ("context", context)):
                if value is not None:
                    raise ValueError(
                        f"--{option} belongs to a language model's description, {model} is a task; give a config.json "
                        "or a .safetensors file, or leave it out"
                    )
            from bitwright.model.prepare import is_quantized

            task = chosen_task(model, data, calibration)
            source = pricing.task_source(task)
            if is_quantized(task.load()):
                if scheme:
                    raise ValueError(f"{model} is quantized already, and priced as it is; leave the scheme out")
                texts = [pricing.STORED]
        if cells is None:
            counted = pricing.count(source, texts, machine, library, batch=batch)
            if as_json:
                print(json.dumps([found.record() for found in counted], indent=1))
                return
            print("\n".join(pricing.counted_lines(counted)))
            return
        prices = pricing.price(source, texts, machine, batch=batch, has_equal_area=equal_area, cells=cells)
        if as_json:
            print(json.dumps([found.record() for found in prices], indent=1))
            return
        layers = [*prices[0].lines(), ""] if len(prices) == 1 else []
        print("\n".join([*layers, *pricing.lines(prices)]))
