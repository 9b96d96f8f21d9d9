"""A name of the hub is fetched from a server that this test runs, and read as a folder is."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import bitwright

COMMIT = "1" * 40


def handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    """The routes that a snapshot needs: what a repository holds, and its files."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            if path.startswith("/api/models/org/tiny/tree/"):
                files = [(p.name, p.read_bytes()) for p in sorted(folder.iterdir())]
                found = [
                    {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files
                ]
                self.send(found)
            elif path.startswith("/api/models/org/tiny"):
                files = [{"rfilename": p.name} for p in sorted(folder.iterdir())]
                self.send({"id": "org/tiny", "sha": COMMIT, "siblings": files, "tags": [], "private": False})
            elif path.startswith("/org/tiny/resolve/") and (folder / name).is_file():
                self.send((folder / name).read_bytes())
            else:
                self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        def send(self, content: object, status: int = 200, more: dict[str, str] | None = None) -> None:
            found = content if isinstance(content, bytes) else json.dumps(content).encode()
            tag = f'"{hashlib.sha1(found).hexdigest()}"'
            self.send_response(status)
            for key, value in {
                "Content-Length": str(len(found)),
                "ETag": tag,
                "X-Repo-Commit": COMMIT,
                **(more or {}),
            }.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(found)

        def log_message(self, *words: object) -> None:
            pass

    return Hub


@pytest.fixture
def load(model_folder, tmp_path):
    pytest.importorskip("huggingface_hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(model_folder("classifier")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = (
        "import sys; from bitwright.sources import load_network as l; n = l(sys.argv[1]); print(n.name, n.outputs)"
    )
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(bitwright.__file__).parents[1]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def run(name: str) -> subprocess.CompletedProcess:
        done = [sys.executable, "-c", program, name]
        return subprocess.run(done, env=environment, capture_output=True, text=True, timeout=120)

    yield run
    server.shutdown()
    server.server_close()


def test_a_name_is_fetched_and_read(load):
    done = load("hf:org/tiny")
    assert done.stdout == "tiny 2\n", done.stderr[-2000:]


def test_a_name_that_the_hub_has_not_is_one_sentence(load):
    last = load("hf:org/absent").stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: hf:org/absent cannot be fetched")
