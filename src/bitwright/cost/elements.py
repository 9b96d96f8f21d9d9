"""Elements for networks whose layers have different schemes: shared where one serves several, else side by side."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import TypeVar

from bitwright.cost.mac import Edge, Mac, added

K = TypeVar("K", bound=Hashable)
P = TypeVar("P")


def elements(work: Mapping[K, tuple[P, ...]], cells: Callable[[tuple[P, ...]], Mac]) -> dict[K, Mac]:
    """The element of each part of the work: the first one that serves it together with larger parts, or its own.

    The largest part is the first, of equal ones that whose key prints first: the order of the work changes nothing.
    Parts are products of whatever kind `cells` makes an element for.
    """
    own = {key: cells(pairs) for key, pairs in work.items()}
    groups: list[tuple[list[K], Mac]] = []
    for key in sorted(own, key=lambda key: (-own[key].area_um2.value, repr(key))):
        for i, (keys, _) in enumerate(groups):
            together = cells(tuple(pair for k in (*keys, key) for pair in work[k]))
            if together.serves_all:
                groups[i] = [*keys, key], together
                break
        else:
            groups.append(([key], own[key]))
    found = {key: mac for keys, mac in groups for key in keys}
    return {key: found[key] for key in work}


def side_by_side(macs: Mapping[K, Mac]) -> Mac:
    """One of each in every place of an array, of which one works: areas add, the rest is the largest one's."""
    every = list(dict.fromkeys(macs.values()))
    largest = max(every, key=lambda mac: mac.area_um2.value)
    if len(every) == 1:
        return largest
    edges = [mac.edge for mac in every if mac.edge is not None]
    edge = None
    if edges:
        rows, columns = (added(*(getattr(e, name) for e in edges)) for name in ("row_um2", "column_um2"))
        own = largest.edge or edges[0]
        edge = Edge(rows, columns, own.input_pj, own.weight_pj, own.output_pj)
    said = f"{len(every)} elements side by side in every place, of which one works"
    remarks = tuple(dict.fromkeys((said, *(remark for mac in every for remark in mac.remarks))))
    period = max(mac.period_ns for mac in every)
    return replace(largest, area_um2=added(*(m.area_um2 for m in every)), edge=edge, period_ns=period, remarks=remarks)
