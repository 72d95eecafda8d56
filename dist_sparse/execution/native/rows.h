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
  using L = Lanes<T, LANES>;
  using V = typename L::V;
  const bool streams = pass.streams;
  for (int row = 0; row < rows.count; row++) {
    ahead.fetch_share();
    V sums[POSITIONS][L::count] = {};
#pragma GCC unroll 4
    for (int entry = rows.start[row]; entry < rows.start[row + 1]; entry++) {
      const T* source = in + rows.offset[entry];
      const V value = splat<V>(values[entry]);
#pragma GCC unroll 8
      for (int p = 0; p < POSITIONS; p++)
#pragma GCC unroll 4
        for (int v = 0; v < L::count; v++) sums[p][v] += value * load<V>(source + p * pass.in_step + v * L::width);
    }
    T* target = out + static_cast<int64_t>(row) * pass.samples;
#pragma GCC unroll 8
    for (int p = 0; p < POSITIONS; p++)
#pragma GCC unroll 4
      for (int v = 0; v < L::count; v++) {
        T* to = target + p * pass.out_step + v * L::width;
        if (streams) stream(to, sums[p][v]); else store(to, sums[p][v]);
      }
  }
}

// gradients[entry] += the sum over positions and samples of out_gradient[position][row] * in[position + offset].
template <class T, int LANES, int POSITIONS>
INLINE void correlate_strip(const Pass& pass, const T* in, const T* out_gradient, const Rows& rows, T* gradients, Ahead ahead) {
  using L = Lanes<T, LANES>;
  using V = typename L::V;
  for (int row = 0; row < rows.count; row++) {
    ahead.fetch_share();
    int entry = rows.start[row];
    const int end = rows.start[row + 1];
    if (entry == end) continue;
    const T* from = out_gradient + static_cast<int64_t>(row) * pass.samples;
    V held[POSITIONS][L::count];
#pragma GCC unroll 8
    for (int p = 0; p < POSITIONS; p++)
#pragma GCC unroll 4
      for (int v = 0; v < L::count; v++) held[p][v] = load<V>(from + p * pass.out_step + v * L::width);
    const auto product = [&](int which) __attribute__((always_inline)) {
      const T* source = in + rows.offset[which];
      V total = held[0][0] * load<V>(source);
#pragma GCC unroll 8
      for (int p = 0; p < POSITIONS; p++)
#pragma GCC unroll 4
        for (int v = 0; v < L::count; v++)
          if (p + v) total += held[p][v] * load<V>(source + p * pass.in_step + v * L::width);
      return total;
    };
    for (; entry + 4 <= end; entry += 4)
      add_sums(gradients + entry, product(entry), product(entry + 1), product(entry + 2), product(entry + 3));
    for (; entry < end; entry++) gradients[entry] += sum<T>(product(entry));
  }
}
