// Batch norm, with a ReLU behind it if wanted, or a residual sum and a ReLU, of tensors whose samples are innermost.
#pragma once
#include <vector>

#include "passes.h"

// The rows of the image that a thread takes. Tensors may lie between other things: each has its own step from row to row.
struct Plane {
  int32_t width, channels, samples;
  int32_t first_row, last_row;
  int32_t behind;  // what comes behind the norm: a Behind
  int32_t streams;  // results go past the caches
};

enum class Behind : int32_t { kNothing, kRelu, kSumAndRelu };

// Calls visit(channel, Number<LANES>, place within a position's panel) for all of a panel.
template <class Visit>
INLINE void each_channel(const Plane& plane, Visit visit) {
  Pass samples{};
  samples.last_sample = plane.samples;
  for (int channel = 0; channel < plane.channels; channel++)
    each_group_of_samples(samples, [&](auto lanes, int sample) {
      visit(channel, lanes, static_cast<int64_t>(channel) * plane.samples + sample);
    });
}

// Calls visit(row, offset of a position's panel from the row's beginning) for all positions of the thread's rows.
template <class Visit>
INLINE void each_position(const Plane& plane, Visit visit) {
  const int64_t panel = static_cast<int64_t>(plane.channels) * plane.samples;
  for (int64_t row = plane.first_row; row < plane.last_row; row++)
    for (int64_t at = 0; at < plane.width * panel; at += panel) visit(row, at);
}

// Calls visit(row, offset of the first position's panel, positions) for all positions of the thread's rows, a few at a time: a
// channel's sums are then read and written once for all of them.
template <class Visit>
INLINE void each_few_positions(const Plane& plane, Visit visit) {
  constexpr int kFew = 4;
  const int64_t panel = static_cast<int64_t>(plane.channels) * plane.samples;
  for (int64_t row = plane.first_row; row < plane.last_row; row++)
    for (int position = 0; position < plane.width; position += kFew)
      visit(row, position * panel, plane.width - position < kFew ? plane.width - position : kFew);
}

// Two sums a channel. They are gathered in vectors of T, position by position, and from time to time added up in double.
template <class T>
class ChannelSums {
 public:
  ChannelSums(const Plane& plane, double* first, double* second)
      : channels_(plane.channels), first_(first), second_(second), gathered_(2 * kWidth * plane.channels) {}

  template <class V>
  inline __attribute__((always_inline)) void add(int channel, V first, V second) {
    T* at = gathered_.data() + 2 * kWidth * channel;
    store(at, load<V>(at) + first);
    store(at + kWidth, load<V>(at + kWidth) + second);
  }

  // To be called after as many positions.
  void end(int positions) {
    if ((positions_ += positions) >= kPositions) flush();
  }

  void flush() {
    positions_ = 0;
    for (int channel = 0; channel < channels_; channel++) {
      T* at = gathered_.data() + 2 * kWidth * channel;
      first_[channel] += taken(at);
      second_[channel] += taken(at + kWidth);
    }
  }

 private:
  static constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int kPositions = 64;

  static double taken(T* from) {
    double total = 0;
    for (int lane = 0; lane < kWidth; lane++) {
      total += from[lane];
      from[lane] = 0;
    }
    return total;
  }

  int channels_, positions_ = 0;
  double *first_, *second_;
  std::vector<T> gathered_;
};

// sums[channel] += the sum of x - shift, squares[channel] += that of its square. The shift, some sample of the channel, keeps
// the variance exact where the mean is far from 0.
template <class T>
void norm_sums(const Plane& plane, const T* x, int64_t row_step, const T* shifts, double* sums, double* squares) {
  ChannelSums<T> gathered(plane, sums, squares);
  const int64_t panel = static_cast<int64_t>(plane.channels) * plane.samples;
  each_few_positions(plane, [&](int64_t row, int64_t at, int positions) {
    each_channel(plane, [&](int channel, auto lanes, int64_t place) {
      using L = Lanes<T, decltype(lanes)::value>;
      using V = typename L::V;
      const V shift = splat<V>(shifts[channel]);
      V total = {}, square = {};
      for (int p = 0; p < positions; p++)
#pragma GCC unroll 8
        for (int v = 0; v < L::count; v++) {
          const V value = load<V>(x + row * row_step + at + p * panel + place + v * L::width) - shift;
          total += value;
          square += value * value;
        }
      gathered.add(channel, total, square);
    });
    gathered.end(positions);
  });
  gathered.flush();
}

// x * scale + shift. Where a ReLU makes it 0, the gradient is 0: both ways must come to the same sign.
template <class V>
INLINE V normed(V x, V scale, V shift) {
  return x * scale + shift;
}

// Calls visit(channel, Number<LANES>, row, place in a row) for all of the thread's part.
template <class Visit>
INLINE void each_place(const Plane& plane, Visit visit) {
  each_position(plane, [&](int64_t row, int64_t at) {
    each_channel(plane, [&](int channel, auto lanes, int64_t place) { visit(channel, lanes, row, at + place); });
  });
}

