// Double-double numbers: step by step what kernel/double.rs does.

#pragma once

#include "batch.cuh"

struct Double {
    double high;
    double low;
};

__device__ __forceinline__ double two_sum(double a, double b, double &error) {
    double sum = __dadd_rn(a, b);
    double b_part = __dsub_rn(sum, a);
    error = __dadd_rn(__dsub_rn(a, __dsub_rn(sum, b_part)), __dsub_rn(b, b_part));
    return sum;
}

__device__ __forceinline__ double quick_two_sum(double a, double b, double &error) {
    double sum = __dadd_rn(a, b);
    error = __dsub_rn(b, __dsub_rn(sum, a));
    return sum;
}

__device__ __forceinline__ Double product(double a, double b) {
    Double result;
    result.high = __dmul_rn(a, b);
    result.low = __fma_rn(a, b, -result.high);
    return result;
}

// The sum; `inexact` is set if something was rounded away.
__device__ __forceinline__ Double add(Double a, Double b, bool &inexact) {
    double error, low_error, first_loss, second_loss;
    double sum = two_sum(a.high, b.high, error);
    double low_sum = two_sum(a.low, b.low, low_error);
    double middle = two_sum(error, low_sum, first_loss);
    sum = quick_two_sum(sum, middle, error);
    double low = two_sum(error, low_error, second_loss);
    Double result;
    result.high = quick_two_sum(sum, low, result.low);
    inexact = inexact || first_loss != 0.0 || second_loss != 0.0;
    return result;
}

// a - divisor * factor.
__device__ __forceinline__ Double minus_scaled(Double a, Double divisor, double factor) {
    bool ignored = false;
    Double rest = add(a, product(divisor.high, -factor), ignored);
    return add(rest, product(divisor.low, -factor), ignored);
}

__device__ __forceinline__ double divide(Double a, Double divisor, double &rest) {
    double first = __ddiv_rn(a.high, divisor.high);
    Double left = minus_scaled(a, divisor, first);
    double second = __ddiv_rn(left.high, divisor.high);
    left = minus_scaled(left, divisor, second);
    double third = __ddiv_rn(left.high, divisor.high);
    first = quick_two_sum(first, second, second);
    rest = __dadd_rn(second, third);
    return first;
}

// 2^-53, the largest relative error of one rounding.
constexpr double UNIT = 0x1p-53;
constexpr double ADDITION_ERROR = 8.0 * UNIT * UNIT;
constexpr double DIVISION_ERROR = 4.0 * ADDITION_ERROR;
// 2^(-1022 + 120): below this a low part may have underflowed.
constexpr double SMALLEST_SAFE = 0x1p-902;

__device__ __forceinline__ bool is_safe(double value) {
    return value >= SMALLEST_SAFE && value <= 1.0 / SMALLEST_SAFE;
}

// The neighbour of `value`, which is finite and no zero, in the direction of `rest`.
__device__ __forceinline__ double toward(double value, double rest) {
    long long bits = __double_as_longlong(value);
    bool is_away = (value < 0.0) == (rest < 0.0);
    return rest == 0.0 ? value : __longlong_as_double(is_away ? bits + 1 : bits - 1);
}

// Weighted mean of element `index` of all operands, rounded once to double; where that
// lies in the middle between two elements of type `out_dtype`, the double beside it on the
// side of the exact mean. Sets `unsettled` where only an exact fraction can tell which way
// to round.
__device__ __forceinline__ double exact_mean(const Operand *operands, u64 index,
                                             const Weights &weights, u32 out_dtype,
                                             bool &unsettled) {
    const double *coefficients = (const double *)weights.values;
    Double sum = {0.0, 0.0};
    Double divisor = {weights.wide_high, weights.wide_low};
    bool inexact = false;
    double magnitude = 0.0;
    double n_terms = 0.0;
    double plain = 0.0;
    bool is_plain = true;
    bool is_finite = true;
    for (u64 i = 0; i < weights.n_ingredients; i++) {
        double value = widen_at((u32)operands[i].dtype, (const u8 *)operands[i].address, index);
        Double term = product(coefficients[i], value);
        magnitude = __dadd_rn(magnitude, fabs(term.high));
        sum = add(sum, term, inexact);
        n_terms = __dadd_rn(n_terms, 1.0);
        plain = i == 0 ? term.high : __dadd_rn(plain, term.high);
        is_plain = is_plain && value == 0.0;
        // Of a product that is so small, bits or all may be lost.
        inexact = inexact || (fabs(term.high) < SMALLEST_SAFE && value != 0.0);
        is_finite = is_finite && fabs(value) <= LARGEST;
    }
    double divisor_magnitude = fabs(divisor.high);
    if (is_safe(magnitude) && is_safe(divisor_magnitude)) {
        if (!inexact && weights.is_power_of_two && fabs(sum.high) >= SMALLEST_SAFE) {
            double mean = __ddiv_rn(sum.high, divisor.high);
            if (is_safe(fabs(mean))) {
                double side = divisor.high < 0.0 ? -sum.low : sum.low;
                return is_tie(out_dtype, mean) ? toward(mean, side) : mean;
            }
        }
        double rest;
        double mean = divide(sum, divisor, rest);
        double scale = __ddiv_rn(magnitude, divisor_magnitude);
        double growth = __dadd_rn(1.0, weights.growth);
        double relative = __dadd_rn(__dmul_rn(__dmul_rn(ADDITION_ERROR, n_terms), growth),
                                    DIVISION_ERROR);
        double error = __dmul_rn(scale, relative);
        double low = __dadd_rn(mean, __dsub_rn(rest, error));
        double high = __dadd_rn(mean, __dadd_rn(rest, error));
        if (low == high && is_safe(fabs(low))) {
            if (!is_tie(out_dtype, low)) {
                return low;
            }
            double side = __dadd_rn(__dsub_rn(mean, low), rest);
            if (fabs(side) > error) {
                return toward(low, side);
            }
        }
    }
    if (is_plain || !is_finite) {
        return __ddiv_rn(plain, divisor.high);
    }
    unsettled = true;
    return 0.0;
}
