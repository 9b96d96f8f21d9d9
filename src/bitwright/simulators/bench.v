// Runs a circuit whose ports lie in rows of 32-bit words, as driver.cpp does. Names in back quotes are filled in.
module bench;
  reg clk = 0;
  reg [32 * `IN_WORDS` - 1:0] in = 0;
  wire [32 * `OUT_WORDS` - 1:0] out;
  `CIRCUIT`
  `HOLES`

  reg [31:0] state, count, limit, from_sources, from_sink, cycles, got, number, i;
  reg is_waiting, is_ready;
  integer run, file, results, ok;
      `DECLARE`

  function [31:0] next_number(input unused);
    begin
      ok = $fscanf(run, "%h", number);
      next_number = number;
    end
  endfunction

  task draw(input [31:0] chance, output waits);  // G. Marsaglia, Xorshift RNGs, J. Stat. Softw. 8(14), 2003
    begin
      state = state ^ (state << 13);
      state = state ^ (state >> 17);
      state = state ^ (state << 5);
      waits = state[7:0] < chance;
    end
  endtask

  task steps;
    begin
      file = $fopen("in.hex", "r");
      for (i = 0; i < count; i = i + 1) begin
        ok = $fscanf(file, "%h", in);
        #1 $fdisplay(results, "%h", out);
        if (`CLOCKED`) begin
          #1 clk = 1;
          #1 clk = 0;
        end
      end
    end
  endtask

`STREAM_TASK`
  initial begin
    run = $fopen("run.hex", "r");
    results = $fopen("out.hex", "w");
    i = next_number(0);
    count = next_number(0);
    limit = next_number(0);
    from_sources = next_number(0);
    from_sink = next_number(0);
    state = next_number(0);
    if (i == 0) steps;
    `STREAM_CALL`
    $fclose(results);
    $finish;
  end
endmodule
