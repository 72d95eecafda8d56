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

// Calls whole(Number<P>) for a strip of P positions if there is a kernel for it, else single(position) for each position.
template <class Whole, class Single>
INLINE void by_positions(int count, Whole whole, Single single) {
  switch (count) {
    case 8: return whole(Number<8>());
    case 4: return whole(Number<4>());
    case 2: return whole(Number<2>());
    default:
      for (int position = 0; position < count; position++) single(position);
  }
}

// Vectors of sums that fit into the registers beside what a product needs.
template <class T, int LANES, int POSITIONS, int ROWS>
constexpr bool fits() {
  return ROWS * POSITIONS * Lanes<T, LANES>::count <= kRegisters * 3 / 4;
}

template <class T>
void multiply_rows(const Pass& pass, const T* in, T* out, const Rows& rows, const T* values) {
  each_strip_and_group_of_samples(pass, [&](auto lanes, int64_t from, int64_t to, int count, bool first) {
    constexpr int kLanes = decltype(lanes)::value;
    const Ahead ahead = first ? Ahead(pass, in + from, rows.count) : Ahead();
    const auto single = [&](int p) {
      multiply_strip<T, kLanes, 1>(pass, in + from + p * pass.in_step, out + to + p * pass.out_step, rows, values, Ahead());
    };
    by_positions(count, [&](auto positions) {
      constexpr int kPositions = decltype(positions)::value;
      if constexpr (fits<T, kLanes, kPositions, 1>())
        multiply_strip<T, kLanes, kPositions>(pass, in + from, out + to, rows, values, ahead);
      else
        for (int p = 0; p < kPositions; p++) single(p);
    }, single);
  });
}

template <class T>
void correlate_rows(const Pass& pass, const T* in, const T* out_gradient, const Rows& rows, T* gradients) {
  each_strip_and_group_of_samples(pass, [&](auto lanes, int64_t from, int64_t to, int count, bool first) {
    constexpr int kLanes = decltype(lanes)::value;
    const Ahead ahead = first ? Ahead(pass, in + from, rows.count) : Ahead();
    const auto single = [&](int p) {
      correlate_strip<T, kLanes, 1>(pass, in + from + p * pass.in_step, out_gradient + to + p * pass.out_step, rows, gradients,
                                    Ahead());
    };
    by_positions(count, [&](auto positions) {
      constexpr int kPositions = decltype(positions)::value;
      if constexpr (fits<T, kLanes, kPositions, 1>())
        correlate_strip<T, kLanes, kPositions>(pass, in + from, out_gradient + to, rows, gradients, ahead);
      else
        for (int p = 0; p < kPositions; p++) single(p);
    }, single);
  });
}

template <class T>
void multiply_row_groups(const Pass& pass, const T* in, T* out, const Groups& groups, const T* values) {
  each_strip_and_group_of_samples(pass, [&](auto lanes, int64_t from, int64_t to, int count, bool first) {
    constexpr int kLanes = decltype(lanes)::value;
    const Ahead ahead = first ? Ahead(pass, in + from, groups.count) : Ahead();
    const auto single = [&](int p) {
      multiply_groups<T, kLanes, 1>(pass, in + from + p * pass.in_step, out + to + p * pass.out_step, groups, values, Ahead());
    };
    by_positions(count, [&](auto positions) {
      constexpr int kPositions = decltype(positions)::value;
      if constexpr (fits<T, kLanes, kPositions, kGroup>())
        multiply_groups<T, kLanes, kPositions>(pass, in + from, out + to, groups, values, ahead);
      else
        for (int p = 0; p < kPositions; p++) single(p);
    }, single);
  });
}

template <class T>
void spread_row_groups(const Pass& pass, T* in_gradient, const T* out_gradient, const Groups& groups, const T* values) {
  each_strip_and_group_of_samples(pass, [&](auto lanes, int64_t from, int64_t to, int count, bool first) {
    constexpr int kLanes = decltype(lanes)::value;
    const Ahead ahead = first ? Ahead(pass, out_gradient + to, groups.count) : Ahead();
    const auto single = [&](int p) {
      spread_groups<T, kLanes, 1>(pass, in_gradient + from + p * pass.in_step, out_gradient + to + p * pass.out_step, groups,
                                  values, Ahead());
    };
    by_positions(count, [&](auto positions) {
      constexpr int kPositions = decltype(positions)::value;
      if constexpr (fits<T, kLanes, kPositions, kGroup>())
        spread_groups<T, kLanes, kPositions>(pass, in_gradient + from, out_gradient + to, groups, values, ahead);
      else
        for (int p = 0; p < kPositions; p++) single(p);
    }, single);
  });
}

template <class T>
void correlate_row_groups(const Pass& pass, const T* in, const T* out_gradient, const Groups& groups, T* gradients) {
  each_strip_and_group_of_samples(pass, [&](auto lanes, int64_t from, int64_t to, int count, bool first) {
    const Ahead ahead = first ? Ahead(pass, in + from, groups.count) : Ahead();
    correlate_groups<T, decltype(lanes)::value>(pass, count, in + from, out_gradient + to, groups, gradients, ahead);
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
    norm_apply(*plane, x, step, scales, shifts, out);                                                                         \
  }                                                                                                                           \
  extern "C" void norm_gradient_sums_##SUFFIX(const Plane* plane, const T* gradient, int64_t gradient_step, const T* x,       \
                                              int64_t step, const T* out, const T* means, double* sums, double* products) {   \
    norm_gradient_sums(*plane, gradient, gradient_step, x, step, out, means, sums, products);                                 \
  }                                                                                                                           \
  extern "C" void norm_gradient_apply_##SUFFIX(const Plane* plane, const T* gradient, int64_t gradient_step, const T* x,      \
                                               int64_t step, const T* out, const T* by_gradient, const T* by_x,               \
                                               const T* constants, T* x_gradient) {                                           \
    norm_gradient_apply(*plane, gradient, gradient_step, x, step, out, by_gradient, by_x, constants, x_gradient);             \
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
