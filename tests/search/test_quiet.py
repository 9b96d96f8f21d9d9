"""What others write to standard output comes through."""

import os

from bitwright.search.quiet import without_lines


def test_only_lines_that_begin_so_are_dropped(capfd):
    with without_lines("noise:"):
        os.write(1, b"noise: one\nkept\nnoise: two\n")
        print("by Python")
    print("after")
    assert sorted(capfd.readouterr().out.splitlines()) == ["after", "by Python", "kept"]
