"""What the commands share: errors in one sentence, the task that is meant, and the screen."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from bitwright.model.task import Task
    from bitwright.result import SchemeResult

STOPPED = "stopped; finished rows are saved, run the same command again to continue"

EXTRAS = {
    "amaranth": "rtl", "onnx": "onnx", "onnxruntime": "onnx", "onnxscript": "onnx", "optuna": "search",
    "psycopg": "postgresql", "pyarrow": "data", "qonnx": "qonnx", "ray": "ray", "submitit": "slurm",
    "transformers": "hf",
}  # fmt: skip
"""What to install for a package that is missing, where it is not `compare`."""


MODEL: Any = typer.Argument(
    help="A built-in task (see `bitwright tasks`), module:function that returns a Task or a torch module, FILE.onnx, "
    "FILE.pt2, a folder with config.json and safetensors, hf:org/name, timm:name or torchvision:name."
)
DATA: Any = typer.Option(
    help="Data of the real tasks (default: $BITWRIGHT_DATA); for other models a folder of images a class, a file "
    "(.npz, .jsonl, .txt, .parquet, .tar, shards-{000..009}.tar) or module:function that yields batches."
)
CALIBRATION: Any = typer.Option(
    help="Data for ranges, in the same forms. Default: samples spread over --data, which are not tested on."
)


class one_sentence:
    """Errors that a user can mend leave with one sentence and exit status 2."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):  # here, as typer turns it into an exit without a word
            leave(STOPPED, 130)
        if isinstance(error, BrokenPipeError):
            return  # who reads the output has seen enough: `main` ends without a word
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("bitwright"):
            extra = EXTRAS.get(error.name.partition(".")[0], "compare")
            leave(f"{error.name} is not installed; pip install 'bitwright[{extra}]'", 2)
        if isinstance(error, ImportError | ValueError | OverflowError):
            leave(str(error), 2)
        if isinstance(error, OSError):
            leave(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 2)


def leave(sentence: str, status: int) -> NoReturn:
    print(f"bitwright: {sentence}", file=sys.stderr)
    raise SystemExit(status)


def command() -> str:
    """What was typed, as a page may show it: without the passwords of addresses."""
    from bitwright.search.address import without_password

    return shlex.join(["bitwright", *map(without_password, sys.argv[1:])])


def scheme_texts(given: list[str] | None) -> list[str]:
    """Texts of schemes: several may stand in one, apart by ';', and "@recipe.txt" stands for what the file holds.

    None where none is given. ValueError where what is given holds none.
    """
    texts = [text.strip() for one in given or [] for text in one.split(";") if text.strip()]
    if given and not texts:
        raise ValueError(f"no scheme in {'; '.join(given)!r} found; write one, such as 'integer(8, 8)'")
    return [scheme_text(text) for text in texts]


def scheme_text(text: str) -> str:
    """One text, or what the file after @ holds, under the file's name."""
    if not text.startswith("@"):
        return text
    from bitwright.config import definition_of

    path = Path(text[1:])
    name = re.sub(r"[^\w.-]", "_", path.stem)
    return f"{name if name[:1].isalpha() else f'_{name}'} = {definition_of(_read(path))}"


LARGEST_RECIPE = 1 << 20
"""Bytes of a file that holds a recipe."""


def _read(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is not there; after @ stands a file that holds a scheme or a recipe")
    content = path.read_bytes()[: LARGEST_RECIPE + 1]
    if len(content) > LARGEST_RECIPE:
        raise ValueError(f"{path} is larger than {LARGEST_RECIPE} bytes, so it holds no recipe; name another file")
    try:
        return " ".join(content.decode().split())
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text; name a file that holds a scheme or a recipe") from None


def use_data_folder(data: str | None) -> None:
    if data is not None:
        os.environ["BITWRIGHT_DATA"] = data


def chosen_task(
    name: str, data: str | None, calibration: str | None = None, *, window: int | None = None, stride: int | None = None
) -> "Task":
    """What the words of the command mean; --data of a built-in task is the folder of real data."""
    from bitwright.model.zoo import TASKS
    from bitwright.sources import load_task

    if name not in TASKS or window is not None or stride is not None:
        return load_task(name, data, calibration=calibration, window=window, stride=stride)
    if calibration is not None:
        raise ValueError(f"{name} is a built-in task with calibration data of its own; leave --calibration out")
    use_data_folder(data)
    return TASKS[name]


def run_folder(model: str, ending: str = "") -> Path:
    """Where results of a model go unless said otherwise: a path's last part, or the name without its colons."""
    path = Path(model)
    name = path.resolve().name if path.exists() else model.replace(":", ".").replace("/", ".")
    return Path("runs") / f"{name}{ending}"


class Screen:
    """A progress bar with time left, and a line for each finished row."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self.console, transient=True, disable=quiet,
        )  # fmt: skip
        self.current: tuple[str, int] | None = None

    def __enter__(self) -> "Screen":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        if self.current is None or self.current[0] != what:
            if self.current is not None:
                self.bar.remove_task(self.current[1])  # type: ignore[arg-type]
            self.current = (what, self.bar.add_task(what, total=total or None))
        self.bar.update(self.current[1], completed=done, total=total or None)  # type: ignore[arg-type]

    def row_done(self, row: "SchemeResult", was_saved: bool) -> None:
        figure = f"{row.metric:.4g}" if row.metric is not None else row.error
        how = "read from an earlier run" if was_saved else f"{row.seconds:.1f} s"
        self.console.print(f"{row.scheme}: {figure} ({how})", soft_wrap=True)
