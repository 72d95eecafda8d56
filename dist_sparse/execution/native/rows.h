// Unstructured masks: a matrix of rows, each a list of (offset, value).
#pragma once
#include "passes.h"

// The columns are cut into blocks, so that what a strip reads of a block stays in the first cache: entries of a row lie block
// by block.
struct Rows {
  const int32_t* start;  // [count * blocks + 1]: where the entries of each row and block begin
  const void* offset;    // of an entry's input from the strip's position, in samples
  int32_t count;
  int32_t blocks;
  int32_t narrow;  // offsets are uint16, else int32
};

// Calls visit(row, block, first entry, end of entries): all rows of a block before the next one.
template <class Visit>
INLINE void each_row(const Rows& rows, Visit visit) {
  for (int block = 0; block < rows.blocks; block++) {
    const int32_t* start = rows.start + block;
    for (int row = 0; row < rows.count; row++, start += rows.blocks) visit(row, block, start[0], start[1]);
  }
}

// out[position][row] = the sum over the row's entries of value * in[position + offset]; the sums stay in registers.
template <class T, class Offset, int LANES, int POSITIONS>
INLINE void multiply_strip(const Pass& pass, const T* in, T* out, const Rows& rows, const T* values, Ahead ahead) {
  using V = typename Lanes<T, LANES>::V;
  // Few sums are in two sets: a sum's next product waits for the one before.
  constexpr int kSets = POSITIONS * Lanes<T, LANES>::count <= 4 ? 2 : 1;
  const Offset* offset = static_cast<const Offset*>(rows.offset);
  const int64_t samples = pass.samples, in_step = pass.in_step;
  each_row(rows, [&](int row, int block, int entry, int end) __attribute__((always_inline)) {
    T* to = out + row * samples;
    Block<T, LANES, POSITIONS> sums[kSets];
    if (block == 0) {
      ahead.fetch_share();
    } else {
      if (entry == end) return;
      sums[0].load_from(to, pass.out_step);
    }
    for (; entry + 4 <= end; entry += 4)
#pragma GCC unroll 4
      for (int e = 0; e < 4; e++)
        sums[e % kSets].add_product(splat<V>(values[entry + e]), in + offset[entry + e] * samples, in_step);
    for (; entry < end; entry++) sums[0].add_product(splat<V>(values[entry]), in + offset[entry] * samples, in_step);
    if constexpr (kSets == 2) sums[0].add(sums[1]);
    sums[0].store_to(to, pass.out_step, pass.streams && block == rows.blocks - 1);
  });
}

// gradients[entry] += the sum over positions and samples of out_gradient[position][row] * in[position + offset].
template <class T, class Offset, int LANES, int POSITIONS>
INLINE void correlate_strip(const Pass& pass, const T* in, const T* out_gradient, const Rows& rows, T* gradients, Ahead ahead) {
  using V = typename Lanes<T, LANES>::V;
  const Offset* offset = static_cast<const Offset*>(rows.offset);
  const int64_t samples = pass.samples, in_step = pass.in_step;
  each_row(rows, [&](int row, int block, int entry, int end) __attribute__((always_inline)) {
    if (block == 0) ahead.fetch_share();
    if (entry == end) return;
    Block<T, LANES, POSITIONS> held;
    held.load_from(out_gradient + row * samples, pass.out_step);
    const auto product = [&](int which) __attribute__((always_inline)) {
      const T* source = in + offset[which] * samples;
      return held.product(source, in_step);
    };
    for (; entry + 4 <= end; entry += 4)
      add_sums(gradients + entry, product(entry), product(entry + 1), product(entry + 2), product(entry + 3));
    for (; entry < end; entry++) gradients[entry] += sum<T>(product(entry));
  });
}
