"""`bitwright search`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli import hardware
from bitwright.cli.common import (
    DATA,
    MODEL,
    Screen,
    chosen_task,
    command,
    one_sentence,
    run_folder,
    scheme_texts,
    use_data_folder,
)
from bitwright.cli.hardware import PANEL


def search(
    model: Annotated[str, MODEL] = "digits",
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", "-b",
            help="Limits such as 'area<=0.5mm2, energy<=20uJ, top1>=0.69': area, array, energy, delay, cycles, model, "
            "accumulator; metric, or drop from float.",
        ),
    ] = None,
    schemes: Annotated[
        list[str] | None,
        typer.Option("--schemes", "-s", help="What a layer may get; repeat, or separate by ';'. Default: seven."),
    ] = None,
    array: Annotated[
        list[str] | None, typer.Option(help="To choose from; repeat. Default: 16x16, 32x32.", rich_help_panel=PANEL)
    ] = None,
    dataflow: Annotated[
        list[str] | None, typer.Option(help="ws, os or is, to choose from; repeat. Default: ws.", rich_help_panel=PANEL)
    ] = None,
    buffers: Annotated[
        list[str] | None,
        typer.Option(help="KB for weights, inputs, sums; repeat. Default: 128,128,128.", rich_help_panel=PANEL),
    ] = None,
    dram: Annotated[str, hardware.DRAM] = "lpddr4",
    dram_bits: Annotated[int, hardware.DRAM_BITS] = 256,
    clock: Annotated[float, hardware.CLOCK] = 500.0,
    library: Annotated[str, hardware.LIBRARY] = "generic45",
    trials: Annotated[int, typer.Option(min=1, help="Designs that the sampler is told of, seeds first.")] = 200,
    sampler: Annotated[str, typer.Option(help="What proposes designs: nsga2, tpe or random.")] = "nsga2",
    objectives: Annotated[
        str, typer.Option(help="Costs to make small beside the metric, of: area, energy, delay, area_delay, model, ...")
    ] = "area_delay,energy",
    measure: Annotated[str, typer.Option(help="Damage of a layer: kl, error, fisher or masked_kl.")] = "kl",
    strategy: Annotated[
        list[str] | None, typer.Option(help="Published seeds: mixquant, ohq, ant4_8, or none; repeat. Default: all.")
    ] = None,
    latency: Annotated[str, typer.Option(help="That OHQ weighs: cycles, or measured with this machine's kernels.")] = (
        "cycles"
    ),
    seed: Annotated[int, typer.Option(help="Of the sampler.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Use this many test samples only.")] = None,
    held_out: Annotated[float, typer.Option(min=0.0, max=0.9, help="Part of them that no decision sees.")] = 0.5,
    workers: Annotated[int, typer.Option(min=1, help="Processes that evaluate.")] = 1,
    executor: Annotated[
        str,
        typer.Option(help="Where they run: local, slurm[:OPTIONS], ray[:ADDRESS], or a database that workers ask."),
    ] = "local",
    data: Annotated[str | None, DATA] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder. Default: runs/MODEL-search.")] = None,
) -> None:  # fmt: skip
    """Find a scheme for each layer, and the array, within limits in physical units.

    Ends with the designs that no other beats, search.html, and the chosen one as recipe.txt, which
    other commands take as --schemes @recipe.txt. Run the same command again to continue a search that was stopped; more
    --trials go on from where fewer ended.
    """
    with one_sentence():
        from dataclasses import replace
        from itertools import product

        from bitwright.search.executors import executor_of
        from bitwright.search.point import Machine, recipe_text
        from bitwright.search.question import Question
        from bitwright.search.worker import Setup
        from bitwright.store import write_atomically

        machines = product(array or ["16x16", "32x32"], dataflow or ["ws"], buffers or ["128,128,128"])
        texts = tuple(scheme_texts(schemes))
        question = Question(
            budget=tuple(budget or ()), machines=tuple(Machine(*words) for words in machines), trials=trials, seed=seed,
            sampler=sampler, objectives=tuple(t.strip() for t in objectives.split(",") if t.strip()),
            measure=measure, latency=latency,
            library=library, limit=limit, held_out=held_out,
            words={"dram": dram, "dram_bits": dram_bits, "clock_mhz": clock},
        )  # fmt: skip
        question = replace(question, schemes=texts) if texts else question
        if strategy:
            question = replace(question, strategies=tuple(name for name in strategy if name != "none"))
        folder = out or run_folder(model, "-search")
        folder.mkdir(parents=True, exist_ok=True)  # before what takes long

        use_data_folder(data)  # of workers too
        setup = Setup(model, data, limit, question.schemes, held_out)
        with executor_of(executor, setup, workers) as own, Screen(quiet=not sys.stderr.isatty()) as screen:
            from bitwright.report import search_page  # while workers start
            from bitwright.search.driver import EARLIER
            from bitwright.search.driver import search as run

            task = chosen_task(model, data)
            found = run(task, question, folder=folder, executor=own, command=command(), progress=screen.progress)
        search_page.write_csv(found, folder / "designs.csv")
        search_page.write_report(found, folder / "search.html")
        print("\n".join(search_page.lines(found)))
        best = found.points[found.chosen] if found.chosen is not None else found.nearest
        if best is not None:
            write_atomically(folder / "recipe.txt", recipe_text(best.design).encode())
            beyond = " (of the nearest design, which breaks the budget)" if found.chosen is None else ""
            print(f"recipe: {folder / 'recipe.txt'}{beyond}")
        else:
            (folder / "recipe.txt").unlink(missing_ok=True)  # of an earlier question
        print(f"report: {folder / 'search.html'}")
        if (folder / EARLIER).exists():
            print(f"answers to other questions that were asked here: {folder / EARLIER}")
    if found.chosen is None:
        raise SystemExit(1)
