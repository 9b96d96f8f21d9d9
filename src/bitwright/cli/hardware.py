"""Options of an accelerator, which commands share; `cost.hardware.accelerator` reads what they hold."""

import typer

PANEL = "Accelerator"

ARRAY = typer.Option(help="Rows x columns of the systolic array.", rich_help_panel=PANEL)
DATAFLOW = typer.Option(help="What stays in the array: ws weights, os sums, is inputs.", rich_help_panel=PANEL)
BUFFERS = typer.Option(help="KB for weights, inputs, sums.", rich_help_panel=PANEL)
DRAM = typer.Option(help="lpddr4, hbm2 or ddr3.", rich_help_panel=PANEL)
DRAM_BITS = typer.Option(min=1, help="Bits that DRAM moves in a cycle.", rich_help_panel=PANEL)
CLOCK = typer.Option(min=1e-3, max=1e6, help="MHz.", rich_help_panel=PANEL)
LIBRARY = typer.Option(
    help="Cells measured in this library, such as generic45 or sky130hd; an FPGA's look-up tables, flip-flops and "
    "blocks (ice40, ecp5, xc7); or published constants.",
    rich_help_panel=PANEL,
)
CACTI = typer.Option(
    "--cacti",
    help="Buffers by runs of CACTI, not by the shipped table (Python 3.12: pip install 'bitwright[cacti]').",
    rich_help_panel=PANEL,
)
