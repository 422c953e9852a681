// Stored elements: widened to double, and rounded once back. Step by step what
// kernel/float.rs does, so that the bits are the same.

#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Elements that a thread takes at once: one byte of a mask.
constexpr u32 GROUP = 8;

// The largest finite double.
constexpr double LARGEST = 0x1.fffffffffffffp+1023;

// Bits of a stored element of `WIDTH` bytes.
template <u32 WIDTH> struct Bits;
template <> struct Bits<2> { typedef u16 Type; };
template <> struct Bits<4> { typedef u32 Type; };
template <> struct Bits<8> { typedef u64 Type; };

// Rounded to odd: truncated, and the last bit set if that was inexact.
__device__ __forceinline__ u32 to_float_odd(double value) {
    float nearest = __double2float_rn(value);
    double back = nearest;
    u32 past = fabs(back) > fabs(value) ? 1 : 0;
    u32 inexact = (back < value || back > value) ? 1 : 0;
    return (__float_as_uint(nearest) - past) | inexact;
}

struct F16 {
    static constexpr u32 WIDTH = 2;
    static __device__ __forceinline__ double widen(u16 bits) {
        u32 magnitude = bits & 0x7fffu;
        u32 sign = u32(bits & 0x8000u) << 16;
        // Shifted into place the exponent is 112 too small; the product is exact.
        float scaled = __fmul_rn(__uint_as_float(magnitude << 13),
                                 __uint_as_float((112u + 127u) << 23));
        u32 special = 0x7f800000u | (magnitude << 13);
        u32 value = magnitude >= 0x7c00u ? special : __float_as_uint(scaled);
        return __uint_as_float(value | sign);
    }
    static __device__ __forceinline__ u16 narrow(double value) {
        u32 bits = to_float_odd(value);
        u32 sign = (bits >> 16) & 0x8000u;
        u32 magnitude = bits & 0x7fffffffu;
        u32 normal = (magnitude - (112u << 23) + (0xfffu + ((magnitude >> 13) & 1u))) >> 13;
        // Adding 0.5 puts the last place of a half at the last place of the float.
        float shifted = __fadd_rn(__uint_as_float(magnitude), 0.5f);
        u32 subnormal = __float_as_uint(shifted) - 0x3f000000u;
        u32 finite = magnitude < (113u << 23) ? subnormal : normal;
        // 65520 is the tie between the largest half and the first one that is not.
        finite = magnitude >= 0x477ff000u ? 0x7c00u : finite;
        return u16(magnitude > 0x7f800000u ? 0x7e00u : (sign | (finite & 0x7fffu)));
    }
};

