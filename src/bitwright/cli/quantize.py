"""`bitwright quantize`: a checkpoint in floats to one of 4-bit weights, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.common import Screen, one_sentence


def quantize(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model's folder: config.json and safetensors.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the quantized model.")],
    scheme: Annotated[str, typer.Option("--scheme", "-s", help="'nvfp4', or 'int4' in groups of a row.")] = "nvfp4",
    group: Annotated[int, typer.Option(min=8, help="Elements that share a scale under int4.")] = 128,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Modules to keep in float besides embeddings, routers and lm_head: 'model.layers.0.*', 're:…'."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Quantize a checkpoint's weights to 4 bits, in the layouts of compressed-tensors that vLLM and transformers read.

    For a network with its data, under any scheme, see `bitwright export`.

    Memory stays bounded whatever the model's size. Run the same command again to continue one that was stopped.
    """
    with one_sentence():
        from bitwright.checkpoint import Int4Groups, Nvfp4, Selection, quantize_checkpoint

        formats = {"nvfp4": Nvfp4(), "int4": Int4Groups(group)}
        if scheme not in formats:
            raise ValueError(f"scheme {scheme!r} found; checkpoints are quantized to {' or '.join(formats)}")
        selection = Selection((*Selection().ignore, *(ignore or ())))
        with Screen(quiet=quiet) as screen:
            done = quantize_checkpoint(source, out, formats[scheme], selection, screen.progress)
    weights, kept = len(done.quantized), len(done.kept)
    print(
        f"{weights} weights quantized, {kept} tensors kept: {done.bytes_before / 1e6:,.1f} to "
        f"{done.bytes_after / 1e6:,.1f} MB in {done.seconds:.1f} s, {done.written} files written to {out}"
    )
