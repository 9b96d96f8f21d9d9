"""Where the native library lies, and how it is loaded: with neither torch nor NumPy."""

import ctypes
import sysconfig
from pathlib import Path
from typing import Any

NAME = "bitwright_native"


def library_path() -> Path | None:
    """The library beside the kernels, or where an editable install puts it; None where the package has none."""
    folders = [Path(__file__).parent / "kernels", Path(sysconfig.get_path("platlib")) / "bitwright" / "kernels"]
    found = (path for folder in folders for path in folder.glob(f"{NAME}.*"))
    return next((path for path in found if path.suffix in (".so", ".dylib", ".dll")), None)


class NativeLibrary(ctypes.CDLL):
    """The library, whose functions raise MemoryError where they found no memory; they never end the process."""

    def __getattr__(self, name: str) -> Any:
        function = super().__getattr__(name)
        if name != "bitwright_ran_out_of_memory":
            function.errcheck = self._checked
        return function

    def _checked(self, result: Any, function: Any, arguments: Any) -> Any:
        if self.bitwright_ran_out_of_memory():
            raise MemoryError(f"no memory left for {function.__name__}; give smaller pieces, or use fewer threads")
        return result
