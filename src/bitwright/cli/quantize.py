"""`bitwright quantize`: a checkpoint in floats to one of low-precision weights, without torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.common import Screen, one_sentence

if TYPE_CHECKING:
    from bitwright.checkpoint import CheckpointFormat


def quantize(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model's folder: config.json and safetensors.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the quantized model.")],
    scheme: Annotated[
        str,
        typer.Option("--scheme", "-s", help="nvfp4, mxfp4, mxfp6, mxfp8, fp8, fp8_tensor, fp8_block, or int2 to int8."),
    ] = "nvfp4",
    group: Annotated[
        int | None, typer.Option(min=0, help="Elements that share an integer's scale: 128; 0 is a whole row.")
    ] = None,
    zero_points: Annotated[bool, typer.Option("--zero-points", help="Integers with a zero point a scale.")] = False,
    inputs: Annotated[
        bool,
        typer.Option("--inputs", help="Have engines quantize the layers' inputs too, with ranges from each input."),
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            "-c",
            metavar="TEXTS.jsonl",
            help='Choose weights by GPTQ, block by block, with these lines: {"text": "…"} or {"tokens": […]}.',
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Modules to keep in float besides embeddings, routers and lm_head: 'model.layers.0.*', 're:…'."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Quantize a checkpoint's weights, in the layouts of compressed-tensors that vLLM and transformers read.

    For a network with its data, under any scheme, see `bitwright export`.

    Memory stays bounded whatever the model's size. Run the same command again to continue one that was stopped.
    """
    if calibration is not None:
        with one_sentence():
            if zero_points or inputs or ignore:
                raise ValueError("--calibration takes all blocks: leave out --zero-points, --inputs and --ignore")
            if group is not None and not scheme.startswith("int"):
                raise ValueError(f"--group is of integers, and {scheme} has groups of its own; leave it out")
            _calibrated(source, out, scheme, group, calibration, quiet)
        print(f"written to {out}")
        return
    with one_sentence():
        from bitwright.checkpoint import Selection, quantize_checkpoint

        format = _format(scheme, group, zero_points, inputs)
        selection = Selection((*Selection().ignore, *(ignore or ())))
        with Screen(quiet=quiet) as screen:
            done = quantize_checkpoint(source, out, format, selection, screen.progress)
    weights, kept = len(done.quantized), len(done.kept)
    print(
        f"{weights} weights quantized, {kept} tensors kept: {done.bytes_before / 1e6:,.1f} to "
        f"{done.bytes_after / 1e6:,.1f} MB in {done.seconds:.1f} s, {done.written} files written to {out}"
    )


def _calibrated(source: Path, out: Path, scheme: str, group: int | None, calibration: Path, quiet: bool) -> None:
    from bitwright.quantization import PerBlock, PerRow
    from bitwright.schemes import integer, minifloat, mxfp4, mxfp6, mxfp8
    from bitwright.sources.blockwise import quantize_calibrated, read_samples

    share = PerRow() if group == 0 else PerBlock(group or 128)
    schemes = {f"int{bits}": integer(bits, None, weight_share=share) for bits in range(2, 9)}
    schemes |= {
        "fp8": minifloat(weight_only=True), "mxfp4": mxfp4(weight_only=True), "mxfp6": mxfp6(weight_only=True),
        "mxfp8": mxfp8(weight_only=True),
    }  # fmt: skip
    if scheme not in schemes:
        raise ValueError(f"scheme {scheme!r} found; with --calibration it is one of {', '.join(schemes)}")

    def tokenizer(text: str) -> list[int]:
        from transformers import AutoTokenizer

        return list(AutoTokenizer.from_pretrained(str(source), local_files_only=True)(text)["input_ids"])

    samples = read_samples(calibration, tokenizer)
    with Screen(quiet=quiet) as screen:
        quantize_calibrated(source, out, schemes[scheme], samples, screen.progress)


def _format(scheme: str, group: int | None, zero_points: bool, inputs: bool) -> "CheckpointFormat":
    """The layout that a scheme's name means. One that checkpoints cannot hold raises ValueError, saying what can."""
    from bitwright.checkpoint import NAMED, Integers

    if scheme in {f"int{bits}" for bits in range(2, 9)}:
        shared = 128 if group is None else group or None
        return Integers(int(scheme[3:]), shared, has_zero_points=zero_points, has_inputs=inputs)
    if scheme not in NAMED:
        raise ValueError(
            f"scheme {scheme!r} found; checkpoints hold {', '.join(NAMED)} and int2 to int8; any other scheme of a "
            "model is kept by bitwright.export.bundle"
        )
    if group is not None or zero_points:
        raise ValueError(f"{scheme} has its own groups and no zero points; leave out --group and --zero-points")
    if inputs and scheme == "nvfp4":
        raise ValueError(
            "inputs of nvfp4 need a calibrated scale: calibrate the model, and write it with "
            "bitwright.export.compressed_tensors"
        )
    return NAMED[scheme](inputs)