struct Bf16 {
    static constexpr u32 WIDTH = 2;
    static __device__ __forceinline__ double widen(u16 bits) {
        return __uint_as_float(u32(bits) << 16);
    }
    static __device__ __forceinline__ u16 narrow(double value) {
        u32 bits = to_float_odd(value);
        u32 rounded = (bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16;
        return u16((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
    }
};

struct F32 {
    static constexpr u32 WIDTH = 4;
    static __device__ __forceinline__ double widen(u32 bits) { return __uint_as_float(bits); }
    static __device__ __forceinline__ u32 narrow(double value) {
        return value != value ? 0x7fc00000u : __float_as_uint(__double2float_rn(value));
    }
};

struct F64 {
    static constexpr u32 WIDTH = 8;
    static __device__ __forceinline__ double widen(u64 bits) {
        return __longlong_as_double((long long)bits);
    }
    static __device__ __forceinline__ u64 narrow(double value) {
        return value != value ? 0x7ff8000000000000ull : (u64)__double_as_longlong(value);
    }
};

// Element types, numbered as kernel/cuda/batch.rs numbers them.
enum Dtype : u32 { DTYPE_F16, DTYPE_BF16, DTYPE_F32, DTYPE_F64 };

__device__ __forceinline__ u32 width_of(u32 dtype) {
    return dtype == DTYPE_F64 ? 8 : dtype == DTYPE_F32 ? 4 : 2;
}

// Element `j` of the words of a group.
template <class E>
__device__ __forceinline__ typename Bits<E::WIDTH>::Type pick(const u32 *words, u32 j) {
    if (E::WIDTH == 2) {
        return (typename Bits<E::WIDTH>::Type)(words[j / 2] >> (16 * (j % 2)));
    }
    if (E::WIDTH == 4) {
        return (typename Bits<E::WIDTH>::Type)words[j];
    }
    return (typename Bits<E::WIDTH>::Type)(words[2 * j % (2 * E::WIDTH)] |
                                           (u64)words[(2 * j + 1) % (2 * E::WIDTH)] << 32);
}

// Widens up to 8 elements, and tells by a bit each which are no zeros. What is past
// `count` is zero, and is not read.
template <class E>
__device__ __forceinline__ u32 widen_group(double *values, const u8 *from, u32 count) {
    constexpr u32 N_WORDS = GROUP * E::WIDTH / 4;
    u32 words[N_WORDS];
    if (count == GROUP && ((u64)from & 15) == 0) {
#pragma unroll
        for (u32 k = 0; k < N_WORDS; k += 4) {
            uint4 four = *(const uint4 *)(from + 4 * k);
            words[k] = four.x;
            words[k + 1] = four.y;
            words[k + 2] = four.z;
            words[k + 3] = four.w;
        }
    } else {
        u32 n_bytes = count * E::WIDTH;
#pragma unroll
        for (u32 k = 0; k < N_WORDS; k++) {
            words[k] = 0;
#pragma unroll
            for (u32 byte = 0; byte < 4; byte++) {
                if (4 * k + byte < n_bytes) {
                    words[k] |= (u32)from[4 * k + byte] << (8 * byte);
                }
            }
        }
    }
    constexpr u64 SIGN = 1ull << (8 * E::WIDTH - 1);
    u32 nonzero = 0;
#pragma unroll
    for (u32 j = 0; j < GROUP; j++) {
        typename Bits<E::WIDTH>::Type bits = pick<E>(words, j);
        nonzero |= (((u64)bits & (SIGN - 1)) != 0 ? 1u : 0u) << j;
        values[j] = E::widen(bits);
    }
    return nonzero;
}

__device__ __forceinline__ u32 widen_any(double *values, u32 dtype, const u8 *from, u32 count) {
    switch (dtype) {
    case DTYPE_F16:
        return widen_group<F16>(values, from, count);
    case DTYPE_BF16:
        return widen_group<Bf16>(values, from, count);
    case DTYPE_F32:
        return widen_group<F32>(values, from, count);
    default:
        return widen_group<F64>(values, from, count);
    }
}

template <class E> __device__ __forceinline__ double widen_one(const u8 *from) {
    u64 bits = 0;
#pragma unroll
    for (u32 byte = 0; byte < E::WIDTH; byte++) {
        bits |= (u64)from[byte] << (8 * byte);
    }
    return E::widen((typename Bits<E::WIDTH>::Type)bits);
}

// Element `index`, which may lie at any address.
__device__ __forceinline__ double widen_at(u32 dtype, const u8 *from, u64 index) {
    const u8 *at = from + index * width_of(dtype);
    bool is_aligned = ((u64)at & (width_of(dtype) - 1)) == 0;
    switch (dtype) {
    case DTYPE_F16:
        return is_aligned ? F16::widen(*(const u16 *)at) : widen_one<F16>(at);
    case DTYPE_BF16:
        return is_aligned ? Bf16::widen(*(const u16 *)at) : widen_one<Bf16>(at);
    case DTYPE_F32:
        return is_aligned ? F32::widen(*(const u32 *)at) : widen_one<F32>(at);
    default:
        return is_aligned ? F64::widen(*(const u64 *)at) : widen_one<F64>(at);
    }
}

// What was met among retained results.
struct Found {
    u32 zeros;
    u32 non_finite;
};

// Rounds and stores up to 8 elements; those without a bit in `mask` become +0.
template <class E>
__device__ __forceinline__ void narrow_group(u8 *to, const double *means, u32 count, u32 mask,
                                             Found &found) {
    constexpr u32 N_WORDS = GROUP * E::WIDTH / 4;
    u32 words[N_WORDS];
#pragma unroll
    for (u32 k = 0; k < N_WORDS; k++) {
        words[k] = 0;
    }
#pragma unroll
    for (u32 j = 0; j < GROUP; j++) {
        u32 is_retained = mask >> j & 1;
        typename Bits<E::WIDTH>::Type bits = E::narrow(means[j]);
        double stored = E::widen(bits);
        found.zeros += is_retained & (stored == 0.0 ? 1 : 0);
        // False for NaN too.
        found.non_finite += is_retained & (fabs(stored) <= LARGEST ? 0 : 1);
        bits = is_retained ? bits : 0;
        if (E::WIDTH == 2) {
            words[j / 2] |= (u32)bits << (16 * (j % 2));
        } else if (E::WIDTH == 4) {
            words[j] = (u32)bits;
        } else {
            words[2 * j % N_WORDS] = (u32)bits;
            words[(2 * j + 1) % N_WORDS] = (u32)((u64)bits >> 32);
        }
    }
    if (count == GROUP && ((u64)to & 15) == 0) {
#pragma unroll
        for (u32 k = 0; k < N_WORDS; k += 4) {
            *(uint4 *)(to + 4 * k) =
                make_uint4(words[k], words[k + 1], words[k + 2], words[k + 3]);
        }
    } else {
        u32 n_bytes = count * E::WIDTH;
#pragma unroll
        for (u32 k = 0; k < N_WORDS; k++) {
#pragma unroll
            for (u32 byte = 0; byte < 4; byte++) {
                if (4 * k + byte < n_bytes) {
                    to[4 * k + byte] = (u8)(words[k] >> (8 * byte));
                }
            }
        }
    }
}

__device__ __forceinline__ void narrow_any(u8 *to, u32 dtype, const double *means, u32 count,
                                           u32 mask, Found &found) {
    switch (dtype) {
    case DTYPE_F16:
        return narrow_group<F16>(to, means, count, mask, found);
    case DTYPE_BF16:
        return narrow_group<Bf16>(to, means, count, mask, found);
    case DTYPE_F32:
        return narrow_group<F32>(to, means, count, mask, found);
    default:
        return narrow_group<F64>(to, means, count, mask, found);
    }
}

template <class E>
__device__ __forceinline__ void narrow_one(u8 *to, double mean, bool is_retained, Found &found) {
    typedef typename Bits<E::WIDTH>::Type Type;
    Type bits = 0;
    if (is_retained) {
        bits = E::narrow(mean);
        double stored = E::widen(bits);
        found.zeros += stored == 0.0 ? 1 : 0;
        found.non_finite += fabs(stored) <= LARGEST ? 0 : 1;
    }
    if (((u64)to & (E::WIDTH - 1)) == 0) {
        *(Type *)to = bits;
        return;
    }
#pragma unroll
    for (u32 byte = 0; byte < E::WIDTH; byte++) {
        to[byte] = (u8)((u64)bits >> (8 * byte));
    }
}

// Rounds and stores element `index`, or +0 if it is not retained.
// Whether a number lies in the middle between two elements of a type that is narrower
// than it, infinity for one: of what is cut off its significand, only the first bit is set.
__device__ __forceinline__ bool is_tie(u32 dtype, double value) {
    u64 bits = (u64)__double_as_longlong(value);
    // Of F32, the type that keeps most, 29 bits are cut off.
    if (dtype == DTYPE_F64 || (bits & ((1ull << 28) - 1)) != 0) {
        return false;
    }
    int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
    int kept = dtype == DTYPE_F32 ? 24 : dtype == DTYPE_F16 ? 11 : 8;
    int smallest = dtype == DTYPE_F16 ? -14 : -126;
    int cut = 53 - kept + (exponent < smallest ? smallest - exponent : 0);
    u64 significand = (bits & ((1ull << 52) - 1)) | 1ull << 52;
    return cut <= 53 && (significand & ((1ull << cut) - 1)) == 1ull << (cut - 1) &&
           exponent < 1024;
}

__device__ __forceinline__ void narrow_at(u8 *to, u32 dtype, u64 index, double mean,
                                          bool is_retained, Found &found) {
    u8 *at = to + index * width_of(dtype);
    switch (dtype) {
    case DTYPE_F16:
        return narrow_one<F16>(at, mean, is_retained, found);
    case DTYPE_BF16:
        return narrow_one<Bf16>(at, mean, is_retained, found);
    case DTYPE_F32:
        return narrow_one<F32>(at, mean, is_retained, found);
    default:
        return narrow_one<F64>(at, mean, is_retained, found);
    }
}
