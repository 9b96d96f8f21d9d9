"""Evaluated assignments in a folder that many workers share: one file each, and never two workers at the same one."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bitwright.search.point import Figures
from bitwright.store import read_json, write_json

BEAT = 2.0
"""Seconds between signs of life of a worker that evaluates."""

STALE = 30.0
"""Seconds without a sign of life after which an evaluation is taken over. Of the file system's clock."""


@dataclass(frozen=True)
class Store:
    """`folder` keeps figures by the content key of an assignment."""

    folder: Path

    def path(self, key: str) -> Path:
        return self.folder / "points" / f"{key}.json"

    def find(self, key: str) -> Figures | None:
        """What was found before. A file that cannot be read raises ValueError naming it."""
        path = self.path(key)
        return read_json(path, Figures) if path.exists() else None

    def get(self, key: str, make: Callable[[], Figures]) -> Figures:
        """What was found before, or by another worker meanwhile, or what `make` finds now."""
        while True:
            found = self.find(key)
            if found is not None:
                return found
            with self._lease(key) as is_mine:
                if is_mine:
                    found = self.find(key) or make()
                    write_json(self.path(key), found)
                    return found
            time.sleep(BEAT / 4)

    @contextmanager
    def _lease(self, key: str) -> Iterator[bool]:
        """Whether this worker evaluates the key: true for one at a time, of those that give signs of life."""
        path = self.folder / "leases" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            self._drop_stale(path)
            yield False
            return
        os.write(handle, f"{socket.gethostname()} {os.getpid()}\n".encode())
        os.close(handle)
        is_over = threading.Event()

        def beat() -> None:
            while not is_over.wait(BEAT):
                try:
                    os.utime(path)
                except FileNotFoundError:
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield True
        finally:
            is_over.set()
            thread.join()
            path.unlink(missing_ok=True)

    def _drop_stale(self, path: Path) -> None:
        probe = path.with_name(f".clock.{os.getpid()}")
        try:
            probe.touch()
            age = probe.stat().st_mtime - path.stat().st_mtime
            words = path.read_text().split()
        except FileNotFoundError:
            return
        finally:
            probe.unlink(missing_ok=True)
        if age > STALE or _has_ended(words):
            path.unlink(missing_ok=True)


def _has_ended(words: list[str]) -> bool:
    """Whether the worker was a process of this machine that is gone."""
    if len(words) != 2 or words[0] != socket.gethostname():
        return False
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, PermissionError):
        return False
    return False
