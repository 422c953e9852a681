// Masks found, compared and applied, and the weighted mean under them: one pass over the
// elements of every ingredient. kernel/reference.rs is the definition.

#include "double.cuh"

// Divides sums by the sum of the weights. Those that no bit of `mask` retains mean nothing
// before or after; most are zeros, for which a division takes its long way.
__device__ __forceinline__ void divide_group(double *sums, u32 mask, const Weights &weights) {
    if (weights.reciprocal != 0.0) {
#pragma unroll
        for (u32 j = 0; j < GROUP; j++) {
            sums[j] = __dmul_rn(sums[j], weights.reciprocal);
        }
        return;
    }
#pragma unroll
    for (u32 j = 0; j < GROUP; j++) {
        double sum = mask >> j & 1 ? sums[j] : weights.divisor;
        sums[j] = __ddiv_rn(sum, weights.divisor);
    }
}

// One row of blocks per tile; a thread takes groups of 8 elements, which are one byte of
// a mask.
extern "C" __global__ void __launch_bounds__(256)
    combine(const Tile *tiles, u64 n_tiles, const Weights *all_weights) {
    const Weights weights = *all_weights;
    const double *coefficients = (const double *)weights.values;
    for (u64 t = blockIdx.y; t < n_tiles; t += gridDim.y) {
        const Tile tile = tiles[t];
        if (tile.kind & KIND_EXACT) {
            continue;
        }
        const Operand *operands = (const Operand *)tile.operands;
        u64 n_groups = groups_of(tile);
        u64 disputed = 0;
        Found found = {0, 0};
        for (u64 group = (u64)blockIdx.x * blockDim.x + threadIdx.x; group < n_groups;
             group += (u64)gridDim.x * blockDim.x) {
            u32 count = count_of(tile, group);
            u32 mask = (1u << count) - 1;
            u32 first = 0;
            u32 differing = 0;
            double sums[GROUP];
            for (u64 i = 0; i < weights.n_ingredients; i++) {
                u32 dtype = (u32)operands[i].dtype;
                const u8 *from =
                    (const u8 *)operands[i].address + group * GROUP * width_of(dtype);
                double weight = coefficients[i];
                double values[GROUP];
                u32 nonzero = widen_any(values, dtype, from, count);
                if (i == 0) {
                    first = nonzero;
#pragma unroll
                    for (u32 j = 0; j < GROUP; j++) {
                        sums[j] = __dmul_rn(weight, values[j]);
                    }
                } else {
                    differing |= nonzero ^ first;
#pragma unroll
                    for (u32 j = 0; j < GROUP; j++) {
                        sums[j] = __dadd_rn(sums[j], __dmul_rn(weight, values[j]));
                    }
                }
            }
            if (tile.kind & KIND_FIND_MASK) {
                mask = first;
                ((u8 *)tile.mask)[group] = (u8)mask;
                disputed += __popc(differing);
            } else if (tile.kind & KIND_HAS_MASK) {
                mask &= ((const u8 *)tile.mask)[group];
            }
            if (tile.kind & KIND_WRITES) {
                divide_group(sums, mask, weights);
                u8 *to = (u8 *)tile.out + group * GROUP * width_of(tile.out_dtype);
                narrow_any(to, tile.out_dtype, sums, count, mask, found);
            }
        }
        add_counts((Counts *)tile.counts, found.zeros, found.non_finite, disputed, 0);
    }
}

// The same where an ingredient or the soup is F64: the mean is exact before it is
// rounded, one element after the other. Three blocks to a multiprocessor: with more, registers are spilled on sm_90.
extern "C" __global__ void __launch_bounds__(256, 3)
    combine_exact(const Tile *tiles, u64 n_tiles, const Weights *all_weights) {
    const Weights weights = *all_weights;
    for (u64 t = blockIdx.y; t < n_tiles; t += gridDim.y) {
        const Tile tile = tiles[t];
        if (!(tile.kind & KIND_EXACT)) {
            continue;
        }
        const Operand *operands = (const Operand *)tile.operands;
        u64 n_groups = groups_of(tile);
        u64 disputed = 0;
        u64 n_unsettled = 0;
        Found found = {0, 0};
        for (u64 group = (u64)blockIdx.x * blockDim.x + threadIdx.x; group < n_groups;
             group += (u64)gridDim.x * blockDim.x) {
            u32 count = count_of(tile, group);
            u32 mask = (1u << count) - 1;
            if (tile.kind & KIND_FIND_MASK) {
                u32 differing = 0;
                for (u64 i = 0; i < weights.n_ingredients; i++) {
                    u32 dtype = (u32)operands[i].dtype;
                    const u8 *from =
                        (const u8 *)operands[i].address + group * GROUP * width_of(dtype);
                    double values[GROUP];
                    u32 nonzero = widen_any(values, dtype, from, count);
                    mask = i == 0 ? nonzero : mask;
                    differing |= nonzero ^ mask;
                }
                ((u8 *)tile.mask)[group] = (u8)mask;
                disputed += __popc(differing);
            } else if (tile.kind & KIND_HAS_MASK) {
                mask &= ((const u8 *)tile.mask)[group];
            }
            if (!(tile.kind & KIND_WRITES)) {
                continue;
            }
#pragma unroll 1
            for (u32 j = 0; j < count; j++) {
                bool is_retained = mask >> j & 1;
                bool unsettled = false;
                double mean = 0.0;
                if (is_retained) {
                    mean = exact_mean(operands, group * GROUP + j, weights, (u32)tile.out_dtype,
                                      unsettled);
                    n_unsettled += unsettled ? 1 : 0;
                }
                narrow_at((u8 *)tile.out, tile.out_dtype, group * GROUP + j, mean, is_retained,
                          found);
            }
        }
        add_counts((Counts *)tile.counts, found.zeros, found.non_finite, disputed, n_unsettled);
    }
}
