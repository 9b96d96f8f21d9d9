"""Answers in a folder that many workers share: one file each, and never two workers at the same one.

A worker leases a key by making the file `leases/KEY.0`, which only one can, and touches it while it evaluates. Where it
stops doing so, the next one makes `leases/KEY.1`, and so on: nobody ever removes what another may hold.
"""

import os
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bitwright.search.point import Answer, Damage, Figures
from bitwright.store import read_json, write_json

BEAT = 2.0
"""Seconds between signs of life of a worker that evaluates."""

STALE = 30.0
"""Seconds without a sign of life after which an evaluation is taken over. Of the file system's clock."""


FOLDERS: dict[type[Answer], str] = {Figures: "points", Damage: "damages"}


@dataclass(frozen=True)
class Store:
    """`folder` keeps figures by the content key of an assignment, and damages by that of what was measured."""

    folder: Path
    beat: float = BEAT
    stale: float = STALE

    def path(self, key: str, kind: type[Answer] = Figures) -> Path:
        return self.folder / FOLDERS[kind] / f"{key}.json"

    def find(self, key: str, kind: type[Answer] = Figures) -> Answer | None:
        """What was found before. A file that cannot be read is set aside with a warning, and found again."""
        path = self.path(key, kind)
        try:
            return read_json(path, kind)
        except FileNotFoundError:
            return None
        except ValueError as error:
            aside = path.with_name(f"{path.name}.unreadable.{secrets.token_hex(4)}")
            try:
                path.rename(aside)
            except FileNotFoundError:
                return None  # another worker was faster
            warnings.warn(f"{str(error).partition(';')[0]}; set aside as {aside.name}, evaluated again", stacklevel=2)
            return None

    def get(self, key: str, make: Callable[[], Answer], kind: type[Answer] = Figures) -> Answer:
        """What was found before, or by another worker meanwhile, or what `make` finds now."""
        while True:
            found = self.find(key, kind)
            if found is not None:
                return found
            with self._lease(key) as is_mine:
                if is_mine:
                    found = self.find(key, kind)
                    return self.put(key, make()) if found is None else found
            time.sleep(self.beat / 4)

    def put(self, key: str, answer: Answer) -> Answer:
        """Written, and noted in a log of this worker's own."""
        write_json(self.path(key, type(answer)), answer)
        log = self.folder / "log" / f"{place()}.{os.getpid()}"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(f"{key} {answer.seconds:.3f}\n")
        return answer

    def log(self) -> list[str]:
        """Keys in the order in which each worker finished them; twice where one was evaluated twice."""
        lines = [line for path in sorted((self.folder / "log").glob("*")) for line in path.read_text().splitlines()]
        return [line.split()[0] for line in lines]

    @contextmanager
    def _lease(self, key: str) -> Iterator[bool]:
        """Whether this worker evaluates the key: true for one at a time, of those that give signs of life."""
        folder = self.folder / "leases"
        folder.mkdir(parents=True, exist_ok=True)
        last = max((int(path.suffix[1:]) for path in folder.glob(f"{key}.*")), default=-1)
        if last >= 0 and not self._is_stale(folder / f"{key}.{last}"):
            yield False
            return
        path = folder / f"{key}.{last + 1}"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            yield False
            return
        os.write(handle, f"{place()} {os.getpid()}\n".encode())
        os.close(handle)
        try:
            with beating(lambda: os.utime(path), self.beat):
                yield True
        finally:
            for each in range(last + 2):
                (folder / f"{key}.{each}").unlink(missing_ok=True)

    def _is_stale(self, path: Path) -> bool:
        """Whether nobody evaluates under this lease."""
        probe = path.with_name(f".clock.{secrets.token_hex(8)}")
        try:
            probe.touch()
            age = probe.stat().st_mtime - path.stat().st_mtime
            words = path.read_text().split()
        except FileNotFoundError:
            return True
        finally:
            probe.unlink(missing_ok=True)
        return age > self.stale or _has_ended(words)


@contextmanager
def beating(beat: Callable[[], None], seconds: float) -> Iterator[None]:
    """Calls `beat` at once, and from a thread every so many seconds until it raises OSError."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(seconds):
            try:
                beat()
            except OSError:
                return

    beat()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@cache
def place() -> str:
    """Where a process number means a process: the host, and the namespace of a container."""
    try:
        return f"{socket.gethostname()}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _has_ended(words: list[str]) -> bool:
    """Whether the worker was a process of this machine that is gone."""
    if len(words) != 2 or words[0] != place():
        return False
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, PermissionError):
        return False
    return False
