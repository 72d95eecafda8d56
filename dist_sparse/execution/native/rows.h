// Unstructured masks: a matrix of rows, each a list of (offset, value).
#pragma once
#include "passes.h"

struct Rows {
  const int32_t* start;   // [count + 1]: where each row's entries begin
  const int32_t* offset;  // of an entry's input from the strip's position, in elements
  int32_t count;
};

// out[position][row] = the sum over the row's entries of value * in[position + offset]; the sums stay in registers.
template <class T, int LANES, int POSITIONS>
INLINE void multiply_strip(const Pass& pass, const T* in, T* out, const Rows& rows, const T* values, Ahead ahead) {
  using V = typename Lanes<T, LANES>::V;
  const bool streams = pass.streams;
  for (int row = 0; row < rows.count; row++) {
    ahead.fetch_share();
    Block<T, LANES, POSITIONS> sums;
#pragma GCC unroll 4
    for (int entry = rows.start[row]; entry < rows.start[row + 1]; entry++)
      sums.add_product(splat<V>(values[entry]), in + rows.offset[entry], pass.in_step);
    sums.store_to(out + static_cast<int64_t>(row) * pass.samples, pass.out_step, streams);
  }
}

// gradients[entry] += the sum over positions and samples of out_gradient[position][row] * in[position + offset].
template <class T, int LANES, int POSITIONS>
INLINE void correlate_strip(const Pass& pass, const T* in, const T* out_gradient, const Rows& rows, T* gradients, Ahead ahead) {
  using V = typename Lanes<T, LANES>::V;
  for (int row = 0; row < rows.count; row++) {
    ahead.fetch_share();
    int entry = rows.start[row];
    const int end = rows.start[row + 1];
    if (entry == end) continue;
    const T* from = out_gradient + static_cast<int64_t>(row) * pass.samples;
    Block<T, LANES, POSITIONS> held;
    held.load_from(from, pass.out_step);
    const auto product = [&](int which) __attribute__((always_inline)) {
      const T* source = in + rows.offset[which];
      V total = {};
      held.each([&](V& value, int p, int sample) __attribute__((always_inline)) {
        total += value * load<V>(source + p * pass.in_step + sample);
      });
      return total;
    };
    for (; entry + 4 <= end; entry += 4)
      add_sums(gradients + entry, product(entry), product(entry + 1), product(entry + 2), product(entry + 3));
    for (; entry < end; entry++) gradients[entry] += sum<T>(product(entry));
  }
}
