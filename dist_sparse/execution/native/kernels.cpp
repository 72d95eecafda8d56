// The C interface of the kernels, for numbers of 32 and of 64 bits.
#include "groups.h"
#include "indices.h"
#include "norms.h"
#include "parallel.h"
#include "pooling.h"
#include "rows.h"
#include "transpose.h"

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

// Whether there is a kernel for strips of POSITIONS: its sums, of ROWS rows, fit into the registers beside what a product needs.
// For what is rare there are fewer: fewer samples, offsets of 32 bits, numbers of 64 bits.
template <class T, class Offset, int LANES, int POSITIONS, int ROWS>
constexpr bool has_kernel() {
  if (POSITIONS == 1) return true;
  if (LANES < 16 || (POSITIONS != 2 && (sizeof(T) > 4 || sizeof(Offset) > 2))) return false;
  return ROWS * POSITIONS * Lanes<T, LANES>::count <= kRegisters * 3 / 4;
}

// Calls kernel(Number<LANES>, Number<POSITIONS>, place in the input, place in the output, what to fetch ahead) for all strips:
// for as many positions at once as there is a kernel for, of `ROWS` sums a position. `ahead_of(in, out)` tells what is fetched.
template <class T, class Offset, int ROWS, class AheadOf, class Kernel>
INLINE void over_strips(const Pass& pass, AheadOf ahead_of, Kernel kernel) {
  each_strip_and_group_of_samples(pass, [&](auto lanes, int64_t in, int64_t out, int count, bool first) {
    constexpr int kLanes = decltype(lanes)::value;
    int p = 0;
    const auto as_many_as = [&](auto positions) {
      constexpr int kPositions = decltype(positions)::value;
      if constexpr (has_kernel<T, Offset, kLanes, kPositions, ROWS>())
        for (; p + kPositions <= count; p += kPositions) {
          const Ahead ahead = first && p == 0 ? ahead_of(in, out) : Ahead();
          kernel(lanes, positions, in + p * pass.in_step, out + p * pass.out_step, ahead);
        }
    };
    as_many_as(Number<8>());
    as_many_as(Number<6>());
    as_many_as(Number<5>());
    as_many_as(Number<4>());
    as_many_as(Number<3>());
    as_many_as(Number<2>());
    as_many_as(Number<1>());
  });
}

template <class T, class Offset>
void multiply_rows(const Pass& pass, const T* in, T* out, const Rows& rows, const T* values) {
  over_strips<T, Offset, 1>(pass, [&](int64_t from, int64_t) { return input_ahead(pass, in + from, rows.count); },
                            [&](auto lanes, auto positions, int64_t from, int64_t to, Ahead ahead) {
    multiply_strip<T, Offset, decltype(lanes)::value, decltype(positions)::value>(pass, in + from, out + to, rows, values, ahead);
  });
  if (pass.streams) end_streams();
}

template <class T, class Offset>
void correlate_rows(const Pass& pass, const T* in, const T* gradient, const Rows& rows, T* gradients) {
  over_strips<T, Offset, 1>(pass, [&](int64_t from, int64_t) { return input_ahead(pass, in + from, rows.count); },
                            [&](auto lanes, auto positions, int64_t from, int64_t to, Ahead ahead) {
    correlate_strip<T, Offset, decltype(lanes)::value, decltype(positions)::value>(pass, in + from, gradient + to, rows,
                                                                                   gradients, ahead);
  });
}

template <class T, class Offset>
void multiply_row_groups(const Pass& pass, const T* in, T* out, const Groups& groups, const T* values) {
  over_strips<T, Offset, kGroup>(pass, [&](int64_t from, int64_t) { return input_ahead(pass, in + from, groups.count); },
                                 [&](auto lanes, auto positions, int64_t from, int64_t to, Ahead ahead) {
    multiply_groups<T, Offset, decltype(lanes)::value, decltype(positions)::value>(pass, in + from, out + to, groups, values,
                                                                                   ahead);
  });
  if (pass.streams) end_streams();
}

template <class T, class Offset>
void spread_row_groups(const Pass& pass, T* in_gradient, const T* gradient, const Groups& groups, const T* values) {
  const auto ahead_of = [&](int64_t, int64_t to) {
    return positions_ahead(gradient + to, pass.positions, pass.out_step, groups.count);
  };
  over_strips<T, Offset, kGroup>(pass, ahead_of, [&](auto lanes, auto positions, int64_t from, int64_t to, Ahead ahead) {
    spread_groups<T, Offset, decltype(lanes)::value, decltype(positions)::value>(pass, in_gradient + from, gradient + to, groups,
                                                                                 values, ahead);
  });
}

