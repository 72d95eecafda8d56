// Index structures from the bits of a mask, by counting sorts.
#pragma once
#include <cstdint>

// The entries of a matrix from its bits (entry i is bit i % 8 of byte i / 8): start[rows + 1] and each entry's column.
INLINE void index_rows(const uint8_t* bits, int32_t rows, int32_t columns, int32_t* start, int32_t* column) {
  int32_t count = 0;
  for (int64_t row = 0; row < rows; row++) {
    start[row] = count;
    const int64_t begin = row * columns, end = begin + columns;
    for (int64_t at = begin; at < end;) {
      const int64_t stop = (at / 8 + 1) * 8 < end ? (at / 8 + 1) * 8 : end;
      unsigned byte = bits[at / 8] >> (at % 8);
      byte &= (1u << (stop - at)) - 1;
      for (; byte; byte &= byte - 1) column[count++] = static_cast<int32_t>(at - begin) + __builtin_ctz(byte);
      at = stop;
    }
  }
  start[rows] = count;
}

// The same entries by another key, which depends on the column: start[keys + 1], and each entry's number and row before.
INLINE void index_transposed(const int32_t* start, const int32_t* column, int32_t rows, const int32_t* key_of_column, int32_t keys,
                             int32_t* key_start, int32_t* entry, int32_t* row_of_entry) {
  for (int32_t key = 0; key <= keys; key++) key_start[key] = 0;
  for (int32_t at = 0; at < start[rows]; at++) key_start[key_of_column[column[at]] + 1]++;
  for (int32_t key = 0; key < keys; key++) key_start[key + 1] += key_start[key];
  for (int32_t row = 0; row < rows; row++)
    for (int32_t at = start[row]; at < start[row + 1]; at++) {
      const int32_t place = key_start[key_of_column[column[at]]]++;
      entry[place] = at;
      row_of_entry[place] = row;
    }
  for (int32_t key = keys; key > 0; key--) key_start[key] = key_start[key - 1];
  key_start[0] = 0;
}
