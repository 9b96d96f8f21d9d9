"""`bitwright schemes` and `bitwright tasks`."""

from bitwright.cli.common import one_sentence


def schemes() -> None:
    """List the catalogue: every scheme with its arguments and source."""
    import inspect

    from rich.console import Console

    from bitwright.recipes import RECIPES
    from bitwright.schemes import CATALOGUE, FOLDED

    console = Console(highlight=False)
    for factory in (*CATALOGUE, *FOLDED, *RECIPES):
        parameters = ", ".join(
            f"{p.name}={p.default!r}" if p.default is not p.empty else p.name
            for p in inspect.signature(factory).parameters.values()
        )
        console.print(f"[bold]{factory.__name__}[/bold]({parameters})".replace("[0m", ""))
        console.print(f"    {(inspect.getdoc(factory) or '').splitlines()[0]}")


def tasks() -> None:
    """List the built-in tasks: embedded ones, and those that need $BITWRIGHT_DATA."""
    with one_sentence():
        from bitwright.model.zoo import TASKS

        for name, task in TASKS.items():
            unit = f" {task.metric.unit}" if task.metric.unit else ""
            print(f"{name:20s} {task.metric.name:18s} {task.float_metric:8.3f}{unit:2s} {task.source}")
