// Runs a circuit whose ports lie in rows of 32-bit words. What is put before it defines IN_WORDS, OUT_WORDS, MASK,
// CLOCKED, SOURCES, SINK, and drive, settle, edge and sample. Files are hexadecimal, a row a line, as $readmemh has them.
#include <cstdio>
#include <cstdlib>
#include <vector>

typedef std::vector<uint32_t> Words;

static Words in(IN_WORDS), out(OUT_WORDS);

static FILE *open_file(const char *name, const char *suffix, const char *mode) {
  char path[256];
  snprintf(path, sizeof path, "%s%s", name, suffix);
  FILE *file = fopen(path, mode);
  if (!file) { fprintf(stderr, "cannot open %s\n", path); exit(1); }
  return file;
}

static bool read_row(FILE *file, uint32_t *row, size_t words) {
  for (size_t i = words; i-- > 0;)
    if (fscanf(file, "%8x", &row[i]) != 1) return false;
  return true;
}

static void write_row(FILE *file, const uint32_t *row, size_t words) {
  for (size_t i = words; i-- > 0;) fprintf(file, "%08x", row[i]);
  fputc('\n', file);
}

static void look() {
  for (size_t i = 0; i < IN_WORDS; i++) in[i] &= MASK[i];
  drive(in.data());
  settle();
  sample(out.data());
}

static uint32_t state;

static bool waits(uint32_t chance) {  // G. Marsaglia, Xorshift RNGs, J. Stat. Softw. 8(14), 2003
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return (state & 255) < chance;
}

struct Source {
  const Stream *ports;
  FILE *file;
  uint32_t left;
  bool is_offered;
  Words beat;

  void next() {
    if (left && !read_row(file, beat.data(), beat.size())) { fprintf(stderr, "%s: too few beats\n", ports->name); exit(1); }
    if (!left) beat.assign(beat.size(), 0);
  }

  void offer(bool is_waiting) {
    is_offered = left && (is_offered || !is_waiting);
    uint32_t other = is_offered ? 0 : ~0u;
    in[ports->valid] = is_offered;
    for (int i = 0; i < ports->words; i++) in[ports->data + i] = beat[i] ^ other;
    if (ports->last >= 0) in[ports->last] = beat[ports->words] ^ other;
  }
};

int main() {
  FILE *run = open_file("run", ".hex", "r"), *results = open_file("out", ".hex", "w");
  uint32_t number[6];
  for (uint32_t &n : number)
    if (!read_row(run, &n, 1)) return 1;
  uint32_t count = number[1];
  if (!number[0]) {
    FILE *steps = open_file("in", ".hex", "r");
    for (uint32_t i = 0; i < count; i++) {
      if (IN_WORDS && !read_row(steps, in.data(), IN_WORDS)) return 1;
      look();
      write_row(results, out.data(), OUT_WORDS);
      if (CLOCKED) edge();
    }
    fclose(results);
    return 0;
  }
  std::vector<Source> sources;
  for (const Stream &ports : SOURCES) {
    uint32_t left;
    if (!read_row(run, &left, 1)) return 1;
    sources.push_back({&ports, open_file(ports.name, ".hex", "r"), left, false, Words(ports.words + 1)});
    sources.back().next();
  }
  state = number[5];
  Words beat(SINK.words + 1);
  uint32_t cycles = 0;
  for (uint32_t got = 0; got < count && cycles < number[2]; cycles++) {
    for (Source &source : sources) source.offer(waits(number[3]));
    in[SINK.ready] = !waits(number[4]);
    look();
    for (Source &source : sources)
      if (source.is_offered && out[source.ports->ready]) {
        source.left--;
        source.is_offered = false;
        source.next();
      }
    if (in[SINK.ready] && out[SINK.valid]) {
      for (int i = 0; i < SINK.words; i++) beat[i] = out[SINK.data + i];
      beat[SINK.words] = SINK.last < 0 ? 0 : out[SINK.last];
      write_row(results, beat.data(), beat.size());
      got++;
    }
    edge();
  }
  look();
  FILE *end = open_file("end", ".hex", "w"), *clock = open_file("cycles", ".hex", "w");
  write_row(end, out.data(), OUT_WORDS);
  write_row(clock, &cycles, 1);
  fclose(results);
  fclose(end);
  fclose(clock);
  return 0;
}
