"""The README's picture: the head and first figure of a report, taken with Chromium.

python docs/screenshot.py runs/digits/report.html docs/images/report.png
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, TOP, BOTTOM = 1200, 40, 1150  # CSS pixels: title, finding and figure 1

report, target = Path(sys.argv[1]), Path(sys.argv[2])
with tempfile.TemporaryDirectory() as folder:
    shot = Path(folder) / "shot.png"
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=8000",
         f"--window-size={WIDTH},{BOTTOM + 200}", f"--screenshot={shot}", report.resolve().as_uri()],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    Image.open(shot).convert("RGB").crop((0, TOP, WIDTH, BOTTOM)).save(target, optimize=True)
