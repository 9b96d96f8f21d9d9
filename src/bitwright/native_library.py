"""Where the native library lies; loading it needs neither torch nor NumPy."""

import sysconfig
from pathlib import Path

NAME = "bitwright_native"


def library_path() -> Path | None:
    """The library beside the kernels, or where an editable install puts it; None where the package has none."""
    folders = [Path(__file__).parent / "kernels", Path(sysconfig.get_path("platlib")) / "bitwright" / "kernels"]
    found = (path for folder in folders for path in folder.glob(f"{NAME}.*"))
    return next((path for path in found if path.suffix in (".so", ".dylib", ".dll")), None)
