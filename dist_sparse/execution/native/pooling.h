// Max and average pooling of tensors whose samples are innermost. What lies at a position, its channels and samples, is one
// panel: a result's panel depends on those within its window, number by number.
#pragma once
#include <limits>
#include <type_traits>

#include "norms.h"

// How windows lie along an axis.
struct Axis {
  int32_t size, results;  // positions of the input, and of what pooling gives
  int32_t kernel, stride, padding, dilation;

  // Where the window of a result begins; outside of the input it may be.
  int32_t start(int32_t result) const { return result * stride - padding; }

  // The elements of that window within the input: the first one, and the one behind the last.
  int32_t first(int32_t result) const { return start(result) < 0 ? (dilation - 1 - start(result)) / dilation : 0; }
  int32_t last(int32_t result) const {
    const int32_t room = size - start(result), within = room > 0 ? (room + dilation - 1) / dilation : 0;
    return within < kernel ? within : kernel;
  }
};

// The rows that a thread takes, of the results or, for gradients, of the input; and the numbers of a panel.
struct Pool {
  Axis rows, columns;
  int32_t first_row, last_row;
  int32_t panel, first, last;
  int32_t streams;  // results go past the caches
};

// Calls visit(Number<LANES>, place within a panel) for all of the thread's part of a panel.
template <class Visit>
INLINE void each_part_of_panel(const Pool& pool, Visit visit) {
  Pass numbers{};
  numbers.first_sample = pool.first;
  numbers.last_sample = pool.last;
  each_group_of_samples(numbers, visit);
}

// Calls visit(element of the window, where its panel lies) for all within the input, row by row.
template <class Visit>
INLINE void each_element(const Pool& pool, int row, int column, Visit visit) {
  const Axis &rows = pool.rows, &columns = pool.columns;
  const int first = columns.first(column), last = columns.last(column);
  for (int r = rows.first(row); r < rows.last(row); r++) {
    const int64_t of_row = static_cast<int64_t>(rows.start(row) + r * rows.dilation) * columns.size + columns.start(column);
    for (int c = first; c < last; c++) visit(r * columns.kernel + c, (of_row + c * columns.dilation) * pool.panel);
  }
}

// Calls visit(result, element) for all windows along an axis that hold a position, by which element they do.
template <class Visit>
INLINE void each_window(const Axis& axis, int position, Visit visit) {
  const int to = position + axis.padding, before = to - (axis.kernel - 1) * axis.dilation;
  const int last = to / axis.stride < axis.results ? to / axis.stride : axis.results - 1;
  for (int result = before > 0 ? (before + axis.stride - 1) / axis.stride : 0; result <= last; result++) {
    const int offset = to - result * axis.stride;
    if (offset % axis.dilation == 0) visit(result, offset / axis.dilation);
  }
}

// A window that holds a position of the input: where its result and its gradient lie, and by which of its elements it does.
struct Holder {
  int64_t result, gradient;
  int32_t row, column, element;
};

// All windows that hold a position; rows of the gradient are `gradient_step` apart.
inline void find_holders(const Pool& pool, int row, int column, int64_t gradient_step, std::vector<Holder>& found) {
  found.clear();
  each_window(pool.rows, row, [&](int of_row, int r) {
    each_window(pool.columns, column, [&](int of_column, int c) {
      const int64_t in_row = static_cast<int64_t>(of_column) * pool.panel;
      const int64_t result = static_cast<int64_t>(of_row) * pool.columns.results * pool.panel + in_row;
      found.push_back({result, of_row * gradient_step + in_row, of_row, of_column, r * pool.columns.kernel + c});
    });
  });
}

// As many elements' numbers as a vector has samples, in memory a byte each.
template <class T, int LANES>
struct Elements {
  using L = Lanes<T, LANES>;
  using Number = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  using I = typename Vector<Number, L::width>::Type;
  using Bytes = typename Vector<uint8_t, L::width>::Type;

  // The compiler would widen bytes one by one.
  static inline __attribute__((always_inline)) I read(const uint8_t* from) {
#if defined(__AVX512F__)
    if constexpr (sizeof(I) == 64 && sizeof(T) == 4)
      return reinterpret_cast<I>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
    if constexpr (sizeof(I) == 32 && sizeof(T) == 4)
      return reinterpret_cast<I>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#endif
    if constexpr (L::width == 1) return *from; else return __builtin_convertvector(load<Bytes>(from), I);
  }

  static inline __attribute__((always_inline)) void write(uint8_t* to, I value) {
    if constexpr (L::width == 1) *to = static_cast<uint8_t>(value); else store(to, __builtin_convertvector(value, Bytes));
  }

  static inline __attribute__((always_inline)) I all(Number element) { return element - I{}; }
};

