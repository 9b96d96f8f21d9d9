"""A matrix-product engine around an output-stationary array, with the ports of the weight-stationary one."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from bitwright.rtl.double_buffered_outputs import DoubleBufferedOutputs
from bitwright.rtl.engine import JOB, streams
from bitwright.rtl.engine_exit import what_is_read, words_in_order
from bitwright.rtl.plan import Plan
from bitwright.rtl.queue import ResultQueue, clear
from bitwright.rtl.stream import Beat, sink, source, stages
from bitwright.rtl.term import named
from bitwright.rtl.unit import Unit, place


class OutputEngine(Unit):
    """Matrix products over AXI4-Stream, rows × columns sums at a time that stay where they are until they are complete.

    rst            in: start again; synchronous. Held for one cycle or longer
    job_t...       in: a job: [15:0] elements along K - 1, [31:16] folds a group - 1, [47:32] groups - 1
    w_t...         in: weights: for each fold, one element of K of all columns a beat. tlast: a fold ends
    x_t...         in: inputs: for each fold, one element of K of all rows a beat. tlast: a fold ends
    y_t...         out: sums: for each fold, one row of the array a beat, the last one first. tlast: the job ends
    out_of_step    out: a tlast of w or x came where no fold ends, or none where one does: sums are wrong until rst

    A fold is rows × columns sums over all of K; a job's folds times groups follow each other. tdata holds codes of
    lanes, then what sums start from, then the number of the format, as far as a scheme has them: the lines `x_tdata`,
    `w_tdata` and `y_tdata` above say where. What sums start from counts in the last beat of a fold. Formats that limit
    the terms of a group take the limited elements, as integers. Lanes beyond the edge carry any code.

    A beat moves when tvalid and tready are high; every one of them depends on registers alone. Any stream may pause at
    any time.

    Cycles, when no stream pauses: F folds of K elements take 2·rows + columns + K + 2 + (F - 1)·max(K, rows) from the
    first beat to the last sum's.
    """

    is_clocked = True

    def __init__(self, plan: Plan, rows: int, columns: int) -> None:
        array = DoubleBufferedOutputs(plan, rows, columns)
        self.stored, self.plan = plan, array.plan  # formats as they are stored, and as they are read
        self.rows, self.columns = rows, columns
        self.streams = streams(array.plan, rows, columns)
        ports = {
            "rst": In(1), **sink("job", JOB, has_last=False), **sink("w", self.streams.w), **sink("x", self.streams.x),
            **source("y", self.streams.y), "out_of_step": Out(1),
        }  # fmt: skip
        super().__init__(ports, plan, rows, columns)

    def parameters(self) -> tuple[str, ...]:
        """What a user must know of this engine, a line each."""
        return (f"array     {self.rows} rows, {self.columns} columns", *self.streams.described())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array = DoubleBufferedOutputs(self.plan, self.rows, self.columns)
        place(m, platform, "array", array)
        last_beat = array.latency + self.rows - 1
        queue = ResultQueue(self.streams.y.used_bits + 1, last_beat + ResultQueue.LATENCY + self.rows, self.rows)
        place(m, platform, "results", queue)
        x, w = (_Held(m, self, name, beat) for name, beat in (("x", self.streams.x), ("w", self.streams.w)))
        is_last, ends_job = self._count(m, x, w, array, queue)
        finished = stages(m, "finished", array.last, last_beat)
        clear(m, self.rst, [stage for stage in finished[1:] if isinstance(stage, Signal)])
        ends_job = stages(m, "ends_job", ends_job, last_beat)
        drains = finished[self.rows + 1 : 2 * self.rows]
        m.d.comb += [getattr(array, f"drain_{r}").eq(Cat(drains[:r]).any()) for r in range(1, self.rows)]
        sums = what_is_read(m, self.plan.inner, self._started(m, platform, w, array, finished))
        m.d.comb += [
            queue.rst.eq(self.rst), queue.ask.eq(array.last), queue.write.eq(Cat(finished[array.latency :]).any()),
            queue.data.eq(Cat(*sums, finished[-1] & ends_job[-1])),
            self.y_tvalid.eq(queue.tvalid), queue.tready.eq(self.y_tready),
            self.y_tdata.eq(queue.tdata[:-1]), self.y_tlast.eq(queue.tdata[-1]),
        ]  # fmt: skip
        with m.If(x.taken & ((x.tlast != is_last) | (w.tlast != is_last))):
            m.d.sync += self.out_of_step.eq(1)
        clear(m, self.rst, [self.out_of_step])
        return m

    def _started(
        self, m: Module, platform: object, w: "_Held", array: DoubleBufferedOutputs, finished: list[Value]
    ) -> list[Value]:
        """The array's sums and what they start from, which waits from the last weights until they leave."""
        sums: list[Value] = [getattr(array, f"sum_{c}") for c in range(self.columns)]
        if "starts" not in w.fields:
            return sums
        register, most = self.plan.inner, -(-array.latency // self.rows) + 1
        words = words_in_order(
            m, platform, self.rst, Cat(*w.fields["starts"]), most,
            written=array.last, fetched=finished[array.latency - 1],
        )  # fmt: skip
        starts = [
            named(m, f"start_{c}", register.shape, words.word_select(c, register.bits)) for c in range(self.columns)
        ]
        return [register.add(m, f"sum_{c}", starts[c], [value], register.bits) for c, value in enumerate(sums)]

    def _count(
        self, m: Module, x: "_Held", w: "_Held", array: DoubleBufferedOutputs, queue: ResultQueue
    ) -> tuple[Value, Value]:
        """Take elements of K through a job: whether this one is a fold's last, and whether its fold is the job's."""
        job = {name: fields[0] for name, fields in JOB.split(self.job_tdata).items()}
        is_running, is_last = Signal(name="is_running"), Signal(name="is_last_element")
        last = [Signal(16, name=name) for name in ("last_element", "last_fold", "last_group")]
        element, fold, group = (Signal(16, name=name) for name in ("element", "fold", "group"))
        resting = Signal(range(self.rows + 1), name="cycles_until_a_fold_may_end")
        ends_group, ends_job = Signal(name="is_last_fold"), Signal(name="is_last_of_job")
        taken = Signal(name="element_taken")
        m.d.comb += [
            self.job_tready.eq(~is_running),
            is_last.eq(element == last[0]),
            ends_group.eq(fold == last[1]),
            ends_job.eq(ends_group & (group == last[2])),
            taken.eq(is_running & x.is_full & w.is_full & (~is_last | (queue.has_place & (resting == 0)))),
            x.taken.eq(taken), w.taken.eq(taken), array.valid.eq(taken),
            array.first.eq(element == 0), array.last.eq(taken & is_last),
        ]  # fmt: skip
        for held, operand in ((x, "x"), (w, "w")):
            m.d.comb += [getattr(array, f"{operand}_{i}").eq(code) for i, code in enumerate(held.fields["codes"])]
            if "format" in held.fields:
                m.d.comb += getattr(array, f"{operand}_select").eq(held.fields["format"][0])
        with m.If(self.job_tvalid & self.job_tready):
            m.d.sync += [is_running.eq(1), *(register.eq(field) for register, field in zip(last, job.values()))]
        with m.If(resting != 0):
            m.d.sync += resting.eq(resting - 1)
        with m.If(taken):
            m.d.sync += element.eq(Mux(is_last, 0, element + 1))
        with m.If(array.last):
            m.d.sync += [resting.eq(self.rows - 1), fold.eq(Mux(ends_group, 0, fold + 1))]
            with m.If(ends_group):
                m.d.sync += group.eq(Mux(ends_job, 0, group + 1))
            with m.If(ends_job):
                m.d.sync += is_running.eq(0)
        clear(m, self.rst, [is_running, *last, element, fold, group, resting])
        return is_last, ends_job


class _Held:
    """The beat of a stream that was taken last, until it is used: both streams meet here."""

    def __init__(self, m: Module, ports: OutputEngine, name: str, beat: Beat) -> None:
        tvalid, tready, tdata, tlast = (
            getattr(ports, f"{name}_{part}") for part in ("tvalid", "tready", "tdata", "tlast")
        )
        data = Signal(beat.used_bits, name=f"{name}_held")
        self.is_full, self.taken = Signal(name=f"{name}_is_held"), Signal(name=f"{name}_taken")
        self.tlast, self.fields = Signal(name=f"{name}_held_tlast"), beat.split(data)
        m.d.comb += tready.eq(~self.is_full | self.taken)
        with m.If(tvalid & tready):
            m.d.sync += [self.is_full.eq(1), data.eq(tdata), self.tlast.eq(tlast)]
        with m.Elif(self.taken):
            m.d.sync += self.is_full.eq(0)
        clear(m, ports.rst, [self.is_full])
