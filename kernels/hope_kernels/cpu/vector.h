/* Sixteen fp32 lanes, by the compiler's vectors: AVX-512, AVX2 or whatever the machine has.
 *
 * What is left over of a length goes through the same instructions, filled up with zeros. No sum depends on
 * anything but its own terms and their number.
 */
#ifndef HOPE_VECTOR_H
#define HOPE_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define LANES 16
#define PADDED(n) (((n) + LANES - 1) / LANES * LANES)
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 4")

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));

INLINE vf all(float x) { return (vf){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

INLINE vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Into the second cache; what is not needed then has cost nothing but that. */
INLINE void fetch(const float *p) { __builtin_prefetch(p, 0, 2); }

INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }

/* `left` numbers, then zeros. */
INLINE vf get(const float *p, long left) {
    if (left >= LANES) return load(p);
#ifdef __AVX512F__
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << left) - 1), p);
#else
    vf v = all(0);
    memcpy(&v, p, (size_t)left * sizeof(float));
    return v;
#endif
}

INLINE void put(float *p, vf v, long left) {
    if (left >= LANES) store(p, v);
    else memcpy(p, &v, (size_t)left * sizeof(float));
}

/* a b + c; rounded once where the machine can, in all lanes and at all places alike. */
INLINE vf fma_(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    union { vf v; __m256 h[2]; } x = {a}, y = {b}, z = {c};
    z.h[0] = _mm256_fmadd_ps(x.h[0], y.h[0], z.h[0]);
    z.h[1] = _mm256_fmadd_ps(x.h[1], y.h[1], z.h[1]);
    return z.v;
#else
    return a * b + c;
#endif
}

INLINE vf choose(vi where, vf yes, vf no) { return (vf)((where & (vi)yes) | (~where & (vi)no)); }

/* The sum of each of sixteen vectors, as one. */
static __attribute__((noinline, unused)) vf sums(const vf a[16]) {
    vf b[8], c[4], d[2];
    for (int i = 0; i < 8; i++)
        b[i] = __builtin_shufflevector(a[i], a[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
             + __builtin_shufflevector(a[i], a[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    for (int i = 0; i < 4; i++)
        c[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
             + __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++)
        d[i] = __builtin_shufflevector(c[i], c[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
             + __builtin_shufflevector(c[i], c[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    return __builtin_shufflevector(d[0], d[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
         + __builtin_shufflevector(d[0], d[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
}

INLINE float sum(vf a) {
    float s[16], t = 0;
    store(s, a);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) s[i] += s[i + width];
    t = s[0];
    return t;
}

/* To about 1 ulp; 0 and infinity beyond the range, NaN of NaN. */
static __attribute__((noinline, unused)) vf exp_(vf x) {
    const vf low = all(-87.5f), high = all(88.5f);
    const vf y = choose(x < low, low, choose(x > high, high, x));
    const vf shift = all(12582912.f); /* 1.5 * 2^23: rounds to an integer */
    const vf turns = fma_(y, all(1.44269504f), shift) - shift;
    vf r = fma_(turns, all(-0.693359375f), y);
    r = fma_(turns, all(2.12194440e-4f), r);
    vf p = all(1.9875691500e-4f);
    p = fma_(p, r, all(1.3981999507e-3f));
    p = fma_(p, r, all(8.3334519073e-3f));
    p = fma_(p, r, all(4.1665795894e-2f));
    p = fma_(p, r, all(1.6666665459e-1f));
    p = fma_(p, r, all(5.0000001201e-1f));
    p = fma_(p, r * r, r) + all(1.f);
    /* 2^turns in two factors, so that neither leaves the range. */
    const vi n = __builtin_convertvector(choose(y == y, turns, all(0)), vi), half = n >> 1;
    const vf scaled = p * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
    return choose(x < low, all(0), choose(x > high, all(INFINITY), scaled));
}

INLINE vf silu(vf x) { return x / (all(1.f) + exp_(-x)); }

INLINE float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

/* log(sigmoid(x)) */
INLINE float log_sigmoid(float x) { return fminf(x, 0.f) - log1pf(expf(-fabsf(x))); }

/* To the nearest bf16, ties to even, in the upper half of each lane. */
INLINE vu round_bf16(vf x) {
    const vu bits = (vu)x, up = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    const vu nan = (vu)(x != x);
    return (nan & 0x7fc00000u) | (~nan & up);
}

/* sum + w x, for pairs of bf16: one of each lane of `w`, one for all. */
INLINE vf add_pair(vf sum, vu w, uint32_t x) {
#ifdef __AVX512BF16__
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32((int)x));
#else
    const uint32_t low = x << 16, high = x & 0xffff0000u;
    float a, b;
    memcpy(&a, &low, 4);
    memcpy(&b, &high, 4);
    return fma_((vf)(w & 0xffff0000u), all(b), fma_((vf)(w << 16), all(a), sum));
#endif
}

/* sum + a b, for pairs of bf16 of each lane. */
INLINE vf add_pairs(vf sum, vu a, vu b) {
#ifdef __AVX512BF16__
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    return fma_((vf)(a & 0xffff0000u), (vf)(b & 0xffff0000u), fma_((vf)(a << 16), (vf)(b << 16), sum));
#endif
}

#endif
