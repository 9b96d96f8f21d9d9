"""Memories as units of their own, so that a macro may take their place, and the queue that results wait in."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from bitwright.rtl.term import shape_of
from bitwright.rtl.unit import Unit, place


class Storage(Unit):
    """`depth` words, one written and one read at a clock. Latency 1.

    write, write_address, write_data   in: put this word there
    read, read_address                 in: fetch that word. It must not be written in the same cycle
    read_data                          out: the word that was fetched last
    """

    is_clocked = True

    def __init__(self, bits: int, depth: int) -> None:
        self.bits, self.depth = bits, depth
        address = shape_of(0, max(depth - 1, 1))
        super().__init__(
            {
                "write": In(1), "write_address": In(address), "write_data": In(bits),
                "read": In(1), "read_address": In(address), "read_data": Out(bits),
            },
            bits, depth,
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = Memory(shape=self.bits, depth=self.depth, init=[])
        write, read = words.write_port(), words.read_port()
        m.d.comb += [
            write.en.eq(self.write), write.addr.eq(self.write_address), write.data.eq(self.write_data),
            read.en.eq(self.read), read.addr.eq(self.read_address), self.read_data.eq(read.data),
        ]  # fmt: skip
        return m


class ResultQueue(Unit):
    """Beats on their way out, and how many more may be sent for: what was asked for always finds a place.

    So nothing in front of it ever has to stop: a stream that is not read keeps inputs out instead.

    rst                    in: empty, and nothing is under way
    ask                    in: `beats` will come: only while has_place is high
    has_place              out: as many more may be asked for
    write, data            in: a beat that was asked for
    tvalid, tready, tdata  out, in, out: the first beat in the queue
    """

    is_clocked = True

    LATENCY = 2
    """Cycles from a beat that enters the empty queue to its `tvalid`."""

    def __init__(self, bits: int, depth: int, beats: int = 1) -> None:
        self.bits, self.depth, self.beats = bits, depth, beats
        super().__init__(
            {
                "rst": In(1), "ask": In(1), "has_place": Out(1), "write": In(1), "data": In(bits),
                "tvalid": Out(1), "tready": In(1), "tdata": Out(bits),
            },
            bits, depth, beats,
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        storage = Storage(self.bits, self.depth)
        place(m, platform, "storage", storage)
        first, free_word = (Signal(storage.read_address.shape(), name=name) for name in ("first_word", "free_word"))
        waiting = Signal(range(self.depth + 1), name="waiting_words")  # besides what tdata shows
        free = Signal(range(self.depth + 1), init=self.depth, name="free_places")
        fetch, leaves = (Signal(name=name) for name in ("fetches", "leaves"))
        m.d.comb += [
            self.has_place.eq(free >= self.beats),
            fetch.eq((waiting != 0) & (~self.tvalid | self.tready)),
            leaves.eq(self.tvalid & self.tready),
            storage.write.eq(self.write), storage.write_address.eq(free_word), storage.write_data.eq(self.data),
            storage.read.eq(fetch), storage.read_address.eq(first), self.tdata.eq(storage.read_data),
        ]  # fmt: skip
        m.d.sync += self.tvalid.eq(fetch | (self.tvalid & ~self.tready))
        count(m, waiting, up=self.write, down=fetch)
        m.d.sync += free.eq(free + leaves - Mux(self.ask, self.beats, 0))
        for position, moves in ((free_word, self.write), (first, fetch)):
            with m.If(moves):
                m.d.sync += position.eq(Mux(position == self.depth - 1, 0, position + 1))
        clear(m, self.rst, [self.tvalid, waiting, free, free_word, first])
        return m


def count(m: Module, counter: Signal, *, up: Value, down: Value) -> None:
    """One more, one less, or both."""
    with m.If(up & ~down):
        m.d.sync += counter.eq(counter + 1)
    with m.Elif(down & ~up):
        m.d.sync += counter.eq(counter - 1)


def clear(m: Module, rst: Value, registers: list[Signal]) -> None:
    """These registers start again while `rst` is high; comes last, so that it wins."""
    with m.If(rst):
        m.d.sync += [register.eq(register.init) for register in registers]
