// Inner products of all pairs of ingredients over retained coordinates, in the order of
// kernel/gram.rs: within a piece the r-th retained coordinate adds to lane r % 8, lanes
// are added in a fixed tree, and pieces one after the other.

#include "batch.cuh"

constexpr u32 THREADS = 256;
constexpr u32 LANES = 8;
// Ingredients along a side of a square of pairs that a block takes.
constexpr u32 SIDE = 16;
// Pairs of a thread: ROWS times COLUMNS of a square.
constexpr u32 ROWS = 2;
constexpr u32 COLUMNS = 4;
// Retained values of an ingredient that are held at once.
constexpr u32 CHUNK = 128;
// Padded, so that columns of a warp lie in different banks.
constexpr u32 STRIDE = CHUNK + LANES;

static_assert(SIDE / ROWS * (SIDE / COLUMNS) * LANES == THREADS, "a thread per pairs and lane");
static_assert(SIDE * SIDE == THREADS, "a thread per pair when lanes are added");
static_assert(PIECE / GROUP == THREADS, "a thread per byte of a mask");

// Lists the retained coordinates of a piece, and returns their number.
__device__ __forceinline__ u32 list_positions(u16 *positions, u32 *ends, const Tile &tile,
                                              u32 piece) {
    u32 thread = threadIdx.x;
    u64 group = (u64)piece * (PIECE / GROUP) + thread;
    u32 mask = (1u << count_of(tile, group)) - 1;
    if (mask != 0 && (tile.kind & (KIND_FIND_MASK | KIND_HAS_MASK))) {
        mask &= ((const u8 *)tile.mask)[group];
    }
    u32 own = __popc(mask);
    ends[thread] = own;
    __syncthreads();
    for (u32 step = 1; step < THREADS; step *= 2) {
        u32 before = thread >= step ? ends[thread - step] : 0;
        __syncthreads();
        ends[thread] += before;
        __syncthreads();
    }
    u32 at = ends[thread] - own;
    for (u32 j = 0; j < GROUP; j++) {
        if (mask >> j & 1) {
            positions[at] = (u16)(thread * GROUP + j);
            at++;
        }
    }
    __syncthreads();
    return ends[THREADS - 1];
}

// Products of the pairs of a square, one row of blocks per piece. `products` takes
// n_pairs per piece, pair (i, k), k <= i, at i (i + 1) / 2 + k.
extern "C" __global__ void __launch_bounds__(THREADS)
    gram_pieces(const Tile *tiles, const Piece *pieces, u64 n_pieces, u64 n_ingredients,
                double *products) {
    // First the values of two sides, then the lanes of every pair.
    __shared__ double values[2 * SIDE * STRIDE];
    __shared__ u16 positions[PIECE];
    __shared__ u32 ends[THREADS];
    u32 thread = threadIdx.x;
    // Squares on and below the diagonal, row by row.
    u32 high = 0;
    u32 low = blockIdx.x;
    while (low > high) {
        high++;
        low -= high;
    }
    u32 lane = thread % LANES;
    u32 row = thread / LANES / (SIDE / COLUMNS);
    u32 column = thread / LANES % (SIDE / COLUMNS);
    bool has_pairs = high * SIDE + row < n_ingredients && low * SIDE + column < n_ingredients;
    u64 n_pairs = n_ingredients * (n_ingredients + 1) / 2;
    for (u64 p = blockIdx.y; p < n_pieces; p += gridDim.y) {
        const Piece piece = pieces[p];
        const Tile tile = tiles[piece.tile];
        const Operand *operands = (const Operand *)tile.operands;
        u32 n_retained = list_positions(positions, ends, tile, piece.index);
        double lanes[ROWS][COLUMNS];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++) {
                lanes[r][c] = 0.0;
            }
        }
        u32 n_sides = high == low ? 1 : 2;
        for (u32 begin = 0; begin < n_retained; begin += CHUNK) {
            for (u32 slot = thread; slot < n_sides * SIDE * CHUNK; slot += THREADS) {
                u32 side = slot / CHUNK;
                u32 rank = begin + slot % CHUNK;
                u32 ingredient = side < SIDE ? high * SIDE + side : low * SIDE + side - SIDE;
                // A zero past the end leaves a sum as it is.
                double value = 0.0;
                if (rank < n_retained && ingredient < n_ingredients) {
                    u64 index = (u64)piece.index * PIECE + positions[rank];
                    value = widen_at((u32)operands[ingredient].dtype,
                                     (const u8 *)operands[ingredient].address, index);
                }
                values[side * STRIDE + slot % CHUNK] = value;
            }
            __syncthreads();
            if (has_pairs) {
                u32 n_steps = (min(CHUNK, n_retained - begin) + LANES - 1) / LANES;
                const double *of_rows = values + row * STRIDE + lane;
                const double *of_columns =
                    values + ((n_sides - 1) * SIDE + column) * STRIDE + lane;
                for (u32 step = 0; step < n_steps; step++) {
                    double a[ROWS], b[COLUMNS];
#pragma unroll
                    for (u32 r = 0; r < ROWS; r++) {
                        a[r] = of_rows[r * (SIDE / ROWS) * STRIDE + step * LANES];
                    }
#pragma unroll
                    for (u32 c = 0; c < COLUMNS; c++) {
                        b[c] = of_columns[c * (SIDE / COLUMNS) * STRIDE + step * LANES];
                    }
#pragma unroll
                    for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
                        for (u32 c = 0; c < COLUMNS; c++) {
                            lanes[r][c] = __dadd_rn(lanes[r][c], __dmul_rn(a[r], b[c]));
                        }
                    }
                }
            }
            __syncthreads();
        }
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++) {
                u32 pair = (row + r * (SIDE / ROWS)) * SIDE + column + c * (SIDE / COLUMNS);
                values[pair * LANES + lane] = lanes[r][c];
            }
        }
        __syncthreads();
        u32 i = high * SIDE + thread / SIDE;
        u32 k = low * SIDE + thread % SIDE;
        if (i < n_ingredients && k <= i) {
            const double *l = values + thread * LANES;
            double even = __dadd_rn(__dadd_rn(l[0], l[4]), __dadd_rn(l[2], l[6]));
            double odd = __dadd_rn(__dadd_rn(l[1], l[5]), __dadd_rn(l[3], l[7]));
            products[p * n_pairs + (u64)i * (i + 1) / 2 + k] = __dadd_rn(even, odd);
        }
        __syncthreads();
    }
}

// Adds the products of the pieces of every tile, one row of blocks per tile.
extern "C" __global__ void __launch_bounds__(THREADS)
    gram_tiles(const Tile *tiles, u64 n_tiles, u64 n_ingredients, const double *products) {
    u64 n_pairs = n_ingredients * (n_ingredients + 1) / 2;
    for (u64 t = blockIdx.y; t < n_tiles; t += gridDim.y) {
        const Tile tile = tiles[t];
        if (tile.gram == 0) {
            continue;
        }
        u64 n_pieces = (tile.n_elements + PIECE - 1) / PIECE;
        for (u64 pair = (u64)blockIdx.x * blockDim.x + threadIdx.x; pair < n_pairs;
             pair += (u64)gridDim.x * blockDim.x) {
            double sum = 0.0;
            for (u64 p = 0; p < n_pieces; p++) {
                sum = __dadd_rn(sum, products[(tile.first_piece + p) * n_pairs + pair]);
            }
            ((double *)tile.gram)[pair] = sum;
        }
    }
}
