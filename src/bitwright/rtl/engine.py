"""A matrix-product engine around a weight-stationary array: streams in, sums out, nothing else to drive.

It folds over K, its partial sums in memories of its own, and over outputs, loads the next weights while the present
ones work, and gives each sum once, when it is complete. `engine_image` packs a layer for it.
"""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from bitwright.rtl.double_buffered import DoubleBuffered
from bitwright.rtl.engine_exit import Exit
from bitwright.rtl.plan import Plan
from bitwright.rtl.queue import ResultQueue, clear, count
from bitwright.rtl.stream import Beat, Field, sink, source, stages
from bitwright.rtl.unit import Unit, place

JOB = Beat((Field("last_vector", 16), Field("last_fold", 16), Field("last_group", 16)))
"""One job, counted from zero: `groups` of outputs, for each all `folds` along K, for each fold all `vectors`."""

LARGEST_JOB = 1 << 16
"""Folds and groups of a job."""


@dataclass(frozen=True)
class Streams:
    """What the beats of an engine carry. Lane r of x is element r of a fold along K, lane c of w and y is output c."""

    x: Beat  # codes of one vector's elements of a fold; its block scale; its format
    w: Beat  # codes of one row of weights; block scales of the fold, and what its sums start from; their format
    y: Beat  # sums of one vector

    def described(self) -> tuple[str, ...]:
        """Where the fields of each lie, a line each."""
        beats = {"w": self.w, "x": self.x, "y": self.y}
        return tuple(f"{name}_tdata   {beat.described()}" for name, beat in beats.items())


def streams(plan: Plan, rows: int, columns: int) -> Streams:
    """The beats of an engine of this size."""
    scales = (None, None) if plan.outer is None else (plan.outer.scale.x, plan.outer.scale.w)
    x, w = [Field("codes", plan.x.bits, rows)], [Field("codes", plan.w.bits, columns)]
    if scales[0] is not None:
        x.append(Field("scale", scales[0].bits))
    if scales[1] is not None:
        w.append(Field("scales", scales[1].bits, columns))
    if plan.has_zero_point:
        w.append(Field("starts", plan.inner.bits, columns))
    for fields, operand in ((x, plan.x), (w, plan.w)):
        if operand.select_bits:
            fields.append(Field("format", operand.select_bits))
    shape = plan.inner.read_shape if plan.outer is None else plan.outer.register.shape
    y = Field("sums", shape.width, columns, shape.signed)
    return Streams(Beat(tuple(x)), Beat(tuple(w)), Beat((y,)))


