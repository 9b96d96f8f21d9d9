"""Open cell libraries by name, where their files are at hand; none of them is part of this package.

Files, licences and origins: data/liberty/MANIFEST.md of the data folder, or the projects named in `source`.
"""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitwright.cost.liberty import read_liberty
from bitwright.cost.library import Library


@dataclass(frozen=True)
class OpenLibrary:
    """File names of a library, each perhaps compressed, and cells that synthesis must not take."""

    files: tuple[str, ...]
    source: str
    unused: tuple[str, ...] = ()


OPEN: Mapping[str, OpenLibrary] = {
    "sky130hd": OpenLibrary(
        ("sky130hd_tt_025C_1v80.lib",),
        "SkyWater 130 nm, high density, typical, 1.8 V; Apache-2.0",
        unused=("*__lpflow_*", "*__probe*", "*__edf*", "*__dly*", "*__clk*"),
    ),
    "sg13g2": OpenLibrary(
        ("sg13g2_stdcell_typ_1p20V_25C.lib",), "IHP 130 nm, typical, 1.2 V; Apache-2.0", unused=("*_dly*", "*_lgcp*")
    ),
    "osu018": OpenLibrary(
        ("osu018_stdcells.lib",), "Oklahoma State University, 180 nm rules, 1.8 V", unused=("CLKBUF*",)
    ),
    "asap7": OpenLibrary(
        tuple(
            f"asap7/asap7sc7p5t_{kind}.lib"
            for kind in (
                "SIMPLE_RVT_TT_nldm_211120",
                "INVBUF_RVT_TT_nldm_220122",
                "AO_RVT_TT_nldm_211120",
                "OA_RVT_TT_nldm_211120",
                "SEQ_RVT_TT_nldm_220123",
            )
        ),
        "ASAP7, predictive 7 nm, regular threshold, typical, 0.7 V; BSD-3-Clause",
    ),
    "gt2n": OpenLibrary(
        ("gt2n_6t_w13_svt_tt_0p7v25c.lib",), "GT2N, predictive 2 nm, standard threshold, typical, 0.7 V; BSD-3-Clause"
    ),
}
"""What `read_open` knows."""


def read_open(name: str, folder: Path) -> Library:
    """The named library from a folder of Liberty files. FileNotFoundError names the file that it lacks."""
    if name not in OPEN:
        raise ValueError(f"{name!r} is none of the open libraries {', '.join(OPEN)}")
    about = OPEN[name]
    return read_liberty(name, [_read(folder / file) for file in about.files], unused=about.unused, source=about.source)


def _read(path: Path) -> str:
    packed = path.with_name(f"{path.name}.gz")
    if path.exists():
        return path.read_text(errors="replace")
    if packed.exists():
        return gzip.decompress(packed.read_bytes()).decode(errors="replace")
    raise FileNotFoundError(f"neither {path} nor {packed.name} beside it; give the folder of the Liberty files")
