// Index structures from masks, by counting and hashing.
#pragma once
#include <cstdint>
#include <cstring>

// A matrix whose entries are indexed: by rows that are cut into blocks, of `block` columns, or by keys whose blocks are of
// `block` rows.
struct Matrix {
  int32_t rows, columns;
  int32_t block;
  int32_t narrow;  // offsets are uint16, else int32
};

// Up to eight bytes, the first of them the lowest.
INLINE uint64_t word_at(const uint8_t* from, int32_t left) {
  uint64_t word = 0;
  if (left >= 8) memcpy(&word, from, 8); else memcpy(&word, from, left);
  return word;
}

INLINE int32_t blocks_of(int32_t count, int32_t block) { return (count + block - 1) / block; }

// The entries of a matrix from its bits (entry i is bit i % 8 of byte i / 8): start[rows * blocks + 1], and of each entry its
// place in the flattened matrix and its column's offset.
template <class Offset>
void index_rows(const uint8_t* bits, const Matrix& matrix, const int32_t* offset_of_column, int32_t* start, int32_t* position,
                Offset* offset) {
  int32_t count = 0;
  for (int64_t row = 0; row < matrix.rows; row++) {
    const int64_t row_begin = row * matrix.columns, row_end = row_begin + matrix.columns;
    for (int64_t begin = row_begin; begin < row_end; begin += matrix.block) {
      *start++ = count;
      const int64_t end = begin + matrix.block < row_end ? begin + matrix.block : row_end;
      for (int64_t at = begin; at < end;) {
        const int64_t in_byte = at % 8, left = end - at + in_byte;  // bits from the byte's first to the block's last
        const int64_t read = left < 64 ? left : 64;
        uint64_t word = word_at(bits + at / 8, static_cast<int32_t>((read + 7) / 8));
        if (read < 64) word &= (uint64_t{1} << read) - 1;
        word = word >> in_byte << in_byte;
        for (; word; word &= word - 1) {
          const int64_t place = at - in_byte + __builtin_ctzll(word);
          position[count] = static_cast<int32_t>(place);
          offset[count++] = static_cast<Offset>(offset_of_column[place - row_begin]);
        }
        at += read - in_byte;
      }
    }
  }
  *start = count;
}

// The same entries by another key, which depends on the column, and by row: start[keys * blocks + 1], each entry's number
// before, and its column's offset plus its row.
template <class Offset>
void index_by_key(const int32_t* position, int32_t entries, const Matrix& matrix, const int32_t* key_of_column, int32_t keys,
                  const int32_t* offset_of_column, int32_t* start, int32_t* entry, Offset* offset) {
  const int32_t blocks = blocks_of(matrix.rows, matrix.block), lists = keys * blocks;
  const auto each = [&](auto visit) {
    int32_t at = 0;
    for (int32_t row = 0; row < matrix.rows; row++) {
      const int64_t begin = static_cast<int64_t>(row) * matrix.columns, end = begin + matrix.columns;
      for (const int32_t block = row / matrix.block; at < entries && position[at] < end; at++) {
        const int64_t column = position[at] - begin;
        visit(at, row, column, key_of_column[column] * blocks + block);
      }
    }
  };
  memset(start, 0, (lists + 1) * sizeof(int32_t));
  each([&](int32_t, int32_t, int64_t, int32_t list) { start[list + 1]++; });
  for (int32_t list = 0; list < lists; list++) start[list + 1] += start[list];
  each([&](int32_t at, int32_t row, int64_t column, int32_t list) {
    const int32_t place = start[list]++;
    entry[place] = at;
    offset[place] = static_cast<Offset>(offset_of_column[column] + row);
  });
  memmove(start + 1, start, lists * sizeof(int32_t));
  start[0] = 0;
}

// A number for each row of a mask of bytes, the same for equal rows; returns the number of active entries.
INLINE int64_t hash_rows(const uint8_t* mask, int32_t rows, int32_t columns, int64_t* hashes) {
  int64_t active = 0;
  for (int64_t row = 0; row < rows; row++) {
    const uint8_t* from = mask + row * columns;
    uint64_t hash = 0;
    for (int32_t at = 0; at < columns; at += 8) {
      const uint64_t word = word_at(from + at, columns - at);
      active += __builtin_popcountll(word);
      hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 32;
    }
    hashes[row] = static_cast<int64_t>(hash);
  }
  return active;
}

// The columns in which any of a group's four rows is active: start[groups + 1], and returns their number.
INLINE int32_t union_columns(const uint8_t* mask, const int32_t* rows, int32_t groups, int32_t columns, int32_t* start,
                             int32_t* column) {
  int32_t count = 0;
  for (int32_t group = 0; group < groups; group++, rows += 4) {
    start[group] = count;
    const uint8_t* from[4];
    for (int member = 0; member < 4; member++) from[member] = mask + static_cast<int64_t>(rows[member]) * columns;
    for (int32_t at = 0; at < columns; at += 8) {
      uint64_t any = 0;
      for (const uint8_t* row : from) any |= word_at(row + at, columns - at);
      for (int32_t byte = 0; any; byte++, any >>= 8) {
        column[count] = at + byte;
        count += static_cast<int32_t>(any & 1);
      }
    }
  }
  start[groups] = count;
  return count;
}
