"""What leaves an engine's array: added to what earlier folds left, scaled where blocks have scales, and given out."""

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from bitwright.rtl.accumulate import Register
from bitwright.rtl.double_buffered import DoubleBuffered
from bitwright.rtl.queue import Storage, clear
from bitwright.rtl.stream import Beat, stages
from bitwright.rtl.systolic import delay
from bitwright.rtl.term import named
from bitwright.rtl.unit import place
from bitwright.rtl.units import Collector

if TYPE_CHECKING:
    from bitwright.rtl.engine import Engine, Issue, Loader


def what_is_read(m: Module, register: Register, sums: list[Value]) -> list[Value]:
    """What leaves inner registers of all columns."""
    if register.readout is None:
        return sums
    found = []
    for c, value in enumerate(sums):
        m.submodules[f"read_{c}"] = reader = Module()
        found.append(register.read(reader, value))
    return found


def words_in_order(
    m: Module, platform: object, rst: Value, word: Value, most: int, *, written: Value, fetched: Value
) -> Value:
    """What a fold brings along, until its sums leave: the word that was fetched last. At most so many wait."""
    storage = Storage(len(word), 1 << most.bit_length())
    place(m, platform, "of_folds", storage)
    loaded, leaving = (Signal(most.bit_length(), name=name) for name in ("fold_loaded", "fold_leaving"))
    m.d.comb += [
        storage.write.eq(written), storage.write_address.eq(loaded), storage.write_data.eq(word),
        storage.read.eq(fetched), storage.read_address.eq(leaving),
    ]  # fmt: skip
    m.d.sync += [loaded.eq(loaded + storage.write), leaving.eq(leaving + storage.read)]
    clear(m, rst, [loaded, leaving])
    return storage.read_data


class Exit:
    """The way from the array to the queue: `sums` of one vector, whether they `arrives`, and whether it `is_last`."""

    def __init__(
        self, m: Module, ports: "Engine", platform: object, array: DoubleBuffered, loader: "Loader", issue: "Issue"
    ) -> None:
        self._m, self._ports, self._array, self._issue = m, ports, array, issue
        self._address_bits = max((ports.vectors - 1).bit_length(), 1)
        self._valid = stages(m, "valid", issue.taken, ports.latency)
        clear(m, ports.rst, [stage for stage in self._valid[1:] if isinstance(stage, Signal)])
        self._late = {
            name: stages(m, name, signal, ports.latency)
            for name, signal in {
                "starts_tile": issue.starts_tile, "ends_tile": issue.ends_tile, "starts_total": issue.starts_total,
                "is_complete": issue.is_complete, "ends_job": issue.ends_job, "first": issue.first,
                "address": issue.vector[: self._address_bits],
            }.items()
        }  # fmt: skip
        m.d.comb += issue.left.eq(self._valid[array.latency])
        per_fold = self._per_fold(platform, loader)
        sums = self._inner_sums(platform, per_fold.get("starts"))
        if ports.plan.outer is None:
            self.sums = Cat(*what_is_read(m, ports.plan.inner, sums))
        else:
            self.sums = Cat(*self._totals(platform, per_fold.get("scales"), sums))
        self.arrives = self._valid[-1] & self._late["is_complete"][-1]
        self.is_last = self._late["ends_job"][-1]

    def _inner_sums(self, platform: object, starts: list[Value] | None) -> list[Value]:
        """Inner registers after this fold, at the array's end."""
        m, ports, array = self._m, self._ports, self._array
        register, end = ports.plan.inner, array.latency
        sums: list[Value] = [getattr(array, f"sum_{c}") for c in range(ports.columns)]
        if ports.folds_per_tile == 1:
            return sums if starts is None else [self._added(c, starts[c], value) for c, value in enumerate(sums)]
        read_at = 0 if array.goes_on else end - 1
        bits = register.shape.width
        goes_on = ~self._late["ends_tile"][end]
        held = self._storage(platform, "partial_sums", bits * len(sums), read=read_at, written=end, if_=goes_on)
        is_first = self._late["starts_tile"][read_at + 1]
        after = []
        for c, value in enumerate(sums):
            start = 0 if starts is None else starts[c]
            before = named(
                m, f"partial_sum_{c}", register.shape, Mux(is_first, start, held.read_data.word_select(c, bits))
            )
            if array.goes_on:
                m.d.comb += getattr(array, f"sum_in_{c}").eq(before)
            after.append(value if array.goes_on else self._added(c, before, value))
        m.d.comb += held.write_data.eq(Cat(*after))
        return after

    def _added(self, c: int, before: Value, value: Value) -> Value:
        """A register that does not saturate, after the sum of a fold."""
        register = self._ports.plan.inner
        return register.add(self._m, f"inner_sum_{c}", before, [value], register.shape.width)

    def _totals(self, platform: object, w_scales: list[Value] | None, sums: list[Value]) -> list[Value]:
        """Outer registers after this tile."""
        m, ports, end = self._m, self._ports, self._array.latency
        outer = ports.plan.outer
        assert outer is not None
        bits = outer.register.shape.width
        at, done = end + outer.held_at, end + outer.latency
        goes_on = self._late["ends_tile"][done] & ~self._late["is_complete"][done]
        held = self._storage(platform, "totals", bits * len(sums), read=at - 1, written=done, if_=goes_on)
        x_scale = None if self._issue.scale is None else delay(m, "x_scale", self._issue.scale, end)
        totals: list[Value] = []
        for c, value in enumerate(sums):
            collector = Collector(ports.plan)
            place(m, platform, f"collector_{c}", collector)
            before = Mux(self._late["starts_total"][at], 0, held.read_data.word_select(c, bits))
            m.d.comb += [collector.sum.eq(value), collector.total_in.eq(before)]
            if x_scale is not None:
                m.d.comb += collector.x_scale.eq(x_scale)
            if w_scales is not None:
                m.d.comb += collector.w_scale.eq(w_scales[c])
            totals.append(collector.total)
        m.d.comb += held.write_data.eq(Cat(*totals))
        return totals

    def _per_fold(self, platform: object, loader: "Loader") -> dict[str, list[Value]]:
        """Scales and starts of the fold whose sums leave the array: they wait from the last weights until then."""
        m, ports, end = self._m, self._ports, self._array.latency
        beat = ports.streams.w.split(ports.w_tdata)
        fields = [field for field in ports.streams.w.fields if field.name in ("scales", "starts")]
        if not fields:
            return {}
        most = -(-end // ports.shortest_fold) + 1  # folds in the array, and the one that waits
        kept = Beat(tuple(fields))
        words = words_in_order(
            m, platform, ports.rst, Cat(*(beat[field.name] for field in fields)), most,
            written=loader.taken & loader.is_last, fetched=self._valid[end - 1] & self._late["first"][end - 1],
        )  # fmt: skip
        return kept.split(words)

    def _storage(self, platform: object, name: str, bits: int, *, read: int, written: int, if_: Value) -> Storage:
        """Sums of all columns, a word a vector, fetched and put back so many cycles after the vector was taken."""
        m, address = self._m, self._late["address"]
        storage = Storage(bits, self._ports.vectors)
        place(m, platform, name, storage)
        m.d.comb += [
            storage.read.eq(self._valid[read]), storage.read_address.eq(address[read]),
            storage.write.eq(self._valid[written] & if_), storage.write_address.eq(address[written]),
        ]  # fmt: skip
        return storage
