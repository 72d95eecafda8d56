// The C interface of the kernels, for numbers of 32 and of 64 bits.
#include "groups.h"
#include "indices.h"
#include "norms.h"
#include "rows.h"

namespace {

// Calls visit(Number<LANES>, place in the input, place in the output, positions, whether it is the strip's first call).
template <class Visit>
INLINE void each_strip_and_group_of_samples(const Pass& pass, Visit visit) {
  each_strip(pass, [&](int64_t row, int64_t start, int count) {
    each_group_of_samples(pass, [&](auto lanes, int sample) {
      const int64_t in = row * pass.in_row + start * pass.in_step + sample;
      const int64_t out = row * pass.out_row + start * pass.out_step + sample;
      visit(lanes, in, out, count, sample == pass.first_sample);
    });
  });
}

// Vectors of sums, of ROWS rows, that fit into the registers beside what a product needs.
template <class T, int LANES, int POSITIONS, int ROWS>
constexpr bool fits() {
  return ROWS * POSITIONS * Lanes<T, LANES>::count <= kRegisters * 3 / 4;
}

// Calls kernel(Number<LANES>, Number<POSITIONS>, place in the input, place in the output, what to fetch ahead) for all strips:
// for the whole strip if its positions have a kernel whose sums fit, else for each position. `rows` of `ROWS` sums each share
// out what is fetched, which lies where `ahead_of(in, out)` says.
template <class T, int ROWS, class AheadOf, class Kernel>
INLINE void over_strips(const Pass& pass, int rows, AheadOf ahead_of, Kernel kernel) {
  each_strip_and_group_of_samples(pass, [&](auto lanes, int64_t in, int64_t out, int count, bool first) {
    constexpr int kLanes = decltype(lanes)::value;
    const auto whole = [&](auto positions) {
      constexpr int kPositions = decltype(positions)::value;
      if constexpr (fits<T, kLanes, kPositions, ROWS>())
        kernel(lanes, positions, in, out, first ? Ahead(pass, ahead_of(in, out), rows) : Ahead());
      else
        for (int p = 0; p < kPositions; p++) kernel(lanes, Number<1>(), in + p * pass.in_step, out + p * pass.out_step, Ahead());
    };
    switch (count) {
      case 8: return whole(Number<8>());
      case 4: return whole(Number<4>());
      case 2: return whole(Number<2>());
      default:
        for (int p = 0; p < count; p++) kernel(lanes, Number<1>(), in + p * pass.in_step, out + p * pass.out_step, Ahead());
    }
  });
}

template <class T>
void multiply_rows(const Pass& pass, const T* in, T* out, const Rows& rows, const T* values) {
  over_strips<T, 1>(pass, rows.count, [&](int64_t from, int64_t) { return in + from; },
                    [&](auto lanes, auto positions, int64_t from, int64_t to, Ahead ahead) {
    multiply_strip<T, decltype(lanes)::value, decltype(positions)::value>(pass, in + from, out + to, rows, values, ahead);
  });
}

template <class T>
void correlate_rows(const Pass& pass, const T* in, const T* gradient, const Rows& rows, T* gradients) {
  over_strips<T, 1>(pass, rows.count, [&](int64_t from, int64_t) { return in + from; },
                    [&](auto lanes, auto positions, int64_t from, int64_t to, Ahead ahead) {
    correlate_strip<T, decltype(lanes)::value, decltype(positions)::value>(pass, in + from, gradient + to, rows, gradients, ahead);
  });
}

template <class T>
void multiply_row_groups(const Pass& pass, const T* in, T* out, const Groups& groups, const T* values) {
  over_strips<T, kGroup>(pass, groups.count, [&](int64_t from, int64_t) { return in + from; },
                         [&](auto lanes, auto positions, int64_t from, int64_t to, Ahead ahead) {
    multiply_groups<T, decltype(lanes)::value, decltype(positions)::value>(pass, in + from, out + to, groups, values, ahead);
  });
}

template <class T>
void spread_row_groups(const Pass& pass, T* in_gradient, const T* gradient, const Groups& groups, const T* values) {
  over_strips<T, kGroup>(pass, groups.count, [&](int64_t, int64_t to) { return gradient + to; },
                         [&](auto lanes, auto positions, int64_t from, int64_t to, Ahead ahead) {
    spread_groups<T, decltype(lanes)::value, decltype(positions)::value>(pass, in_gradient + from, gradient + to, groups, values,
                                                                         ahead);
  });
}

// A tile stays in registers over any number of positions.
template <class T>
void correlate_row_groups(const Pass& pass, const T* in, const T* gradient, const Groups& groups, T* gradients) {
  each_strip_and_group_of_samples(pass, [&](auto lanes, int64_t from, int64_t to, int count, bool first) {
    const Ahead ahead = first ? Ahead(pass, in + from, groups.count) : Ahead();
    correlate_groups<T, decltype(lanes)::value>(pass, count, in + from, gradient + to, groups, gradients, ahead);
  });
}

}  // namespace