template <class T, class V>
INLINE void put(bool streams, T* to, V value) {
  if (streams) stream(to, value); else store(to, value);
}

// out = x * scale + shift, plus a residual if there is a sum, and 0 where that is negative if there is a ReLU.
template <class T, Behind BEHIND>
void norm_apply(const Plane& plane, const T* x, int64_t row_step, const T* scales, const T* shifts, const T* residual,
                int64_t residual_step, T* out) {
  const int64_t row_length = static_cast<int64_t>(plane.width) * plane.channels * plane.samples;
  const bool streams = plane.streams;
  each_place(plane, [&](int channel, auto lanes, int64_t row, int64_t place) {
    using L = Lanes<T, decltype(lanes)::value>;
    using V = typename L::V;
    const V scale = splat<V>(scales[channel]), shift = splat<V>(shifts[channel]);
#pragma GCC unroll 8
    for (int v = 0; v < L::count; v++) {
      const int64_t where = place + v * L::width;
      V value = normed(load<V>(x + row * row_step + where), scale, shift);
      if constexpr (BEHIND == Behind::kSumAndRelu) value += load<V>(residual + row * residual_step + where);
      if constexpr (BEHIND != Behind::kNothing) value = value < V{} ? V{} : value;  // what is not a number stays
      put(streams, out + row * row_length + where, value);
    }
  });
  if (streams) end_streams();
}

// What the gradient's kernels read, by row and channel.
template <class T>
struct NormGradient {
  const T* gradient;
  int64_t gradient_step;
  const T* x;
  int64_t row_step;
  const T *scales, *shifts;  // with a ReLU: its results are positive where x * scale + shift is
  const T* means;
  const T* result;  // with a sum and a ReLU: of them,
  int64_t result_step;
  T* passed;  // and the gradient before them, which the sums' kernel writes
};

// The gradient of what the norm gives, from that of what lies behind.
template <class T, Behind BEHIND, class V>
INLINE V before_relu(const NormGradient<T>& from, int channel, int64_t row, int64_t where, V x) {
  const V value = load<V>(from.gradient + row * from.gradient_step + where);
  if constexpr (BEHIND == Behind::kNothing) return value;
  if constexpr (BEHIND == Behind::kSumAndRelu)
    return load<V>(from.result + row * from.result_step + where) <= V{} ? V{} : value;
  return normed(x, splat<V>(from.scales[channel]), splat<V>(from.shifts[channel])) <= V{} ? V{} : value;
}

// sums[channel] += the gradient's sum, products[channel] += the sum of the gradient times x - mean.
template <class T, Behind BEHIND>
void norm_gradient_sums(const Plane& plane, const NormGradient<T>& from, double* sums, double* products) {
  const int64_t panel = static_cast<int64_t>(plane.channels) * plane.samples, row_length = plane.width * panel;
  const bool streams = plane.streams;
  ChannelSums<T> gathered(plane, sums, products);
  each_few_positions(plane, [&](int64_t row, int64_t at, int positions) {
    each_channel(plane, [&](int channel, auto lanes, int64_t place) {
      using L = Lanes<T, decltype(lanes)::value>;
      using V = typename L::V;
      const V mean = splat<V>(from.means[channel]);
      V total = {}, product = {};
      for (int p = 0; p < positions; p++)
#pragma GCC unroll 8
        for (int v = 0; v < L::count; v++) {
          const int64_t where = at + p * panel + place + v * L::width;
          const V x = load<V>(from.x + row * from.row_step + where);
          const V value = before_relu<T, BEHIND>(from, channel, row, where, x);
          if constexpr (BEHIND == Behind::kSumAndRelu) put(streams, from.passed + row * row_length + where, value);
          total += value;
          product += value * (x - mean);
        }
      gathered.add(channel, total, product);
    });
    gathered.end(positions);
  });
  gathered.flush();
  if (BEHIND == Behind::kSumAndRelu && streams) end_streams();
}

// x_gradient = gradient * by_gradient + (x - mean) * by_x + constant.
template <class T, Behind BEHIND>
void norm_gradient_apply(const Plane& plane, const NormGradient<T>& from, const T* by_gradient, const T* by_x, const T* constants,
                         T* x_gradient) {
  const int64_t row_length = static_cast<int64_t>(plane.width) * plane.channels * plane.samples;
  const bool streams = plane.streams;
  each_place(plane, [&](int channel, auto lanes, int64_t row, int64_t place) {
    using L = Lanes<T, decltype(lanes)::value>;
    using V = typename L::V;
    const V mean = splat<V>(from.means[channel]), constant = splat<V>(constants[channel]);
    const V first = splat<V>(by_gradient[channel]), second = splat<V>(by_x[channel]);
#pragma GCC unroll 8
    for (int v = 0; v < L::count; v++) {
      const int64_t where = place + v * L::width;
      const V x = load<V>(from.x + row * from.row_step + where);
      const V value = before_relu<T, BEHIND>(from, channel, row, where, x);
      put(streams, x_gradient + row * row_length + where, value * first + ((x - mean) * second + constant));
    }
  });
  if (streams) end_streams();
}
