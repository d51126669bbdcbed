/* How frozen weights are kept, and how a piece of them becomes pairs of bf16.
 *
 * In 16 bits by pair of inputs and output. In 8 bits too, whole numbers with a scale for each output. In 4 bits by group
 * of pairs and sixteen of outputs: scales and zeros in bf16, then for every two pairs 32 bytes, whose lower halves are
 * the first pair's numbers and whose upper halves are the second one's, 8 more than they stand for.
 *
 * In blocks, by group and sixteen as well, is what else would be in 16 bits: a number of 4 bits, a scale and a zero make
 * the very bf16 that it stands for, or one of 8 bits and a scale; both are halves and come before the numbers. Those of
 * eight outputs at a pair are one register, the lower outputs first; in 4 bits eight registers share their lanes.
 */
#ifndef HOPE_WIDEN_H
#define HOPE_WIDEN_H

#include "vector.h"

#define GROUP 16 /* pairs of inputs that share scale and zero */

enum { BF16, INT8, INT4, BLOCK8, BLOCK4 };

typedef int8_t signed_bytes __attribute__((vector_size(16)));
typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint16_t half_words __attribute__((vector_size(32)));

#define GROUP_BYTES (4 * LANES + GROUP * LANES) /* of 4 bits, a sixteen of outputs */
#define BLOCK8_BYTES (2 * LANES + GROUP * 2 * LANES)

INLINE int in_groups(int kind) { return kind >= INT4; }

/* Bytes of a pair of inputs, or of a group of them, for sixteen outputs. */
INLINE long unit_bytes(int kind) {
    return kind == BF16 ? 4 * LANES : kind == INT8 ? 2 * LANES : kind == BLOCK8 ? BLOCK8_BYTES : GROUP_BYTES;
}

INLINE long units_of(int kind, long pairs) { return in_groups(kind) ? pairs / GROUP : pairs; }

/* Thirty-two numbers as bf16, in order. */
INLINE vu two_bf16(vf low, vf high) {
#ifdef __AVX512BF16__
    return (vu)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#else
    const half_words a = __builtin_convertvector(round_bf16(low) >> 16, half_words);
    const half_words b = __builtin_convertvector(round_bf16(high) >> 16, half_words);
    vu both;
    memcpy(&both, &a, 32);
    memcpy((char *)&both + 32, &b, 32);
    return both;
#endif
}

/* Rounded to bf16, `left` numbers or sixteen, to any place. */
INLINE void put_rounded(uint16_t *to, vf v, long left) {
    const half_words rounded = __builtin_convertvector(round_bf16(v) >> 16, half_words);
    memcpy(to, &rounded, left < LANES ? (size_t)left * 2 : sizeof rounded);
}

/* Sixteen bf16, bytes or signed bytes. The compiler's own conversions of small lanes go one by one. */
#if defined(__AVX512F__)
INLINE vf widened(const uint16_t *p) {
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16);
}
INLINE vi bytes_at(const uint8_t *p) { return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)); }
INLINE vf floats_of(vi x) { return (vf)_mm512_cvtepi32_ps((__m512i)x); }
INLINE vf signed_at(const int8_t *p) {
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
#elif defined(__AVX2__)
typedef union { vf f; vi i; __m256i half[2]; } Halves;

INLINE vf widened(const uint16_t *p) {
    Halves to;
    for (int i = 0; i < 2; i++)
        to.half[i] = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 8 * i))), 16);
    return to.f;
}
INLINE vi bytes_at(const uint8_t *p) {
    Halves to;
    for (int i = 0; i < 2; i++) to.half[i] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * i)));
    return to.i;
}
INLINE vf floats_of(vi x) {
    Halves from = {.i = x}, to;
    for (int i = 0; i < 2; i++) to.half[i] = (__m256i)_mm256_cvtepi32_ps(from.half[i]);
    return to.f;
}
INLINE vf signed_at(const int8_t *p) {
    Halves to;
    for (int i = 0; i < 2; i++) to.half[i] = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * i)));
    return floats_of(to.i);
}
#else
INLINE vf widened(const uint16_t *p) {
    half_words v;
    memcpy(&v, p, sizeof v);
    return (vf)(__builtin_convertvector(v, vu) << 16);
}
INLINE vi bytes_at(const uint8_t *p) {
    bytes16 v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vi);
}
INLINE vf floats_of(vi x) { return __builtin_convertvector(x, vf); }
INLINE vf signed_at(const int8_t *p) {
    signed_bytes v;
    memcpy(&v, p, sizeof v);
    return floats_of(__builtin_convertvector(v, vi));
}
#endif

/* bf16 of 7 down to -8. */
#define VALUES \
    0x40e0, 0x40c0, 0x40a0, 0x4080, 0x4040, 0x4000, 0x3f80, 0, (short)0xbf80, (short)0xc000, (short)0xc040, (short)0xc080, \
    (short)0xc0a0, (short)0xc0c0, (short)0xc0e0, (short)0xc100