// out = the largest of each window, and which of its elements that is, if that is asked for: as torch has it the first of several
// that are alike, and the last that is not a number if there is one.
template <class T>
void max_pool(const Pool& pool, const T* x, T* out, uint8_t* elements) {
  for (int row = pool.first_row; row < pool.last_row; row++)
    for (int column = 0; column < pool.columns.results; column++) {
      const int64_t to = (static_cast<int64_t>(row) * pool.columns.results + column) * pool.panel;
      const int first = pool.rows.first(row) * pool.columns.kernel + pool.columns.first(column);
      each_part_of_panel(pool, [&](auto lanes, int place) {
        using E = Elements<T, decltype(lanes)::value>;
        using L = typename E::L;
        using V = typename L::V;
        V best[L::count];
        typename E::I where[L::count];
        for (int v = 0; v < L::count; v++) {
          best[v] = splat<V>(-std::numeric_limits<T>::infinity());
          where[v] = E::all(first);
        }
        each_element(pool, row, column, [&](int element, int64_t panel) {
#pragma GCC unroll 8
          for (int v = 0; v < L::count; v++) {
            const V value = load<V>(x + panel + place + v * L::width);
            const auto takes = (value > best[v]) | (value != value);
            best[v] = takes ? value : best[v];
            where[v] = takes ? E::all(element) : where[v];
          }
        });
#pragma GCC unroll 8
        for (int v = 0; v < L::count; v++) {
          put(pool.streams, out + to + place + v * L::width, best[v]);
          if (elements) E::write(elements + to + place + v * L::width, where[v]);
        }
      });
    }
  if (pool.streams) end_streams();
}

// x_gradient = the sum over the windows that hold a position, in the order of their results. Calls part(Number<LANES>, place within
// a panel, Holder) to have what is added.
template <class T, class Part>
INLINE void sum_over_windows(const Pool& pool, int64_t gradient_step, T* x_gradient, Part part) {
  std::vector<Holder> holders;
  for (int row = pool.first_row; row < pool.last_row; row++)
    for (int column = 0; column < pool.columns.size; column++) {
      const int64_t to = (static_cast<int64_t>(row) * pool.columns.size + column) * pool.panel;
      find_holders(pool, row, column, gradient_step, holders);
      const Holder *const first = holders.data(), *const last = first + holders.size();
      each_part_of_panel(pool, [&](auto lanes, int place) __attribute__((always_inline)) {
        using L = Lanes<T, decltype(lanes)::value>;
        typename L::V total[L::count] = {};
        for (const Holder* holder = first; holder != last; holder++)
#pragma GCC unroll 8
          for (int v = 0; v < L::count; v++) total[v] += part(lanes, place + v * L::width, *holder);
#pragma GCC unroll 8
        for (int v = 0; v < L::count; v++) put(pool.streams, x_gradient + to + place + v * L::width, total[v]);
      });
    }
  if (pool.streams) end_streams();
}

// The gradient of a result is that of the element that it is; rows of it are `gradient_step` apart.
template <class T>
void max_pool_gradient(const Pool& pool, const T* gradient, int64_t gradient_step, const uint8_t* elements, T* x_gradient) {
  sum_over_windows(pool, gradient_step, x_gradient, [&](auto lanes, int place, const Holder& from) __attribute__((always_inline)) {
    using E = Elements<T, decltype(lanes)::value>;
    using V = typename E::L::V;
    const V value = load<V>(gradient + from.gradient + place);
    return E::read(elements + from.result + place) == E::all(from.element) ? value : V{};
  });
}

// out = the sum of each window over the product of two counts: of the result's row and of its column.
template <class T>
void average_pool(const Pool& pool, const T* x, const T* row_counts, const T* column_counts, T* out) {
  for (int row = pool.first_row; row < pool.last_row; row++)
    for (int column = 0; column < pool.columns.results; column++) {
      const int64_t to = (static_cast<int64_t>(row) * pool.columns.results + column) * pool.panel;
      const T count = row_counts[row] * column_counts[column];
      each_part_of_panel(pool, [&](auto lanes, int place) {
        using L = Lanes<T, decltype(lanes)::value>;
        using V = typename L::V;
        V total[L::count] = {};
        each_element(pool, row, column, [&](int, int64_t panel) {
#pragma GCC unroll 8
          for (int v = 0; v < L::count; v++) total[v] += load<V>(x + panel + place + v * L::width);
        });
#pragma GCC unroll 8
        for (int v = 0; v < L::count; v++) put(pool.streams, out + to + place + v * L::width, total[v] / splat<V>(count));
      });
    }
  if (pool.streams) end_streams();
}

// Rows of the gradient are `gradient_step` apart.
template <class T>
void average_pool_gradient(const Pool& pool, const T* gradient, int64_t gradient_step, const T* row_counts,
                           const T* column_counts, T* x_gradient) {
  sum_over_windows(pool, gradient_step, x_gradient, [&](auto lanes, int place, const Holder& from) __attribute__((always_inline)) {
    using V = typename Lanes<T, decltype(lanes)::value>::V;
    return load<V>(gradient + from.gradient + place) / splat<V>(row_counts[from.row] * column_counts[from.column]);
  });
}