#define EXPORT(T, SUFFIX)                                                                                                     \
  extern "C" void multiply_rows_##SUFFIX(const Pass* pass, const T* in, T* out, const Rows* rows, const T* values) {          \
    multiply_rows(*pass, in, out, *rows, values);                                                                             \
  }                                                                                                                           \
  extern "C" void correlate_rows_##SUFFIX(const Pass* pass, const T* in, const T* gradient, const Rows* rows, T* gradients) { \
    correlate_rows(*pass, in, gradient, *rows, gradients);                                                                    \
  }                                                                                                                           \
  extern "C" void multiply_groups_##SUFFIX(const Pass* pass, const T* in, T* out, const Groups* groups, const T* values) {    \
    multiply_row_groups(*pass, in, out, *groups, values);                                                                     \
  }                                                                                                                           \
  extern "C" void spread_groups_##SUFFIX(const Pass* pass, T* in_gradient, const T* gradient, const Groups* groups,           \
                                         const T* values) {                                                                   \
    spread_row_groups(*pass, in_gradient, gradient, *groups, values);                                                         \
  }                                                                                                                           \
  extern "C" void correlate_groups_##SUFFIX(const Pass* pass, const T* in, const T* gradient, const Groups* groups,           \
                                            T* gradients) {                                                                   \
    correlate_row_groups(*pass, in, gradient, *groups, gradients);                                                            \
  }                                                                                                                           \
  extern "C" void norm_sums_##SUFFIX(const Plane* plane, const T* x, int64_t step, const T* shifts, double* sums,             \
                                     double* squares) {                                                                       \
    norm_sums(*plane, x, step, shifts, sums, squares);                                                                        \
  }                                                                                                                           \
  extern "C" void norm_apply_##SUFFIX(const Plane* plane, const T* x, int64_t step, const T* scales, const T* shifts,         \
                                      T* out) {                                                                               \
    (plane->relu ? norm_apply<T, true> : norm_apply<T, false>)(*plane, x, step, scales, shifts, out);                         \
  }                                                                                                                           \
  extern "C" void norm_gradient_sums_##SUFFIX(const Plane* plane, const NormGradient<T>* from, double* sums,                  \
                                              double* products) {                                                             \
    (plane->relu ? norm_gradient_sums<T, true> : norm_gradient_sums<T, false>)(*plane, *from, sums, products);                \
  }                                                                                                                           \
  extern "C" void norm_gradient_apply_##SUFFIX(const Plane* plane, const NormGradient<T>* from, const T* by_gradient,         \
                                               const T* by_x, const T* constants, T* x_gradient) {                            \
    (plane->relu ? norm_gradient_apply<T, true> : norm_gradient_apply<T, false>)(*plane, *from, by_gradient, by_x, constants, \
                                                                                 x_gradient);                                 \
  }

EXPORT(float, f32)
EXPORT(double, f64)

extern "C" void index_rows_of_bits(const uint8_t* bits, int32_t rows, int32_t columns, int32_t* start, int32_t* column) {
  index_rows(bits, rows, columns, start, column);
}

extern "C" void index_rows_by_key(const int32_t* start, const int32_t* column, int32_t rows, const int32_t* key_of_column,
                                  int32_t keys, int32_t* key_start, int32_t* entry, int32_t* row_of_entry) {
  index_transposed(start, column, rows, key_of_column, keys, key_start, entry, row_of_entry);
}
