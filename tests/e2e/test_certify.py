"""`bitwright certify` as a stranger meets it."""

import pytest

from bitwright.model.certificate import ModelCertificate
from bitwright.store import read_json


def test_a_network_of_ones_own_gets_a_table_and_a_file(here, write_task, tmp_path):
    done = here("certify", write_task(), "-s", "integer(8, 8)", "-o", "folder/c.json")
    assert done.status == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert " ".join(lines[1].split()) == "layer K in a sum formats norm signs exact reached used zeros entropy"
    assert lines[2].split()[:3] == ["0", "9", "9"]
    certificate = read_json(tmp_path / "folder" / "c.json", ModelCertificate)
    assert [c.name for c in certificate.layers] == ["0", "3"]
    assert lines[2].split()[6] == str(certificate.layers[0].exact_bits)


def test_a_register_that_may_overflow_leaves_with_status_one(here, write_task):
    done = here("certify", write_task(), "-s", "integer(8, 8, accumulator_bits=14)")
    assert done.status == 1
    assert "may overflow" in done.sentence
    assert " has " in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-s", "mxfp4()", "--bias-inside"), "leave the bias outside"),
        (("-s", "mxfp4()", "--tile", "3"), "choose a divisor"),
        (("--tile", "0"), "--tile"),
        (("-s", "integr(8)"), "did you mean"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(here, write_task, arguments, words):
    done = here("certify", write_task(), *arguments)
    assert done.status == 2
    assert words in done.sentence
