// What the kernels take from CUDA, for the processor. Blocks run one after the other, and
// so do the threads of a block, each up to the next barrier. Compile with
// -ffp-contract=off.

#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Dim {
    unsigned x, y;
};

inline Dim threadIdx, blockIdx, blockDim, gridDim;

// Goes on with another thread until all of the block are here.
void __syncthreads();

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __double2float_rn(double value) { return (float)value; }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned long long atomicAdd(unsigned long long *to, unsigned long long value) {
    unsigned long long before = *to;
    *to += value;
    return before;
}

using std::fabs;
