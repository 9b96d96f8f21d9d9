import pytest

from bitwright.cli.common import command
from bitwright.search.address import without_password


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host:5432/name", "postgresql://me@host:5432/name"),
        ("postgresql://me:se:cr@et@host/name", "postgresql://me@host/name"),
        ("postgresql://host/name?user=me&password=secret&sslmode=require",
         "postgresql://host/name?user=me&password=…&sslmode=require"),
        ("postgresql://me@host/name", "postgresql://me@host/name"), ("sqlite:////tmp/queue.db", "sqlite:////tmp/queue.db"),
        ("energy<=4uJ, top1>=0.9", "energy<=4uJ, top1>=0.9"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_password(text, shown):
    assert without_password(text) == shown


def test_a_report_names_the_command_as_a_shell_reads_it_without_the_password_of_its_database(monkeypatch):
    words = ["bitwright", "search", "-s", "integer(4, 4); nvfp4()", "--executor=postgresql://me:secret@host/name"]
    monkeypatch.setattr("sys.argv", words)
    assert command() == ("bitwright search -s 'integer(4, 4); nvfp4()' --executor=postgresql://me@host/name")
