// The part of bench.v for circuits with streams.
  task streams;
    begin
      `OPEN`
      got = 0;
      for (cycles = 0; got < count && cycles < limit; cycles = cycles + 1) begin
      `OFFER`
        draw(from_sink, is_waiting);
        is_ready = !is_waiting;
        `READY` = is_ready;
        #1;
        if (is_ready && `GIVE`) begin
          $fdisplay(results, "%h", `DATA`);
          got = got + 1;
        end
      `TAKE`
        #1 clk = 1;
        #1 clk = 0;
      end
      #1 file = $fopen("end.hex", "w");
      $fdisplay(file, "%h", out);
      $fclose(file);
      file = $fopen("cycles.hex", "w");
      $fdisplay(file, "%h", cycles);
      $fclose(file);
    end
  endtask

