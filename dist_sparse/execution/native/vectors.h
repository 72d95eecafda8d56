// Vectors of the compiler's own (GCC, Clang): AVX-512, AVX2 and NEON come from one text.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRegisters = 16;
#else
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 32;
#endif

template <class T, int WIDTH>
struct Vector {
  typedef T Type __attribute__((vector_size(WIDTH * sizeof(T))));
};
template <class T>
struct Vector<T, 1> {
  typedef T Type;
};

// LANES samples at once: `count` vectors of `width` samples.
template <class T, int LANES>
struct Lanes {
  static constexpr int kNative = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int width = LANES < kNative ? LANES : kNative;
  static constexpr int count = LANES / width;
  typedef typename Vector<T, width>::Type V;
};

template <class V, class T>
INLINE V load(const T* from) {
  V value;
  memcpy(&value, from, sizeof(V));
  return value;
}

template <class V, class T>
INLINE void store(T* to, V value) {
  memcpy(to, &value, sizeof(V));
}

template <class V, class T>
INLINE V splat(T value) {
  return value - V{};  // x - 0 is x, also where x is -0 or not a number
}

// Keeps an address as it is computed: a product with memory at one register's address is one operation of the processor, at a sum
// of two it is two.
template <class T>
INLINE const T* in_register(const T* address) {
  asm("" : "+r"(address));
  return address;
}

// Keeps what was loaded for several products: a compiler would rather load it anew for each.
template <class V>
INLINE V loaded_once(V value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) asm("" : "+v"(value));
#endif
  return value;
}

// POSITIONS neighbours of the lanes' samples, in registers; `step` numbers lie between neighbours.
template <class T, int LANES, int POSITIONS>
struct Block {
  using L = Lanes<T, LANES>;
  using V = typename L::V;
  V at[POSITIONS][L::count] = {};

  template <class Act>
  inline __attribute__((always_inline)) void each(Act act) {
#pragma GCC unroll 8
    for (int p = 0; p < POSITIONS; p++)
#pragma GCC unroll 4
      for (int v = 0; v < L::count; v++) act(at[p][v], p, v * L::width);
  }

  inline __attribute__((always_inline)) void load_from(const T* from, int64_t step) {
    each([&](V& value, int p, int sample) __attribute__((always_inline)) { value = load<V>(from + p * step + sample); });
  }

  inline __attribute__((always_inline)) void add_product(V factor, const T* from, int64_t step) {
#pragma GCC unroll 8
    for (int p = 0; p < POSITIONS; p++) {
      from = in_register(p == 0 ? from : from + step);
#pragma GCC unroll 4
      for (int v = 0; v < L::count; v++) at[p][v] += factor * load<V>(from + v * L::width);
    }
  }

  inline __attribute__((always_inline)) void add_product(V factor, Block& other) {
    each([&](V& value, int p, int sample) __attribute__((always_inline)) { value += factor * other.at[p][sample / L::width]; });
  }

  // The sum of the products with as many vectors in memory.
  inline __attribute__((always_inline)) V product(const T* from, int64_t step) const {
    V total = {};
#pragma GCC unroll 8
    for (int p = 0; p < POSITIONS; p++) {
      from = in_register(p == 0 ? from : from + step);
#pragma GCC unroll 4
      for (int v = 0; v < L::count; v++) total += at[p][v] * load<V>(from + v * L::width);
    }
    return total;
  }

  inline __attribute__((always_inline)) void add(Block& other) {
    each([&](V& value, int p, int sample) __attribute__((always_inline)) { value += other.at[p][sample / L::width]; });
  }

  inline __attribute__((always_inline)) void store_to(T* to, int64_t step, bool streams);
};

// Past the caches, for what is not read again soon: whole vectors, at addresses that a vector's size divides.
template <class V, class T>
INLINE void stream(T* to, V value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i&>(value));
    return;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(V) == 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i&>(value));
    return;
  }
#endif
  store(to, value);
}

// To be called behind the last of them: other threads see what was written.
INLINE void end_streams() {
#if defined(__AVX512F__) || defined(__AVX2__)
  _mm_sfence();
#endif
}

template <class T, int LANES, int POSITIONS>
inline __attribute__((always_inline)) void Block<T, LANES, POSITIONS>::store_to(T* to, int64_t step, bool streams) {
  each([&](V& value, int p, int sample) __attribute__((always_inline)) {
    if (streams) stream(to + p * step + sample, value); else store(to + p * step + sample, value);
  });
}

template <class T, class V>
INLINE T sum(V value) {
  if constexpr (sizeof(V) == sizeof(T)) {
    return value;
  } else {
    T total = 0;
    for (unsigned lane = 0; lane < sizeof(V) / sizeof(T); lane++) total += value[lane];
    return total;
  }
}

// Adds the sums of four vectors to four neighbouring numbers.
template <class T, class V>
INLINE void add_sums(T* to, V a, V b, V c, V d) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(T) == 4) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 all = _mm512_add_ps(
        _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
        _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1))));
    return;
  }
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32 && sizeof(T) == 4) {
    __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1))));
    return;
  }
#endif
  to[0] += sum<T>(a);
  to[1] += sum<T>(b);
  to[2] += sum<T>(c);
  to[3] += sum<T>(d);
}

#if defined(__AVX512F__)
// In each quarter of the result, the sums of four vectors' quarters.
INLINE __m512 sums_of_quarters(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
}

// The quarters of two vectors added in pairs: of the first in the lower half, of the second in the upper one.
INLINE __m512 sums_of_pairs(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
#endif

// Adds the sums of four times four vectors to 16 neighbouring numbers.
template <class T, class V>
INLINE void add_sixteen_sums(T* to, const V (&a)[4], const V (&b)[4], const V (&c)[4], const V (&d)[4]) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(T) == 4) {
    const __m512 ab = sums_of_pairs(sums_of_quarters(a[0], a[1], a[2], a[3]), sums_of_quarters(b[0], b[1], b[2], b[3]));
    const __m512 cd = sums_of_pairs(sums_of_quarters(c[0], c[1], c[2], c[3]), sums_of_quarters(d[0], d[1], d[2], d[3]));
    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sums_of_pairs(ab, cd)));
    return;
  }
#endif
  add_sums(to, a[0], a[1], a[2], a[3]);
  add_sums(to + 4, b[0], b[1], b[2], b[3]);
  add_sums(to + 8, c[0], c[1], c[2], c[3]);
  add_sums(to + 12, d[0], d[1], d[2], d[3]);
}
