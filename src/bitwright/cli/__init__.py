"""The command line: each command parses to values, calls one library function and prints its result."""

import os
import sys

import typer

from bitwright.cli.accumulators import certify, overflow
from bitwright.cli.common import STOPPED, leave
from bitwright.cli.compare import compare, report
from bitwright.cli.cost import cost
from bitwright.cli.export import export
from bitwright.cli.listing import schemes, tasks
from bitwright.cli.quantize import quantize
from bitwright.cli.rtl import rtl, verify
from bitwright.cli.search import search
from bitwright.cli.worker import worker

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="From a trained neural network to a low-precision accelerator.",
)  # fmt: skip
COMMANDS = (
    compare, search, certify, overflow, cost, rtl, verify, export, quantize, report, worker, schemes, tasks,
)  # fmt: skip
for function in COMMANDS:
    app.command()(function)


def main() -> None:
    """Entry point: an interrupt leaves with what is saved so far."""
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # as `head` ends what writes to it; nothing is left to be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        leave(STOPPED, 130)
    except typer.Exit as leaving:
        sys.exit(leaving.exit_code)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):
            message = getattr(error, "format_message", lambda: str(error))()
            if not message:  # the help was shown instead
                sys.exit(2)
            leave(message, 2)
        raise
    if isinstance(status, int) and status:
        sys.exit(status)
