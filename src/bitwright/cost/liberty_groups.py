"""The Liberty file syntax: nested groups of attributes, as text files of cell libraries write them.

Reads what libraries contain rather than what the grammar says: missing semicolons, comments that open twice, quoted
and bare names, lists broken over lines.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
STATEMENT = re.compile(
    r"""[\s;\\]*+(?:
        (?P<close>\})
      | (?P<name>[\w.\-]++)\s*+(?:
            \(\s*+(?P<arguments>(?:[^()"]++|"[^"]*+")*+)\)[ \t]*+(?P<open>\s*+\{)?
          | :[ \t]*+(?P<value>"[^"]*+"|[^;\n{}]*+)
        )
    )""",
    re.VERBOSE,
)
CELL = re.compile(r'\bcell\s*\(\s*"?([^\s")]+)"?\s*\)\s*\{')


@dataclass
class Group:
    """`name (arguments) { attributes, lists and groups }`; what is given twice counts once, the last time."""

    name: str
    arguments: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    groups: list["Group"] = field(default_factory=list)

    def of(self, *names: str) -> Iterator["Group"]:
        """The groups inside with one of the names."""
        return (group for group in self.groups if group.name in names)


def parse_group(text: str) -> Group:
    """The first group of a text without comments; what is open at its end is closed there."""
    root = Group("")
    path, place = [root], 0
    while len(path) > 1 or not root.groups:
        found = STATEMENT.match(text, place)
        if found is None:
            break
        place = found.end()
        if found["close"]:
            if len(path) > 1:
                path.pop()
        elif found["value"] is not None:
            path[-1].attributes[found["name"]] = found["value"].strip().strip('"').strip()
        elif found["open"]:
            group = Group(found["name"], words(found["arguments"]))
            path[-1].groups.append(group)
            path.append(group)
        else:
            path[-1].lists[found["name"]] = words(found["arguments"])
    if not root.groups:
        raise ValueError(f"no Liberty group begins at {text[:40].strip()!r}")
    return root.groups[0]


def words(arguments: str) -> tuple[str, ...]:
    """Arguments apart; a quoted one may hold commas of its own, and a list broken over lines backslashes."""
    found = re.findall(r'"([^"]*)"|([^\s,"\\]+)', arguments)
    return tuple((quoted or bare).strip() for quoted, bare in found)


def split_cells(text: str) -> tuple[str, dict[str, str], str]:
    """A library's head, the text of each cell by name, and what follows the last one. Comments are dropped."""
    text = COMMENT.sub(" ", text)
    starts = list(CELL.finditer(text))
    if not starts:
        raise ValueError(f"no cells in a Liberty text that begins {text[:40].strip()!r}")
    ends = [found.start() for found in starts[1:]]
    last = _end_of_group(text, starts[-1].end())
    cells = {found[1]: text[found.start() : end] for found, end in zip(starts, [*ends, last], strict=True)}
    return text[: starts[0].start()], cells, text[last:]


def _end_of_group(text: str, place: int) -> int:
    depth = 1
    for found in re.compile(r'"[^"]*"|[{}]').finditer(text, place):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return len(text)
