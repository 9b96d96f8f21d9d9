"""`bitwright cost`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.common import chosen_task, one_sentence, use_data_folder


def cost(
    model: Annotated[
        str,
        typer.Argument(
            help="A built-in task or module:function, as in compare; or a language model's config.json, or a "
            ".safetensors file, of which only the header is read."
        ),
    ] = "digits",
    scheme: Annotated[
        list[str] | None,
        typer.Option("--scheme", "-s", help="A scheme such as 'vs_quant(4, 4)'; repeat, or separate by ';'."),
    ] = None,
    array: Annotated[str, typer.Option(help="Rows x columns of the systolic array.")] = "32x32",
    dataflow: Annotated[str, typer.Option(help="What stays in the array: ws weights, os sums, is inputs.")] = "ws",
    buffers: Annotated[str, typer.Option(help="KB for weights, inputs, sums.")] = "128,128,128",
    dram: Annotated[str, typer.Option(help="lpddr4, hbm2 or ddr3.")] = "lpddr4",
    dram_bits: Annotated[int, typer.Option(min=1, help="Bits that DRAM moves in a cycle.")] = 256,
    clock: Annotated[float, typer.Option(min=1e-3, help="MHz.")] = 500.0,
    batch: Annotated[int, typer.Option(min=1, help="Samples at once.")] = 1,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens at once, of a language model.")] = 512,
    context: Annotated[int | None, typer.Option(min=1, help="Keys that each token looks at. Default: tokens.")] = None,
    equal_area: Annotated[
        bool, typer.Option("--equal-area", help="Give each scheme the multipliers' area of the first.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Data, as in compare.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Cycles, traffic, energy and area of a network on a systolic array, layer by layer; several schemes side by side.

    Energies and areas are estimates from published constants; the lines below the table say whose.
    """
    texts = [t.strip() for s in scheme or ["integer(8, 8)"] for t in s.split(";") if t.strip()]
    with one_sentence():
        from bitwright import pricing
        from bitwright.cost.hardware import accelerator

        hardware = accelerator(array, dataflow, buffers, dram, dram_bits=dram_bits, clock_mhz=clock)
        path = Path(model)
        if path.suffix in (".json", ".safetensors"):
            source = pricing.described_source(path, tokens, context)
        else:
            if ":" not in model:
                use_data_folder(data)
            source = pricing.task_source(chosen_task(model, data))
        prices = pricing.price(source, texts, hardware, batch=batch, has_equal_area=equal_area)
        if as_json:
            print(json.dumps([found.record() for found in prices], indent=1))
            return
        layers = [*prices[0].lines(), ""] if len(prices) == 1 else []
        print("\n".join([*layers, *pricing.lines(prices)]))
