/* RMS norms of lines of fp32, and what becomes operands of products. */
#ifndef HOPE_NORMS_H
#define HOPE_NORMS_H

#include "frozen.h"

INLINE float norm_scale(const float *x, long n, float epsilon) {
    vf s = all(0);
    for (long i = 0; i < n; i += LANES) {
        const vf v = get(x + i, n - i);
        s = fma_(v, v, s);
    }
    return 1.f / sqrtf(sum(s) / (float)n + epsilon);
}

/* to [n] bf16, of whole registers whose rest becomes zero. */
INLINE void put_pairs(uint16_t *to, vf low, vf high) {
    const vu pairs = two_bf16(low, high);
    memcpy(to, &pairs, sizeof pairs);
}

static void normalised(const float *x, const float *gain, long n, float epsilon, uint16_t *to) {
    const vf scale = all(norm_scale(x, n, epsilon));
    for (long i = 0; i < n; i += 2 * LANES) {
        const long rest = n - i - LANES;
        const vf low = get(x + i, n - i) * scale * get(gain + i, n - i);
        put_pairs(to + i, low, rest > 0 ? get(x + i + LANES, rest) * scale * get(gain + i + LANES, rest) : all(0));
    }
}

/* The gradient of x [n] for dy of what norm and gain make of it; add: to what is there, dx may be x's. */
static void norm_back(const float *x, const float *gain, const float *dy, long n, float epsilon, int add, float *dx) {
    const float scale = norm_scale(x, n, epsilon);
    vf s = all(0);
    for (long i = 0; i < n; i += LANES) s = fma_(get(gain + i, n - i) * get(dy + i, n - i), get(x + i, n - i), s);
    const vf whole = all(scale), along = all(-scale * scale * scale * sum(s) / (float)n);
    for (long i = 0; i < n; i += LANES) {
        const long left = n - i;
        const vf own = fma_(get(gain + i, left) * get(dy + i, left), whole, get(x + i, left) * along);
        put(dx + i, add ? get(dx + i, left) + own : own, left);
    }
}

#endif
