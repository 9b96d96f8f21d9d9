import math

import pytest

from bitwright.cost.figure import Cited, Fitted, Measured, total
from bitwright.cost.memory import WORST_RATIO, Dram, Sram, _stored, _table


@pytest.mark.parametrize(
    ("kilobytes", "read_pj"), [(8, 6.137), (32, 17.042), (64, 25.870), (256, 44.716), (1024, 93.519)]
)
def test_the_table_gives_its_own_points(kilobytes, read_pj):
    assert Sram(kilobytes).read_pj_per_bit.value * 64 == pytest.approx(read_pj, rel=1e-4)


def test_every_point_of_the_table_is_met():
    for node, kilobytes, word, area, read, write, _ in _stored()["points"]:
        sram = Sram(kilobytes, word, node_nm=node)
        found = sram.area_um2.value, sram.read_pj_per_bit.value * word, sram.write_pj_per_bit.value * word
        assert found == pytest.approx((area, read, write), rel=1e-12)


@pytest.mark.parametrize("column", WORST_RATIO)
def test_a_point_left_out_is_found_within_the_ratio_that_is_stated(column):
    worst = 1.0
    for node in (22, 45):
        table = _table(node)
        sizes = table.kilobytes
        for below, size, above in zip(sizes, sizes[1:], sizes[2:]):
            for word in table.words:
                around = math.sqrt(table.values[column, below, word] * table.values[column, above, word])
                worst = max(worst, around / table.values[column, size, word], table.values[column, size, word] / around)
    assert WORST_RATIO[column] - 0.01 < worst <= WORST_RATIO[column]


def test_between_two_points_energy_lies_between_theirs():
    assert Sram(32).read_pj_per_bit.value < Sram(40).read_pj_per_bit.value < Sram(64).read_pj_per_bit.value


def test_halfway_between_two_points_in_logarithms_energy_is_their_geometric_mean():
    between = Sram(math.sqrt(32 * 64)).read_pj_per_bit.value
    assert between**2 == pytest.approx(Sram(32).read_pj_per_bit.value * Sram(64).read_pj_per_bit.value)


def test_banks_cost_the_energy_of_one_and_the_area_of_all():
    whole, banked = Sram(32), Sram(128, banks=4)
    assert banked.read_pj_per_bit == whole.read_pj_per_bit
    assert banked.area_um2.value == pytest.approx(4 * whole.area_um2.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Sram(1), "banks of 1 KB found; the table has 2 to 1024 KB"),
        (lambda: Sram(4096), "banks of 4096 KB found"),
        (lambda: Sram(64, 512), "words of 512 bits found; the table has 32 to 256"),
        (lambda: Sram(64, node_nm=28), "a node of 28 nm found; the table has 22, 45 nm"),
        (lambda: Dram(Cited(8, "x"), 0), "0 bits a cycle found"),
    ],
)
def test_what_the_table_does_not_have_is_refused_with_what_it_has(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_sum_says_what_it_is_made_of():
    mixed = total([Cited(1.5, "a"), Fitted(2.0, "b", 1.2), Measured(0.0, "c"), Cited(1.0, "a")])
    assert (mixed.value, mixed.origins, mixed.sources) == (4.5, ("cited", "fitted"), ("a", "b"))


def test_so_many_of_a_figure_keep_its_origin_and_source():
    assert Fitted(2.0, "b", 1.2).times(3) == Fitted(6.0, "b", 1.2)
