// Row groups: four rows of the matrix share a list of columns, so that an input that was loaded serves four products.
#pragma once
#include "passes.h"

constexpr int kGroup = 4;

struct Groups {
  const int32_t* start;   // [count + 1]: where each group's columns begin
  const void* offset;     // of a column's input from the strip's position, in samples
  const int32_t* rows;    // [count][4]: the rows of each group
  int32_t count;
  int32_t narrow;  // offsets are uint16, else int32
};

// Where a row of a group begins within a position's panel.
INLINE int64_t row_of(const Pass& pass, const Groups& groups, int group, int member) {
  return static_cast<int64_t>(groups.rows[group * kGroup + member]) * pass.samples;
}

// As multiply_strip; `values` are [column][row of the group].
template <class T, class Offset, int LANES, int POSITIONS>
INLINE void multiply_groups(const Pass& pass, const T* in, T* out, const Groups& groups, const T* values, Ahead ahead) {
  using V = typename Lanes<T, LANES>::V;
  const Offset* offset = static_cast<const Offset*>(groups.offset);
  const int64_t samples = pass.samples;
  const bool streams = pass.streams;
  for (int group = 0; group < groups.count; group++) {
    ahead.fetch_share();
    Block<T, LANES, POSITIONS> sums[kGroup], held;
    for (int column = groups.start[group]; column < groups.start[group + 1]; column++) {
      held.load_from(in + offset[column] * samples, pass.in_step);
#pragma GCC unroll 4
      for (int b = 0; b < kGroup; b++) sums[b].add_product(splat<V>(values[static_cast<int64_t>(column) * kGroup + b]), held);
    }
#pragma GCC unroll 4
    for (int b = 0; b < kGroup; b++) sums[b].store_to(out + row_of(pass, groups, group, b), pass.out_step, streams);
  }
}

// The gradient of the input: in_gradient[position + offset] += value * out_gradient[position][row], into a buffer of zeros, or
// one that becomes so strip by strip.
template <class T, class Offset, int LANES, int POSITIONS>
INLINE void spread_groups(const Pass& pass, T* in_gradient, const T* out_gradient, const Groups& groups, const T* values,
                          Ahead ahead) {
  using V = typename Lanes<T, LANES>::V;
  const Offset* offset = static_cast<const Offset*>(groups.offset);
  const int64_t samples = pass.samples, in_step = pass.in_step;  // in registers: what is written could be the pass
  for (int p = 0; pass.zeroed > 0 && p < POSITIONS; p++)
    for (int64_t at = 0; at < pass.zeroed; at += samples) Block<T, LANES, 1>().store_to(in_gradient + p * in_step + at, 0, false);
  for (int group = 0; group < groups.count; group++) {
    ahead.fetch_share();
    Block<T, LANES, POSITIONS> held[kGroup], sums;
#pragma GCC unroll 4
    for (int b = 0; b < kGroup; b++) held[b].load_from(out_gradient + row_of(pass, groups, group, b), pass.out_step);
    for (int column = groups.start[group]; column < groups.start[group + 1]; column++) {
      T* target = in_gradient + offset[column] * samples;
      sums.load_from(target, in_step);
#pragma GCC unroll 4
      for (int b = 0; b < kGroup; b++) sums.add_product(splat<V>(values[static_cast<int64_t>(column) * kGroup + b]), held[b]);
      sums.store_to(target, in_step, false);
    }
  }
}

// As correlate_strip, in tiles of four rows by COLUMNS columns, which stay in registers over all positions of the strip.
template <class T, int LANES, int COLUMNS>
INLINE void correlate_tile(const Pass& pass, int positions, const T* const* in, const T* const* out_gradient, T* gradients) {
  using L = Lanes<T, LANES>;
  using V = typename L::V;
  V sums[COLUMNS][kGroup] = {};
  const int64_t in_step = pass.in_step, out_step = pass.out_step;
  for (int p = 0; p < positions; p++)
#pragma GCC unroll 2
    for (int v = 0; v < L::count; v++) {
      V held[kGroup];
#pragma GCC unroll 4
      for (int b = 0; b < kGroup; b++) held[b] = load<V>(out_gradient[b] + p * out_step + v * L::width);
#pragma GCC unroll 8
      for (int c = 0; c < COLUMNS; c++) {
        const V input = loaded_once(load<V>(in[c] + p * in_step + v * L::width));
#pragma GCC unroll 4
        for (int b = 0; b < kGroup; b++) sums[c][b] += input * held[b];
      }
    }
  constexpr int kAtOnce = COLUMNS / 4 * 4;
  if constexpr (kAtOnce == 4) add_sixteen_sums(gradients, sums[0], sums[1], sums[2], sums[3]);
#pragma GCC unroll 4
  for (int c = kAtOnce; c < COLUMNS; c++) add_sums(gradients + c * kGroup, sums[c][0], sums[c][1], sums[c][2], sums[c][3]);
}

// As many tiles of COLUMNS columns as there are; returns the first column that is left.
template <class T, class Offset, int LANES, int COLUMNS>
INLINE int correlate_tiles(const Pass& pass, int positions, const T* in, const T* const* out_gradient, const Offset* offset,
                           int column, int end, T* gradients) {
  for (; column + COLUMNS <= end; column += COLUMNS) {
    const T* source[COLUMNS];
#pragma GCC unroll 8
    for (int c = 0; c < COLUMNS; c++) source[c] = in + offset[column + c] * static_cast<int64_t>(pass.samples);
    correlate_tile<T, LANES, COLUMNS>(pass, positions, source, out_gradient, gradients + static_cast<int64_t>(column) * kGroup);
  }
  return column;
}

template <class T, class Offset, int LANES>
INLINE void correlate_groups(const Pass& pass, int positions, const T* in, const T* out_gradient, const Groups& groups,
                             T* gradients, Ahead ahead) {
  const Offset* offset = static_cast<const Offset*>(groups.offset);
  for (int group = 0; group < groups.count; group++) {
    ahead.fetch_share();
    int column = groups.start[group];
    const int end = groups.start[group + 1];
    if (column == end) continue;
    const T* from[kGroup];
    for (int b = 0; b < kGroup; b++) from[b] = out_gradient + row_of(pass, groups, group, b);
    if constexpr (kRegisters >= 32) {  // six columns, and four inputs of the product, where there is room for them
      column = correlate_tiles<T, Offset, LANES, 6>(pass, positions, in, from, offset, column, end, gradients);
      column = correlate_tiles<T, Offset, LANES, 4>(pass, positions, in, from, offset, column, end, gradients);
    }
    column = correlate_tiles<T, Offset, LANES, 2>(pass, positions, in, from, offset, column, end, gradients);
    correlate_tiles<T, Offset, LANES, 1>(pass, positions, in, from, offset, column, end, gradients);
  }
}