// All parts: samples of all strips, or rows of the image. Where rows of two parts write to the same elements, the later part does
// so first: a part waits for the next one to be past the rows that they share. So sums are the same from run to run.
template <class Spread>
void in_parts_of_rows(const Pass* passes, int parts, Spread spread) {
  std::vector<std::atomic<bool>> past(parts);
  in_parallel(parts, [&](int part) {
    Pass pass = passes[part];
    const bool waits = pass.shared_rows > 0 && part + 1 < parts && passes[part + 1].first_strip > pass.first_strip;
    const int64_t end = pass.last_strip, shared = pass.shared_rows * strips_in_row(pass);
    const auto until = [&](int64_t strip) {
      pass.last_strip = strip;
      if (pass.first_strip < strip) spread(pass);
      pass.first_strip = pass.first_strip < strip ? strip : pass.first_strip;
    };
    const int64_t head = pass.first_strip + shared, tail = waits ? end - shared : end;
    if (head <= tail) {
      until(head);
      past[part] = true;
    }
    until(tail);
    while (waits && !past[part + 1]) std::this_thread::yield();
    until(end);
    past[part] = true;
  });
}

// A tile stays in registers over any number of positions.
template <class T, class Offset>
void correlate_row_groups(const Pass& pass, const T* in, const T* gradient, const Groups& groups, T* gradients) {
  each_strip_and_group_of_samples(pass, [&](auto lanes, int64_t from, int64_t to, int count, bool first) {
    const Ahead ahead = first ? input_ahead(pass, in + from, groups.count) : Ahead();
    correlate_groups<T, Offset, decltype(lanes)::value>(pass, count, in + from, gradient + to, groups, gradients, ahead);
  });
}

}  // namespace

// By the width of the offsets.
#define BY_OFFSET(KERNEL, T, INDEX, ...)                                                                                      \
  ((INDEX)->narrow ? KERNEL<T, uint16_t>(__VA_ARGS__) : KERNEL<T, int32_t>(__VA_ARGS__))

// By what lies behind a norm.
#define BY_BEHIND(KERNEL, T, PLANE, ...)                                                                                      \
  switch (static_cast<Behind>((PLANE)->behind)) {                                                                             \
    case Behind::kNothing: KERNEL<T, Behind::kNothing>(*(PLANE), __VA_ARGS__); break;                                         \
    case Behind::kRelu: KERNEL<T, Behind::kRelu>(*(PLANE), __VA_ARGS__); break;                                               \
    case Behind::kSumAndRelu: KERNEL<T, Behind::kSumAndRelu>(*(PLANE), __VA_ARGS__); break;                                   \
  }

