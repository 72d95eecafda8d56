// Between rows [row][column], as torch has them, and blocks [block][column][sample] of `samples` rows each: panels of a linear
// layer. The last block's missing rows are zeros.
#pragma once
#include <utility>

#include "vectors.h"

struct Blocks {
  int64_t rows;
  int32_t columns, samples;
  int64_t first_block, last_block;  // those to move
  int32_t streams;                  // results go past the caches
};

// Lanes of `a` and `b` in turns, from their middle on if UPPER, else from their beginning.
template <bool UPPER, class V, int... I>
INLINE V interleave(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int kWidth = sizeof...(I), kFirst = UPPER ? kWidth / 2 : 0;
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (kFirst + I / 2 + I % 2 * kWidth)...);
#else
  typedef decltype(a < b) Places;
  return __builtin_shuffle(a, b, Places{(kFirst + I / 2 + I % 2 * kWidth)...});
#endif
}

// A square of numbers, one vector a row, which becomes its transpose: the lanes of rows half the square apart take turns, until
// each row has one of every row.
template <class T, int WIDTH>
struct Square {
  using V = typename Vector<T, WIDTH>::Type;
  V at[WIDTH];

  inline __attribute__((always_inline)) void transpose() {
    constexpr auto kLanes = std::make_integer_sequence<int, WIDTH>();
#pragma GCC unroll 4
    for (int done = 1; done < WIDTH; done *= 2) {
      V next[WIDTH];
#pragma GCC unroll 8
      for (int row = 0; row < WIDTH / 2; row++) {
        next[2 * row] = interleave<false>(at[row], at[row + WIDTH / 2], kLanes);
        next[2 * row + 1] = interleave<true>(at[row], at[row + WIDTH / 2], kLanes);
      }
#pragma GCC unroll 16
      for (int row = 0; row < WIDTH; row++) at[row] = next[row];
    }
  }
};

// Calls square(Number<width>, first column, first sample, rows there) for a block's whole squares, and single(column, sample,
// whether the row is there) for each of its other numbers.
template <class T, class Visit, class Single>
INLINE void each_square(const Blocks& shape, int64_t block, Visit square, Single single) {
  constexpr int kWidth = Lanes<T, 16>::width;
  const int64_t left = shape.rows - block * shape.samples;
  const int present = static_cast<int>(left < shape.samples ? left : shape.samples);
  const int whole = shape.samples % kWidth ? 0 : shape.columns / kWidth * kWidth;
  for (int column = 0; column < whole; column += kWidth)
    for (int sample = 0; sample < shape.samples; sample += kWidth) square(column, sample, present - sample);
  for (int column = whole; column < shape.columns; column++)
    for (int sample = 0; sample < shape.samples; sample++) single(column, sample, sample < present);
}

template <class V, class T>
INLINE void put(T* to, V value, bool streams) {
  if (streams) stream(to, value); else store(to, value);
}

// sums[column] += the column's sum, if they are wanted.
template <class T>
void rows_to_blocks(const Blocks& shape, const T* rows, T* blocks, double* sums) {
  constexpr int kWidth = Lanes<T, 16>::width, kAhead = 128 / sizeof(T);
  using V = typename Lanes<T, 16>::V;
  const int64_t size = static_cast<int64_t>(shape.columns) * shape.samples;
  for (int64_t block = shape.first_block; block < shape.last_block; block++) {
    const T* from = rows + block * size;
    T* to = blocks + block * size;
    const auto square = [&](int64_t column, int64_t sample, int present) __attribute__((always_inline)) {
      Square<T, kWidth> numbers;
      const T* first = from + sample * shape.columns + column;
      V total = {};
#pragma GCC unroll 16
      for (int row = 0; row < kWidth; row++) {
        const T* at = first + static_cast<int64_t>(row) * shape.columns;
        __builtin_prefetch(at + kAhead);
        numbers.at[row] = row < present ? load<V>(at) : V{};
        total += numbers.at[row];
      }
      if (sums)
        for (int lane = 0; lane < kWidth; lane++) sums[column + lane] += total[lane];
      numbers.transpose();
#pragma GCC unroll 16
      for (int row = 0; row < kWidth; row++) put(to + (column + row) * shape.samples + sample, numbers.at[row], shape.streams);
    };
    each_square<T>(shape, block, square, [&](int64_t column, int64_t sample, bool present) {
      const T number = present ? from[sample * shape.columns + column] : T{};
      to[column * shape.samples + sample] = number;
      if (sums) sums[column] += number;
    });
  }
}

// The way back, with a bias [column] added where there is one.
template <class T>
void blocks_to_rows(const Blocks& shape, const T* blocks, const T* bias, T* rows) {
  constexpr int kWidth = Lanes<T, 16>::width, kAhead = 32;
  using V = typename Lanes<T, 16>::V;
  const int64_t size = static_cast<int64_t>(shape.columns) * shape.samples;
  for (int64_t block = shape.first_block; block < shape.last_block; block++) {
    const T* from = blocks + block * size;
    T* to = rows + block * size;
    const auto square = [&](int64_t column, int64_t sample, int present) __attribute__((always_inline)) {
      Square<T, kWidth> numbers;
#pragma GCC unroll 16
      for (int row = 0; row < kWidth; row++) {
        const T* at = from + (column + row) * shape.samples + sample;
        __builtin_prefetch(at + kAhead * shape.samples);
        numbers.at[row] = load<V>(at);
      }
      numbers.transpose();
      const V added = bias ? load<V>(bias + column) : V{};
#pragma GCC unroll 16
      for (int row = 0; row < kWidth; row++)
        if (row < present) put(to + (sample + row) * shape.columns + column, numbers.at[row] + added, shape.streams);
    };
    each_square<T>(shape, block, square, [&](int64_t column, int64_t sample, bool present) {
      if (present)
        to[sample * shape.columns + column] = from[column * shape.samples + sample] + (bias ? bias[column] : T{});
    });
  }
}
