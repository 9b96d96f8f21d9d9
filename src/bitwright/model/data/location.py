"""Where the trained weights and evaluation data lie."""

import os
from pathlib import Path

SUBFOLDERS = ("weights", "data")


def data_folder(chosen: str | None = None) -> Path:
    """The folder with `weights/` and `data/`: `chosen`, else $BITWRIGHT_DATA, else shared/data beside the repository.

    The one place outside `cli` that reads the environment: a task finds its files without being told at every call.
    """
    chosen = chosen or os.environ.get("BITWRIGHT_DATA")
    if chosen is not None:
        candidates = [Path(chosen)]
    else:
        checkouts = (Path.cwd(), *Path(__file__).resolve().parents)
        candidates = [checkout.parent / "shared" / "data" for checkout in checkouts]
    for candidate in candidates:
        if all((candidate / name).is_dir() for name in SUBFOLDERS):
            return candidate
    looked = f"{candidates[0]}" if chosen else f"shared/data beside {Path.cwd()} or the source tree"
    raise FileNotFoundError(
        f"no model data in {looked}: a folder with {' and '.join(SUBFOLDERS)} is wanted; set BITWRIGHT_DATA to its path"
    )