// Each takes what there is to do in parts, one a thread; sums are of each part, `step` apart.
#define EXPORT(T, SUFFIX)                                                                                                     \
  extern "C" void multiply_rows_##SUFFIX(const Pass* passes, int parts, const T* in, T* out, const Rows* index,               \
                                         const T* values) {                                                                   \
    in_parallel(parts, [&](int part) { BY_OFFSET(multiply_rows, T, index, passes[part], in, out, *index, values); });         \
  }                                                                                                                           \
  extern "C" void correlate_rows_##SUFFIX(const Pass* passes, int parts, const T* in, const T* gradient, const Rows* index,   \
                                          T* sums, int64_t step) {                                                            \
    in_parallel(parts, [&](int part) {                                                                                        \
      BY_OFFSET(correlate_rows, T, index, passes[part], in, gradient, *index, sums + part * step);                            \
    });                                                                                                                       \
  }                                                                                                                           \
  extern "C" void multiply_groups_##SUFFIX(const Pass* passes, int parts, const T* in, T* out, const Groups* index,           \
                                           const T* values) {                                                                 \
    in_parallel(parts, [&](int part) { BY_OFFSET(multiply_row_groups, T, index, passes[part], in, out, *index, values); });   \
  }                                                                                                                           \
  extern "C" void spread_groups_##SUFFIX(const Pass* passes, int parts, T* in, const T* gradient, const Groups* index,        \
                                         const T* values) {                                                                   \
    in_parts_of_rows(passes, parts, [&](const Pass& pass) {                                                                   \
      BY_OFFSET(spread_row_groups, T, index, pass, in, gradient, *index, values);                                             \
    });                                                                                                                       \
  }                                                                                                                           \
  extern "C" void correlate_groups_##SUFFIX(const Pass* passes, int parts, const T* in, const T* gradient,                    \
                                            const Groups* index, T* sums, int64_t step) {                                     \
    in_parallel(parts, [&](int part) {                                                                                        \
      BY_OFFSET(correlate_row_groups, T, index, passes[part], in, gradient, *index, sums + part * step);                      \
    });                                                                                                                       \
  }                                                                                                                           \
  extern "C" void norm_sums_##SUFFIX(const Plane* planes, int parts, const T* x, int64_t row_step, const T* shifts,           \
                                     double* sums, int64_t step) {                                                            \
    in_parallel(parts, [&](int part) {                                                                                        \
      double* own = sums + part * step;                                                                                       \
      norm_sums(planes[part], x, row_step, shifts, own, own + planes[part].channels);                                         \
    });                                                                                                                       \
  }                                                                                                                           \
  extern "C" void norm_apply_##SUFFIX(const Plane* planes, int parts, const T* x, int64_t row_step, const T* scales,          \
                                      const T* shifts, const T* residual, int64_t residual_step, T* out) {                    \
    in_parallel(parts, [&](int part) {                                                                                        \
      BY_BEHIND(norm_apply, T, planes + part, x, row_step, scales, shifts, residual, residual_step, out);                     \
    });                                                                                                                       \
  }                                                                                                                           \
  extern "C" void norm_gradient_sums_##SUFFIX(const Plane* planes, int parts, const NormGradient<T>* from, double* sums,      \
                                              int64_t step) {                                                                 \
    in_parallel(parts, [&](int part) {                                                                                        \
      double* own = sums + part * step;                                                                                       \
      BY_BEHIND(norm_gradient_sums, T, planes + part, *from, own, own + planes[part].channels);                               \
    });                                                                                                                       \
  }                                                                                                                           \
  extern "C" void norm_gradient_apply_##SUFFIX(const Plane* planes, int parts, const NormGradient<T>* from,                   \
                                               const T* by_gradient, const T* by_x, const T* constants, T* x_gradient) {      \
    in_parallel(parts, [&](int part) {                                                                                        \
      BY_BEHIND(norm_gradient_apply, T, planes + part, *from, by_gradient, by_x, constants, x_gradient);                      \
    });                                                                                                                       \
  }                                                                                                                           \
  extern "C" void max_pool_##SUFFIX(const Pool* pools, int parts, const T* x, T* out, uint8_t* elements) {                    \
    in_parallel(parts, [&](int part) { max_pool(pools[part], x, out, elements); });                                           \
  }                                                                                                                           \
  extern "C" void max_pool_gradient_##SUFFIX(const Pool* pools, int parts, const T* gradient, int64_t gradient_step,          \
                                             const uint8_t* elements, T* x_gradient) {                                        \
    in_parallel(parts, [&](int part) { max_pool_gradient(pools[part], gradient, gradient_step, elements, x_gradient); });     \
  }                                                                                                                           \
  extern "C" void average_pool_##SUFFIX(const Pool* pools, int parts, const T* x, const T* row_counts, const T* column_counts,\
                                        T* out) {                                                                             \
    in_parallel(parts, [&](int part) { average_pool(pools[part], x, row_counts, column_counts, out); });                      \
  }                                                                                                                           \
  extern "C" void average_pool_gradient_##SUFFIX(const Pool* pools, int parts, const T* gradient, int64_t gradient_step,      \
                                                 const T* row_counts, const T* column_counts, T* x_gradient) {                \
    in_parallel(parts, [&](int part) {                                                                                        \
      average_pool_gradient(pools[part], gradient, gradient_step, row_counts, column_counts, x_gradient);                     \
    });                                                                                                                       \
  }                                                                                                                           \
  extern "C" void rows_to_blocks_##SUFFIX(const Blocks* shapes, int parts, const T* rows, T* blocks, double* sums,            \
                                          int64_t step) {                                                                     \
    in_parallel(parts, [&](int part) {                                                                                        \
      rows_to_blocks(shapes[part], rows, blocks, sums ? sums + part * step : nullptr);                                        \
    });                                                                                                                       \
  }                                                                                                                           \
  extern "C" void blocks_to_rows_##SUFFIX(const Blocks* shapes, int parts, const T* blocks, const T* bias, T* rows) {         \
    in_parallel(parts, [&](int part) { blocks_to_rows(shapes[part], blocks, bias, rows); });                                  \
  }

EXPORT(float, f32)
EXPORT(double, f64)

extern "C" void index_rows_of_bits(const uint8_t* bits, Matrix matrix, const int32_t* offset_of_column, int32_t* start,
                                   int32_t* position, void* offset) {
  if (matrix.narrow)
    index_rows(bits, matrix, offset_of_column, start, position, static_cast<uint16_t*>(offset));
  else
    index_rows(bits, matrix, offset_of_column, start, position, static_cast<int32_t*>(offset));
}

extern "C" void index_rows_by_key(const int32_t* position, int32_t entries, Matrix matrix, const int32_t* key_of_column,
                                  int32_t keys, const int32_t* offset_of_column, int32_t* start, int32_t* entry, void* offset) {
  if (matrix.narrow)
    index_by_key(position, entries, matrix, key_of_column, keys, offset_of_column, start, entry, static_cast<uint16_t*>(offset));
  else
    index_by_key(position, entries, matrix, key_of_column, keys, offset_of_column, start, entry, static_cast<int32_t*>(offset));
}

extern "C" int64_t hash_rows_of_mask(const uint8_t* mask, int32_t rows, int32_t columns, int64_t* hashes) {
  return hash_rows(mask, rows, columns, hashes);
}

extern "C" int32_t columns_of_groups(const uint8_t* mask, const int32_t* rows, int32_t groups, int32_t columns, int32_t* start,
                                     int32_t* column) {
  return union_columns(mask, rows, groups, columns, start, column);
}
