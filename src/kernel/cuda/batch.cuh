// What a batch says to the kernels: laid out by kernel/cuda/batch.rs. All addresses are
// the device's.

#pragma once

#include "element.cuh"

// Elements over which the lanes of an inner product are summed: kernel::PIECE.
constexpr u32 PIECE = 2048;

// What is to be done with a tile.
enum Kind : u32 {
    // The mask is read from zeros, and those of all ingredients are compared.
    KIND_FIND_MASK = 1,
    // The mask is given.
    KIND_HAS_MASK = 2,
    // There is an output.
    KIND_WRITES = 4,
    // The mean is exact before it is rounded.
    KIND_EXACT = 8,
};

struct Tile {
    u64 n_elements;
    // Operand[n_ingredients].
    u64 operands;
    // Bytes of a bit per element, whole words of 64: read or written.
    u64 mask;
    u64 out;
    // Counts.
    u64 counts;
    // double[n_pairs], or 0.
    u64 gram;
    // Index of the first of its pieces.
    u32 first_piece;
    u32 out_dtype;
    u32 kind;
    u32 padding;
};

struct Operand {
    u64 address;
    u64 dtype;
};

struct Piece {
    u32 tile;
    u32 index;
};

struct Counts {
    u64 retained_zeros;
    u64 non_finite;
    // Coordinates that not all ingredients retain.
    u64 disputed;
    // Coordinates whose exact mean needs more than double-double numbers.
    u64 unsettled;
};

// The coefficients of a combination.
struct Weights {
    // The sum that divides.
    double divisor;
    // What multiplying by gives the bits of dividing: 1 / divisor if that is a power of two.
    // Otherwise 0.
    double reciprocal;
    // The same in double-double, and by how much its error grows: kernel/double.rs.
    double wide_high;
    double wide_low;
    double growth;
    u64 is_power_of_two;
    u64 n_ingredients;
    // double[n_ingredients].
    u64 values;
};

// Which elements of a group a tile has, and where its groups end.
__device__ __forceinline__ u32 count_of(const Tile &tile, u64 group) {
    u64 begin = group * GROUP;
    if (begin >= tile.n_elements) {
        return 0;
    }
    u64 rest = tile.n_elements - begin;
    return rest < GROUP ? (u32)rest : GROUP;
}

__device__ __forceinline__ u64 groups_of(const Tile &tile) {
    if (tile.kind & KIND_FIND_MASK) {
        // Whole words of the mask are written.
        return (tile.n_elements + 63) / 64 * 8;
    }
    return (tile.n_elements + GROUP - 1) / GROUP;
}

__device__ __forceinline__ void add_counts(Counts *counts, u64 zeros, u64 non_finite, u64 disputed,
                                           u64 unsettled) {
    if (zeros) {
        atomicAdd(&counts->retained_zeros, zeros);
    }
    if (non_finite) {
        atomicAdd(&counts->non_finite, non_finite);
    }
    if (disputed) {
        atomicAdd(&counts->disputed, disputed);
    }
    if (unsettled) {
        atomicAdd(&counts->unsettled, unsettled);
    }
}
