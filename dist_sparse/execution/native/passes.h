// What the kernels share: the shape of a pass over the positions of an image, and how its samples are taken in vectors.
//
// A tensor of C channels lies in memory as [height][width][channel][sample], a linear layer's as [1][tokens][channel][sample].
// So a weight is one value and one offset, the same at every position and for every kernel size, stride and dilation; zero
// padding lies in the buffers.
#pragma once
#include "vectors.h"

// The positions that a pass visits: in strips of up to `positions` neighbours in a row. Steps and offsets count elements.
struct Pass {
  int64_t in_row, in_step;
  int64_t out_row, out_step;
  int32_t height, width;
  int32_t positions;
  int32_t samples;                     // of the whole tensor: the distance between channels
  int32_t first_sample, last_sample;   // those to compute,
  int64_t first_strip, last_strip;     // in these of the strips, counted over all rows of the image
  int32_t streams;                     // results go past the caches
  int64_t zeroed;                      // spread_groups: the elements of a position's panel to make 0 first
  int32_t shared_rows;                 // spread_groups: behind any row of the image, as many write to some of what it writes to
  int32_t reach_rows;                  // what the next strip reads and this one does not: rows of the image,
  int64_t reach_row;                   // the bytes from one to the next,
  int64_t reach_start, reach_bytes;    // and in each where it begins, from this strip's position, and how long it is
};

INLINE int64_t strips_in_row(const Pass& pass) { return (pass.width + pass.positions - 1) / pass.positions; }

// Calls visit(row of the image, first position, number of positions) for each strip.
template <class Visit>
INLINE void each_strip(const Pass& pass, Visit visit) {
  const int64_t in_row = strips_in_row(pass);
  for (int64_t strip = pass.first_strip; strip < pass.last_strip; strip++) {
    const int64_t row = strip / in_row, start = (strip % in_row) * pass.positions;
    visit(row, start, static_cast<int>(pass.width - start < pass.positions ? pass.width - start : pass.positions));
  }
}

// Calls visit(Number<LANES>, first sample) for groups of samples: as many of the widest as there are, then narrower ones.
template <int LANES>
struct Number {
  static constexpr int value = LANES;
};
template <int LANES, class Visit>
INLINE int samples_by(const Pass& pass, int sample, Visit visit) {
  for (; sample + LANES <= pass.last_sample; sample += LANES) visit(Number<LANES>(), sample);
  return sample;
}
template <class Visit>
INLINE void each_group_of_samples(const Pass& pass, Visit visit) {
  int sample = samples_by<32>(pass, pass.first_sample, visit);
  sample = samples_by<16>(pass, sample, visit);
  sample = samples_by<8>(pass, sample, visit);
  sample = samples_by<4>(pass, sample, visit);
  sample = samples_by<2>(pass, sample, visit);
  samples_by<1>(pass, sample, visit);
}

// Asks for what the next strip needs, spread over the rows of the matrix, so that it is in the second cache by then.
class Ahead {
 public:
  Ahead() = default;

  // `rows` pieces of `bytes`, each `step` bytes behind the one before, shared out among `shares` calls.
  Ahead(const void* first, int64_t rows, int64_t step, int64_t bytes, int shares)
      : at_(static_cast<const char*>(first)),
        lines_((bytes + 63) / 64),
        gap_(step - lines_ * 64),
        in_line_(lines_),
        left_(lines_ * rows),
        share_((left_ + shares - 1) / (shares > 0 ? shares : 1)) {}

  inline __attribute__((always_inline)) void fetch_share() {
    for (int64_t line = 0; line < share_ && left_ > 0; line++, left_--) {
      __builtin_prefetch(at_, 0, 2);
      at_ += 64;
      if (--in_line_ == 0) {
        in_line_ = lines_;
        at_ += gap_;
      }
    }
  }

 private:
  const char* at_ = nullptr;
  int64_t lines_ = 0, gap_ = 0, in_line_ = 0, left_ = 0, share_ = 0;
};

// What the strip behind this one reads of a pass's input.
template <class T>
INLINE Ahead input_ahead(const Pass& pass, const T* strip, int shares) {
  return Ahead(reinterpret_cast<const char*>(strip) + pass.reach_start, pass.reach_rows, pass.reach_row, pass.reach_bytes, shares);
}

// As many positions again of what lies without gaps.
template <class T>
INLINE Ahead positions_ahead(const T* strip, int64_t positions, int64_t step, int shares) {
  return Ahead(strip + positions * step, 1, 0, positions * step * static_cast<int64_t>(sizeof(T)), shares);
}
