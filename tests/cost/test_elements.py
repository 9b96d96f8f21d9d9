"""Elements for networks of several schemes."""

from itertools import permutations

from bitwright.cost.elements import elements
from bitwright.cost.figure import Cited
from bitwright.cost.mac import Mac


def near(sizes):
    """An element for sizes at most 1 apart, of the largest one's area: that serving together is not transitive."""
    area = Cited(float(max(sizes)), "a toy")
    return Mac(area, area, serves_all=max(sizes) - min(sizes) <= 1)


def test_which_parts_share_an_element_does_not_depend_on_their_order():
    work = {"a": (1,), "b": (2,), "c": (3,), "d": (3,)}
    for order in permutations(work):
        found = elements({key: work[key] for key in order}, near)
        assert list(found) == list(order)
        assert {key: mac.area_um2.value for key, mac in found.items()} == {"a": 1, "b": 3, "c": 3, "d": 3}