class Engine(Unit):
    """Matrix products, rows × columns multipliers at a time, over AXI4-Stream.

    rst            in: start again; synchronous. Held for one cycle or longer
    job_t...       in: a job: [15:0] vectors - 1, [31:16] folds along K - 1, [47:32] groups of outputs - 1
    w_t...         in: weights: for each group, for each fold, one row a beat, the last row first. tlast: a fold ends
    x_t...         in: inputs: for each group, for each fold, one vector a beat. tlast: a fold ends
    y_t...         out: sums: for each group, one vector a beat, as soon as they are complete. tlast: the job ends
    out_of_step    out: a tlast of w or x came where no fold ends or none where one does, or a job had more vectors than
                   there is room for, or folds that end within a tile: sums are wrong from there until rst

    tdata holds codes of lanes, then block scales, then what sums start from, then the number of the format, as far as a
    scheme has them: the lines `x_tdata`, `w_tdata` and `y_tdata` above say where. Of a fold's weights the last beat
    says its block scales and, where a sum begins, what it starts from. A format that limits the terms of a group takes
    the limited weights, as integers. Lanes beyond the end of K carry codes of zero. What leaves are totals where there
    are some, else sums, in the units stated above.

    A beat moves when tvalid and tready are high; every one of them depends on registers alone. Any stream may pause at
    any time. Weights of the next fold or job are taken as soon as there is room.

    Cycles, when no stream pauses: F folds of T vectors take 2·rows + columns + T + 2 + (F - 1)·max(T, rows + 1, 3)
    from the first weight's beat to the last sum's. An integer outer register takes one more; a float one four more, and
    4 instead of 3. Where sums saturate and go on over several folds, so that their order matters, the maximum is
    rows + columns + 1 at least.
    """

    is_clocked = True

    def __init__(self, plan: Plan, rows: int, columns: int, vectors: int = 256) -> None:
        if not 1 <= vectors <= LARGEST_JOB:
            raise ValueError(f"an engine for {vectors} vectors found; its sums have room for 1 to {LARGEST_JOB}")
        array = DoubleBuffered(plan, rows, columns)
        self.stored, self.plan = plan, array.plan  # formats as they are stored, and as they are read
        self.rows, self.columns, self.vectors, self.goes_on = rows, columns, vectors, array.goes_on
        self.streams = streams(array.plan, rows, columns)
        ports = {
            "rst": In(1), **sink("job", JOB, has_last=False), **sink("w", self.streams.w), **sink("x", self.streams.x),
            **source("y", self.streams.y), "out_of_step": Out(1),
        }  # fmt: skip
        super().__init__(ports, plan, rows, columns, vectors)

    @property
    def folds_per_tile(self) -> int | None:
        """Folds whose sums run through one inner register; None where that is all of K."""
        return None if self.plan.products is None else self.plan.products // self.rows

    @property
    def shortest_fold(self) -> int:
        """Cycles from the first vector of a fold to that of the next one, at least."""
        outer = self.plan.outer
        return max(self.rows, 2 if outer is None else outer.latency - outer.held_at + 1) + 1

    @property
    def keeps_sums(self) -> bool:
        """Whether sums wait for further folds."""
        return self.folds_per_tile != 1 or self.plan.outer is not None

    @property
    def latency(self) -> int:
        """Cycles from a vector's beat to its sums at the queue."""
        return self.rows + self.columns + (0 if self.plan.outer is None else self.plan.outer.latency)

    def parameters(self) -> tuple[str, ...]:
        """What a user must know of this engine, a line each."""
        return (
            f"array     {self.rows} rows, {self.columns} columns",
            f"room      for the sums of {self.vectors} vector{'s' * (self.vectors != 1)}",
            *self.streams.described(),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array = DoubleBuffered(self.plan, self.rows, self.columns)
        place(m, platform, "array", array)
        queue = ResultQueue(self.streams.y.used_bits + 1, self.latency + ResultQueue.LATENCY + 1)
        place(m, platform, "results", queue)
        loader = Loader(m, self, array)
        issue = Issue(m, self, array, loader, queue)
        after = Exit(m, self, platform, array, loader, issue)
        m.d.comb += [
            queue.rst.eq(self.rst), queue.ask.eq(issue.taken & issue.is_complete),
            queue.write.eq(after.arrives), queue.data.eq(Cat(after.sums, after.is_last)),
            self.y_tvalid.eq(queue.tvalid), queue.tready.eq(self.y_tready),
            self.y_tdata.eq(queue.tdata[:-1]), self.y_tlast.eq(queue.tdata[-1]),
        ]  # fmt: skip
        wrong = [
            loader.taken & (self.w_tlast != loader.is_last),
            issue.taken & (self.x_tlast != issue.ends_fold),
            issue.taken & issue.ends_total & ~issue.ends_tile,
        ]
        if self.vectors < LARGEST_JOB and self.keeps_sums:
            wrong.append(issue.taken & (issue.vector >= self.vectors))
        with m.If(Cat(wrong).any()):
            m.d.sync += self.out_of_step.eq(1)
        clear(m, self.rst, [self.out_of_step])
        return m


class Loader:
    """Takes the rows of one fold's weights, and waits until they are used."""

    def __init__(self, m: Module, ports: Engine, array: DoubleBuffered) -> None:
        self.is_loaded = Signal(name="weights_are_loaded")
        started = Signal(ports.rows, init=1, name="rows_started")
        self.taken, self.is_last = Signal(name="weights_taken"), started[-1]
        beat = ports.streams.w.split(ports.w_tdata)
        rests = stages(m, "rests", self.is_loaded, ports.shortest_fold - ports.rows - 1)  # until totals are written
        m.d.comb += [ports.w_tready.eq(~Cat(rests).any()), self.taken.eq(ports.w_tvalid & ports.w_tready)]
        m.d.comb += [getattr(array, f"load_{r}").eq(self.taken & started[r]) for r in range(ports.rows)]
        m.d.comb += [getattr(array, f"w_{c}").eq(code) for c, code in enumerate(beat["codes"])]
        if "format" in beat:
            m.d.comb += array.w_select.eq(beat["format"][0])
        with m.If(self.taken):
            m.d.sync += [started.eq(Mux(self.is_last, 1, Cat(1, started[:-1]))), self.is_loaded.eq(self.is_last)]
        self._registers = [started, self.is_loaded]

    def use(self, m: Module, rst: Value, now: Value) -> None:
        """The weights are used from now on."""
        with m.If(now):
            m.d.sync += self.is_loaded.eq(0)
        clear(m, rst, self._registers)


class Issue:
    """Counts through a job and sends vectors into the array: when their weights are there and their sums have room."""

    def __init__(self, m: Module, ports: Engine, array: DoubleBuffered, loader: Loader, queue: ResultQueue) -> None:
        job = {name: fields[0] for name, fields in JOB.split(ports.job_tdata).items()}
        is_running = Signal(name="is_running")
        last = {name: Signal(16, name=name) for name in job}
        self.vector, fold, group = (Signal(16, name=name) for name in ("vector", "fold", "group"))
        self.first = Signal(name="is_first_vector")
        self.taken, self.ends_fold = Signal(name="vector_taken"), Signal(name="is_last_vector")
        self.starts_tile, self.ends_tile = Signal(name="is_first_of_tile"), Signal(name="is_last_of_tile")
        self.starts_total, self.ends_total = Signal(name="is_first_tile"), Signal(name="is_last_of_total")
        self.is_complete, self.ends_job = Signal(name="is_complete"), Signal(name="is_last_of_job")
        m.d.comb += [
            self.first.eq(self.vector == 0),
            self.ends_fold.eq(self.vector == last["last_vector"]),
            self.starts_total.eq(fold < (ports.folds_per_tile or 1)),
            self.ends_total.eq(fold == last["last_fold"]),
            self.is_complete.eq(self.ends_tile if ports.plan.outer is None else self.ends_total),
            self.ends_job.eq(self.ends_fold & self.ends_total & (group == last["last_group"])),
        ]
        registers = [is_running, self.vector, fold, group, *last.values()]
        registers += self._count_tile(m, ports.folds_per_tile)
        self.left = Signal(name="vector_has_left")
        may_read = self._may_read(m, ports, last["last_vector"]) if array.goes_on else Const(1)
        m.d.comb += [
            ports.job_tready.eq(~is_running),
            ports.x_tready.eq(
                is_running & (loader.is_loaded | ~self.first) & (queue.has_place | ~self.is_complete) & may_read
            ),
            self.taken.eq(ports.x_tvalid & ports.x_tready),
            array.swap.eq(self.taken & self.first),
        ]
        with m.If(ports.job_tvalid & ports.job_tready):
            m.d.sync += [is_running.eq(1), *(register.eq(job[name]) for name, register in last.items())]
        with m.If(self.taken):
            m.d.sync += self.vector.eq(Mux(self.ends_fold, 0, self.vector + 1))
            with m.If(self.ends_fold):
                m.d.sync += fold.eq(Mux(self.ends_total, 0, fold + 1))
                with m.If(self.ends_total):
                    m.d.sync += group.eq(Mux(self.ends_job, 0, group + 1))
            with m.If(self.ends_job):
                m.d.sync += is_running.eq(0)
        beat = ports.streams.x.split(ports.x_tdata)
        m.d.comb += [getattr(array, f"x_{r}").eq(code) for r, code in enumerate(beat["codes"])]
        if "format" in beat:
            m.d.comb += array.x_select.eq(beat["format"][0])
        self.scale = beat.get("scale", [None])[0]
        loader.use(m, ports.rst, array.swap)
        clear(m, ports.rst, registers)

    def _may_read(self, m: Module, ports: Engine, last_vector: Value) -> Value:
        """Sums that go on through the array must have left it: fewer vectors are in it than a fold has."""
        inside = Signal(range(ports.latency + 2), name="vectors_inside")
        count(m, inside, up=self.taken, down=self.left)
        clear(m, ports.rst, [inside])
        return self.starts_tile | (inside <= last_vector)

    def _count_tile(self, m: Module, folds: int | None) -> list[Signal]:
        """Where inner sums start and end."""
        if folds is None:
            m.d.comb += [self.starts_tile.eq(self.starts_total), self.ends_tile.eq(self.ends_total)]
            return []
        fold = Signal(range(max(folds, 2)), name="fold_of_tile")
        m.d.comb += [self.starts_tile.eq(fold == 0), self.ends_tile.eq(fold == folds - 1)]
        with m.If(self.taken & self.ends_fold):
            m.d.sync += fold.eq(Mux(self.ends_tile, 0, fold + 1))
        return [fold]
