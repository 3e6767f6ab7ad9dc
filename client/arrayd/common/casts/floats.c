/* float64 to float32 and to float16, and float32 to float16, in one pass: what `cast.py` does with
   numpy in four or five, of which the rounding to float16 alone takes ten times as long as this.

   All three round to the nearest value, and to the even one of two that are as near, as IEEE 754 has
   it, and count the values that are no longer the same. A NaN stays one, whatever else is in its bits.
   Here nothing is clipped, refused or worded: where a finite value becomes infinite the answer is -1,
   and `cast.py` goes its own way.

   The theory of the float16: it has 11 significant bits, and below 2^-14 steps of 2^-24. To a number
   whose largest power of two is p, m = 2^42 p is added: between m and 2 m a double has steps of
   2^-52 m = 2^-10 p, which are those of a float16 there, so the sum is rounded as is wanted, and m
   can be subtracted without another rounding. With p at least 2^-14 this holds for the subnormal
   numbers, too. What is left is a double with the value of a float16. Its bits need only be shifted;
   a subnormal one first gets the 2^-14 that float16 understands there. No branch and no table: the
   compiler makes vector instructions of it. */

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0 || defined(__FAST_MATH__)
#error "A sum of two doubles is to be rounded as IEEE 754 has it: without this file numpy does it."
#endif

/* More than a core's plain set of instructions, where it has them: chosen as the library is loaded. */
#if defined(CLONED)
#elif !defined(__x86_64__) || !defined(__gnu_linux__) || defined(__clang__)
#define CLONED
#elif __GNUC__ >= 12
#define CLONED __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define CLONED __attribute__((target_clones("avx2", "default")))
#endif

static const double LARGEST_HALF = 65504.0, SMALLEST_NORMAL_HALF = 0x1p-14;

static inline uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline double of_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Return all bits of a condition. Written as masks, for `?:` on doubles would be branches: an
   operation of a double may trap, and no compiler does one that is not asked for. */
static inline uint64_t mask(bool condition) { return -(uint64_t)condition; }

static inline uint64_t either(uint64_t mask, uint64_t yes, uint64_t no) {
    return (mask & yes) | (~mask & no);
}

/* Return the bits of a float16; add to what was changed, and to what became infinite. */
static inline uint16_t half(double value, uint64_t *changed, uint64_t *infinite) {
    const uint64_t sign_bit = UINT64_C(1) << 63, exponent_bits = UINT64_C(0x7ff) << 52;
    const uint64_t smallest = bits_of(SMALLEST_NORMAL_HALF);
    uint64_t bits = bits_of(value), sign = (bits & sign_bit) >> 48, power = bits & exponent_bits;
    double size = of_bits(bits & ~sign_bit);
    power = either(mask(of_bits(power) < SMALLEST_NORMAL_HALF), smallest, power);
    double steps = of_bits(power) * 0x1p42, rounded = (size + steps) - steps;
    uint64_t finite = mask(size < INFINITY), fits = mask(rounded <= LARGEST_HALF);
    *changed -= finite & mask(rounded != size);
    *infinite |= finite & ~fits;
    uint64_t subnormal = mask(rounded < SMALLEST_NORMAL_HALF);
    uint64_t lifted = bits_of(rounded + of_bits(smallest & subnormal)) >> 42;
    uint64_t number = lifted - ((1023 - 15) << 10) - (subnormal & 1 << 10);
    uint64_t special = either(mask(size == INFINITY), 0x7c00, 0x7e00);
    return (uint16_t)(sign | either(finite, number, special));
}

CLONED int64_t arrayd_double_to_half(const double *from, uint16_t *to, size_t count) {
    uint64_t changed = 0, infinite = 0;
    for (size_t i = 0; i < count; i++)
        to[i] = half(from[i], &changed, &infinite);
    return infinite ? -1 : (int64_t)changed;
}

CLONED int64_t arrayd_float_to_half(const float *from, uint16_t *to, size_t count) {
    uint64_t changed = 0, infinite = 0;
    for (size_t i = 0; i < count; i++)
        to[i] = half((double)from[i], &changed, &infinite);
    return infinite ? -1 : (int64_t)changed;
}

CLONED int64_t arrayd_double_to_float(const double *from, float *to, size_t count) {
    uint64_t changed = 0, infinite = 0;
    for (size_t i = 0; i < count; i++) {
        float rounded = (float)from[i];
        double size = fabs(from[i]), back = fabs((double)rounded);
        uint64_t finite = mask(size < INFINITY);
        to[i] = rounded;
        changed -= finite & mask(back != size);
        infinite |= finite & mask(back == INFINITY);
    }
    return infinite ? -1 : (int64_t)changed;
}
