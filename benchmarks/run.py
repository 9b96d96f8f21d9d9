"""Every benchmark of this folder, on one thread and on two, then the page and the picture of what was measured.

    python benchmarks/run.py [--threads 1 2] [--only fake_quantize packed] [--json FILE] [--page]

Each script runs in a process of its own with that many threads. Peers are measured where they are installed
(`pip install -c constraints.txt -e '.[peers]'`). With `--page`, docs/concepts/speed.md and its picture are written.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import page

HERE = Path(__file__).parent
SCRIPTS = (
    "fake_quantize",
    "group_formats",
    "accumulators",
    "network",
    "training_step",
    "packed",
    "checkpoint",
    "start",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", type=Path, default=Path(tempfile.gettempdir()) / "bitwright-speed.jsonl")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    arguments.json.unlink(missing_ok=True)
    failed = []
    for name in arguments.only:
        for threads in arguments.threads:
            command = [sys.executable, str(HERE / f"{name}.py"), f"--threads={threads}", f"--json={arguments.json}"]
            if arguments.rounds:
                command.append(f"--rounds={arguments.rounds}")
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            if subprocess.run(command, env=environment).returncode:
                failed.append(f"{name} with {threads}")
    print(f"measured: {arguments.json}")
    if arguments.page:
        page.write(arguments.json)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
