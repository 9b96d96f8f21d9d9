"""`bitwright worker`."""

import sys
from typing import Annotated

import typer

from bitwright.cli.common import one_sentence, use_data_folder


def worker(
    address: Annotated[str, typer.Argument(help="Of the database, as postgresql://user@host/name.")],
    data: Annotated[str | None, typer.Option(help="Where this machine has the data of built-in tasks.")] = None,
    idle: Annotated[
        float | None, typer.Option(help="End after so many seconds without work. Default: wait for ever.")
    ] = None,
) -> None:
    """Evaluate designs of searches at a database, on any machine that reaches it.

    Searches put them there with --executor ADDRESS. Start as many workers as there are cores; stop one at any time:
    what it was at is evaluated by another.
    """
    with one_sentence():
        use_data_folder(data)
        from bitwright.search.queue import work

        work(address, idle=idle, say=lambda line: print(line, file=sys.stderr, flush=True))