/* Two pairs of sixteen outputs, of 32 bytes. */
INLINE void widen_two(const uint8_t *from, uint32_t *to, long step) {
#ifdef __AVX512BW__
    const __m512i values = _mm512_set_epi16(VALUES, VALUES);
    const __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)from));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(both, values));
    _mm512_storeu_si512(to + step, _mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), values));
#else
    const vi a = bytes_at(from), b = bytes_at(from + LANES);
    const vu first = two_bf16(floats_of((a & 15) - 8), floats_of((b & 15) - 8));
    const vu second = two_bf16(floats_of((a >> 4) - 8), floats_of((b >> 4) - 8));
    memcpy(to, &first, sizeof first);
    memcpy(to + step, &second, sizeof second);
#endif
}

#define SOON 2048 /* bytes that are fetched before they are needed: half and twice as many are no faster */

INLINE void fetch_bytes(const void *p, long n) {
    for (long i = 0; i < n; i += 64) __builtin_prefetch((const char *)p + i, 0, 3);
}

/* Sixteen halves, none of them subnormal. */
#ifdef __AVX512F__
INLINE vf halves_at(const uint8_t *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
#else
INLINE vf halves_at(const uint8_t *p) {
    half_words v;
    memcpy(&v, p, sizeof v);
    const vu bits = __builtin_convertvector(v, vu);
    return (vf)((vu)((vf)((bits & 0x7fff) << 13) * all(0x1p112f)) | (bits & 0x8000) << 16);
}
#endif

/* The numbers in the four bits from 4 k on of each lane. */
INLINE vf nibbles(vu x, int k) {
#ifdef __AVX512F__
    const vf numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (vf)_mm512_permutexvar_ps((__m512i)(x >> 4 * k), (__m512)numbers);
#else
    return floats_of((vi)(x >> 4 * k & 15));
#endif
}

/* For the pairs of a sixteen's lower and upper outputs. */
INLINE void twice(vf x, vf to[2]) {
    to[0] = __builtin_shufflevector(x, x, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    to[1] = __builtin_shufflevector(x, x, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
}

/* A block of sixteen outputs, `step` numbers to the next pair. */
INLINE void widen_block4(const uint8_t *from, uint32_t *to, long step) {
    vf scales[2], zeros[2];
    twice(halves_at(from), scales);
    twice(halves_at(from + 2 * LANES), zeros);
    for (int i = 0; i < GROUP; i += 4) {
        vu eight;
        memcpy(&eight, from + 4 * LANES + i * LANES, sizeof eight);
        UNROLLED for (int k = 0; k < 4; k++) {
            const vf low = fma_(nibbles(eight, 2 * k), scales[0], zeros[0]);
            const vf high = fma_(nibbles(eight, 2 * k + 1), scales[1], zeros[1]);
            const vu pairs = two_bf16(low, high);
            memcpy(to + (i + k) * step, &pairs, sizeof pairs);
        }
    }
}

INLINE void widen_block8(const uint8_t *from, uint32_t *to, long step) {
    vf scales[2];
    twice(halves_at(from), scales);
    const int8_t *numbers = (const int8_t *)from + 2 * LANES;
    for (int i = 0; i < GROUP; i++, numbers += 2 * LANES) {
        const vu pairs = two_bf16(signed_at(numbers) * scales[0], signed_at(numbers + LANES) * scales[1]);
        memcpy(to + i * step, &pairs, sizeof pairs);
    }
}

/* A group of sixteen outputs. */
INLINE void widen_group(int kind, const uint8_t *from, uint32_t *to, long step) {
    fetch_bytes(from + SOON, unit_bytes(kind));
    if (kind == BLOCK4) widen_block4(from, to, step);
    else if (kind == BLOCK8) widen_block8(from, to, step);
    else
        for (long i = 0; i < GROUP; i += 2) widen_two(from + 4 * LANES + i * LANES, to + i * step, step);
}

/* A piece of a tile as pairs of bf16, `wide` sixteens a line; itself where it is that. */
static const uint32_t *widen(int kind, const uint8_t *w, long wide, long depth, uint32_t *to) {
    if (kind == BF16) return (const uint32_t *)(const void *)w;
    if (in_groups(kind)) {
        for (long at = 0; at < depth; at += GROUP)
            for (long c = 0; c < wide; c++, w += unit_bytes(kind))
                widen_group(kind, w, to + at * wide * LANES + c * LANES, wide * LANES);
        return to;
    }
    for (long i = 0; i < depth * wide; i++, w += 2 * LANES) {
        if (i % 2 == 0) fetch_bytes(w + SOON, 64);
        const vu pairs = two_bf16(signed_at((const int8_t *)w), signed_at((const int8_t *)w + LANES));
        memcpy(to + i * LANES, &pairs, sizeof pairs);
    }
    return to;
}

#endif
