import json

import pytest

from bitwright.cost.netlist import ONE, ZERO, Instance, Netlist, read_netlist, yosys_gates

CELL = {"type": "$_AND_", "connections": {"A": [2], "B": [3], "Y": [4]}}


def text(cells=None, **modules):
    module = {
        "ports": {
            "a": {"direction": "input", "bits": [2], "signed": 1},
            "b": {"direction": "input", "bits": [3]},
            "y": {"direction": "output", "bits": [4, "1", "0", "x"]},
        },
        "cells": {"g": CELL} if cells is None else cells,
        "netnames": {"held": {"bits": [4, 5], "attributes": {"init": "01"}}},
    }
    return json.dumps({"modules": {"top": module} | modules})


def test_ports_are_nets_from_the_lowest_bit():
    netlist = read_netlist(text())
    assert netlist.inputs == {"a": (2,), "b": (3,)}
    assert netlist.outputs == {"y": (4, ONE, ZERO, ZERO)}
    assert netlist.signed == {"a"}
    assert netlist.ones == {4}
    assert netlist.count() == {"$_AND_": 1}


def test_cells_that_only_describe_are_no_modules():
    assert read_netlist(text(AND={"attributes": {"blackbox": "0001"}})).name == "top"


def test_two_modules_need_a_name():
    with pytest.raises(ValueError, match="found 2: top, more; flatten it"):
        read_netlist(text(more={"ports": {}, "cells": {}, "netnames": {}}))


def test_a_cell_of_several_bits_is_refused():
    with pytest.raises(ValueError, match=r"g \(\$add\) has pins of several bits"):
        read_netlist(text({"g": {"type": "$add", "connections": {"A": [2, 3]}}}))


def chain(*pairs):
    """Inverters from net to net."""
    instances = [Instance(f"i{out}", "$_NOT_", {"A": into, "Y": out}) for into, out in pairs]
    return Netlist("chain", {"a": (2,)}, {"y": (5,)}, tuple(instances))


def test_instances_come_behind_what_they_read():
    order = chain((4, 5), (2, 3), (3, 4)).in_order(yosys_gates())
    assert [instance.pins["Y"] for instance in order] == [3, 4, 5]


def test_a_loop_is_named():
    with pytest.raises(ValueError, match="is on a combinational loop"):
        chain((5, 3), (3, 4), (4, 5)).in_order(yosys_gates())


def test_a_diamond_is_no_loop():
    gates = [Instance("x", "$_AND_", {"A": 3, "B": 4, "Y": 5}), Instance("l", "$_NOT_", {"A": 2, "Y": 3})]
    gates += [Instance("r", "$_AND_", {"A": 3, "B": 2, "Y": 4})]
    order = Netlist("diamond", {"a": (2,)}, {"y": (5,)}, tuple(gates)).in_order(yosys_gates())
    assert [instance.name for instance in order] == ["l", "r", "x"]


def test_loads_are_the_input_pins_on_a_net():
    assert chain((2, 3), (2, 4), (4, 5)).loads(yosys_gates()) == {2: [("i3", "A"), ("i4", "A")], 4: [("i5", "A")]}
