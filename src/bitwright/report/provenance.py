"""What the page says about the run itself: coverage of the model, facts to repeat it, an entry to cite it."""

import hashlib
import re
from dataclasses import asdict, dataclass
from itertools import groupby

from bitwright.report import notation
from bitwright.result import Comparison, Coverage, RunInfo

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}
_STATUSES = ("unsupported", "float", "quantized")  # what a reader must know first


@dataclass(frozen=True)
class CoverageLine:
    """Layers that share kind, status and reason."""

    status: str
    kind: str
    reason: str
    names: tuple[str, ...]
    calls: int


@dataclass(frozen=True)
class CoverageTable:
    """The coverage that some schemes share."""

    schemes: tuple[str, ...]
    lines: tuple[CoverageLine, ...]
    quantized_calls: int
    calls: int


def coverage_tables(comparison: Comparison) -> tuple[CoverageTable, ...]:
    """One table per distinct coverage, in the order of the schemes; schemes without coverage are left out."""
    schemes: dict[tuple[Coverage, ...], list[str]] = {}
    for row in comparison.rows:
        if row.coverage:
            schemes.setdefault(row.coverage, []).append(row.scheme)
    return tuple(
        CoverageTable(
            tuple(names),
            _lines(coverage),
            sum(item.count for item in coverage if item.status == "quantized"),
            sum(item.count for item in coverage),
        )
        for coverage, names in schemes.items()
    )


def _lines(coverage: tuple[Coverage, ...]) -> tuple[CoverageLine, ...]:
    def key(item: Coverage) -> tuple[int, str, str, str]:
        rank = _STATUSES.index(item.status) if item.status in _STATUSES else -1
        return rank, item.status, item.kind, item.reason

    # the sort is stable: names stay in the model's order
    return tuple(
        CoverageLine(status, kind, reason, tuple(item.name for item in items), sum(item.count for item in items))
        for (_, status, kind, reason), group in groupby(sorted(coverage, key=key), key)
        for items in [list(group)]
    )


def facts(info: RunInfo) -> tuple[tuple[str, str], ...]:
    """Name and value of everything that identifies the run, hashes and versions apart."""
    return (
        ("task", info.task),
        ("model", info.model_source),
        ("data", info.data_source),
        ("test samples", f"{info.samples:,}"),
        ("calibration samples", f"{info.calibration_samples:,}"),
        ("seed", str(info.seed)),
        ("evaluation", info.evaluation),
        ("started (UTC)", info.started),
        ("machine", info.machine),
    )


def bibtex(comparison: Comparison) -> str:
    """A @misc entry; its key ends in the digest of the comparison, so that two runs never share one."""
    info = comparison.info
    year, month, day = _date(info.started)
    digest = hashlib.sha256(repr(_plain(comparison)).encode()).hexdigest()[:8]
    slug = re.sub(r"[^a-z0-9]+", "-", info.task.lower()).strip("-") or "run"
    version = info.versions.get("bitwright")
    schemes = notation.plural(len(comparison.rows), "scheme")
    entries = {
        "title": f"{{{_latex(info.task)}: {schemes} compared by bitwright}}",
        "author": "{bitwright}",
        "year": year,
        "month": month,
        "day": day,
        "version": _latex(version) if version else "",
        "note": _latex(f"{info.evaluation} evaluation, {info.samples} samples, seed {info.seed}, run {digest}"),
    }
    width = max(map(len, entries))
    body = "\n".join(f"  {name:<{width}} = {{{value}}}," for name, value in entries.items() if value)
    return f"@misc{{bitwright-{slug}-{digest},\n{body}\n}}"


def _date(started: str) -> tuple[str, str, str]:
    """Year, month and day of an ISO 8601 time; empty where it is none."""
    match = re.match(r"(\d{4})-(\d{2})-(\d{2})", started)
    return match.groups() if match else ("", "", "")


def _plain(comparison: Comparison) -> dict:
    """The comparison as containers whose text does not depend on the order of the dictionaries in it."""
    plain = asdict(comparison)
    for name in ("hashes", "versions"):
        plain["info"][name] = sorted(plain["info"][name].items())
    return plain


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
