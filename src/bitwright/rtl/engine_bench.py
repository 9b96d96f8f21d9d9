"""A Verilog test bench that runs an engine's memory image in any simulator, with streams that pause at random.

    iverilog -g2012 -o run NAME.v NAME_bench.v && vvp run
    verilator --binary --timing --top-module NAME_bench NAME.v NAME_bench.v && obj_dir/VNAME_bench

Both read `job.hex`, `w.hex` and `x.hex` in the folder where they run and write `y.hex`. `+pauses=0` lets nothing pause,
`+seed=N` chooses others.
"""

from pathlib import Path

from bitwright.rtl.engine_image import Beats, Image

STREAM = """
  reg [{high}:0] {name}_beats [0:{last}];
  integer {name}_at;
  reg {name}_tvalid;
  wire {name}_tready, {name}_tlast;
  wire [{width}:0] {name}_tdata;
  assign {{{name}_tlast, {name}_tdata}} = {name}_tvalid ? {name}_beats[{name}_at][{width} + 1:0] : 0;
  initial begin
    {name}_at = 0;
    {name}_tvalid = 0;
    $readmemh("{name}.hex", {name}_beats);
  end
  always @(posedge clk)
    if (!rst) begin
      if ({name}_tvalid && {name}_tready) begin
        {name}_at <= {name}_at + 1;
        {name}_tvalid <= {name}_at < {last} && !pause[{bit}];
      end else if (!{name}_tvalid)
        {name}_tvalid <= {name}_at <= {last} && !pause[{bit}];
    end
"""

BENCH = """// Generated with its image by bitwright.rtl.engine_bench.
/* verilator lint_off UNUSEDSIGNAL */  // words in files are wider than beats
// Runs the layer in job.hex, w.hex and x.hex on {name} and writes its sums to y.hex.
module {name}_bench;
  reg clk, rst;
  always #5 clk = ~clk;

  integer pauses, seed, cycles;
  reg [31:0] random;  // x**32 + x**22 + x**2 + x + 1, eight steps a clock
  wire [3:0] pause = pauses == 0 ? 4'b0 : {{&random[1:0], random[2], random[3], random[5] & random[4]}};
  function [31:0] after_eight(input [31:0] start);
    integer i;
    begin
      after_eight = start;
      for (i = 0; i < 8; i = i + 1)
        after_eight = {{after_eight[30:0], after_eight[31] ^ after_eight[21] ^ after_eight[1] ^ after_eight[0]}};
    end
  endfunction
{sinks}
  reg [{y_high}:0] y_beats [0:{y_last}];
  integer y_at;
  wire y_tready = !pause[3];
  wire y_tvalid, y_tlast, out_of_step;
  wire [{y_width}:0] y_tdata;

  {name} engine(
    .clk(clk), .rst(rst), .out_of_step(out_of_step),
    .job_tvalid(job_tvalid), .job_tready(job_tready), .job_tdata(job_tdata),
    .w_tvalid(w_tvalid), .w_tready(w_tready), .w_tdata(w_tdata), .w_tlast(w_tlast),
    .x_tvalid(x_tvalid), .x_tready(x_tready), .x_tdata(x_tdata), .x_tlast(x_tlast),
    .y_tvalid(y_tvalid), .y_tready(y_tready), .y_tdata(y_tdata), .y_tlast(y_tlast)
  );

  initial begin
    clk = 0;
    rst = 1;
    cycles = 0;
    y_at = 0;
    if ($value$plusargs("pauses=%d", pauses) == 0) pauses = 1;
    if ($value$plusargs("seed=%d", seed) == 0) seed = 1;
    random = 32'h9e3779b9 ^ seed;
  end

  always @(posedge clk) begin
    rst <= 0;
    random <= after_eight(random);
    cycles <= cycles + 1;
    if (!rst && y_tvalid && y_tready) begin
      y_beats[y_at] <= {{7'b0, y_tlast, y_tdata}};
      y_at <= y_at + 1;
    end
    if (y_at == {y_last} + 1) begin
      $writememh("y.hex", y_beats);
      if (out_of_step) $display("out of step");
      else $display("%0d results in %0d cycles", y_at, cycles - 2);
      $finish;
    end
    if (cycles == {limit}) begin
      $display("%0d of %0d results after %0d cycles", y_at, {y_last} + 1, cycles);
      $finish;
    end
  end
endmodule
"""


def bench(image: Image, name: str) -> str:
    """The text for the engine that is called `name`."""
    width = image.engine.streams.y.bits
    return BENCH.format(
        name=name,
        sinks="".join(_sink(stream, getattr(image, stream), bit) for bit, stream in enumerate(("job", "w", "x"))),
        y_high=width + 7,
        y_width=width - 1,
        y_last=image.results - 1,
        limit=1000 + 20 * (len(image.x.data) + len(image.w.data)),
    )


def write_run(image: Image, name: str, folder: Path) -> Path:
    """The image and its bench in that folder, beside the engine's Verilog; the bench's path."""
    image.write(folder)
    path = folder / f"{name}_bench.v"
    path.write_text(bench(image, name))
    return path


def read_run(image: Image, folder: Path) -> Beats:
    """What the bench wrote."""
    return Beats.read((folder / "y.hex").read_text(), image.engine.streams.y.bytes)


def _sink(name: str, beats: Beats, bit: int) -> str:
    width = 8 * beats.data.shape[1]
    return STREAM.format(name=name, bit=bit, high=width + 7, width=width - 1, last=len(beats.data) - 1)
