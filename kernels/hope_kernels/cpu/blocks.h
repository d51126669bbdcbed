/* The blocks of fewer bits that weights of bf16 were made from, if they were: thirty-two inputs of an output share a
 * scale and a zero, or a scale. They are those of llama.cpp's Q4_1, Q4_0 and Q8_0.
 *
 * A scale and a zero that were rounded away with the weights are looked for among the halves near by. Any that make
 * the very same bf16 of every weight will do.
 */
#ifndef HOPE_BLOCKS_H
#define HOPE_BLOCKS_H

#include "widen.h"

#define SHORT 0x2000 /* from one half to the next, in the bits of fp32 */
#define TRIED 512    /* scales on either side of the likeliest */

/* least to most: a block's numbers. end: that of the weight that the scale was made for. */
typedef struct {
    float least, most, end;
} Range;

INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float as_bf16(float x) { return float_of(round_bf16(all(x))[0]); }

/* Subnormal ones are none here. */
INLINE int is_half(float x) {
    return bits_of(x) % SHORT == 0 && (bits_of(x) == 0 || (fabsf(x) >= 0x1p-14f && fabsf(x) < 0x1p16f));
}

INLINE uint16_t half_of(float x) {
    const uint32_t bits = bits_of(x);
    return bits ? (uint16_t)((bits >> 16 & 0x8000) | ((bits & 0x7fffffff) - (112u << 23)) >> 13) : 0;
}

INLINE int any(vu x) {
    uint64_t parts[8], some = 0;
    memcpy(parts, &x, sizeof parts);
    for (int i = 0; i < 8; i++) some |= parts[i];
    return some != 0;
}

/* Whether scale and zero make w; numbers: as which. */
static int makes(const vf w[2], Range range, float scale, float zero, vf numbers[2]) {
    const vf inverse = all(scale != 0 ? 1 / scale : 0), shift = all(12582912.f); /* rounds to a whole number */
    const vf least = all(range.least), most = all(range.most);
    for (int i = 0; i < 2; i++) {
        const vf n = fma_(w[i] - all(zero), inverse, shift) - shift;
        numbers[i] = choose(n >= least, choose(n <= most, n, most), least);
        if (any(round_bf16(fma_(numbers[i], all(scale), all(zero))) != (vu)w[i])) return 0;
    }
    return 1;
}

/* A scale that with `zero` makes w, which has `top` at the range's end; NaN for none. */
static float scale_for(const vf w[2], Range range, float top, float zero, vf numbers[2]) {
    const uint32_t middle = (bits_of((top - zero) / range.end) + SHORT / 2) / SHORT * SHORT;
    for (uint32_t side = 0; side < 2; side++)
        for (uint32_t i = side; i < TRIED; i++) {
            const float scale = float_of(side ? middle - i * SHORT : middle + i * SHORT);
            if (!is_half(scale) || as_bf16(fma_(all(range.end), all(scale), all(zero))[0]) != top) break;
            if (makes(w, range, scale, zero, numbers)) return scale;
        }
    return NAN;
}

typedef struct {
    float scale, zero;
    vf numbers[2];
} Found;

/* 4 bits from the least weight, number 0, to the greatest, number 15. */
static int find_from_least(const vf w[2], float least, float most, Found *found) {
    static const int order[] = {0, 1, -1, 2, -2, 3, -3, 4, -4}; /* halves that may round to one bf16 */
    for (int i = 0; i < 9; i++) {
        found->zero = float_of(bits_of(least) + (uint32_t)order[i] * SHORT);
        if (!is_half(found->zero) || as_bf16(found->zero) != least) continue;
        found->scale = scale_for(w, (Range){0, 15, 15}, most, found->zero, found->numbers);
        if (!isnan(found->scale)) return 1;
    }
    return 0;
}

/* 4 bits on both sides of nothing, number 8; the weight that is furthest from it has number 0. */
static int find_around_nothing(const vf w[2], float furthest, Found *found) {
    found->scale = scale_for(w, (Range){-8, 7, -8}, furthest, 0, found->numbers);
    if (isnan(found->scale)) return 0;
    found->zero = -8 * found->scale;
    for (int i = 0; i < 2; i++) found->numbers[i] += all(8);
    return is_half(found->zero);
}

/* 8 bits; the furthest weight has number 127 or -127. */
static int find_of_8(const vf w[2], float furthest, Found *found) {
    found->scale = scale_for(w, (Range){-127, 127, 127}, fabsf(furthest), 0, found->numbers);
    found->zero = 0;
    return !isnan(found->scale);
}

static int find_block(int kind, const vf w[2], Found *found) {
    float least = w[0][0], most = least;
    for (int i = 0; i < 2 * LANES; i++) {
        least = fminf(least, w[i / LANES][i % LANES]);
        most = fmaxf(most, w[i / LANES][i % LANES]);
    }
    const float furthest = -least > most ? least : most;
    if (kind == BLOCK8) return find_of_8(w, furthest, found);
    return find_from_least(w, least, most, found) || find_around_nothing(w, furthest, found);
}

/* w [count, 32] bf16 -> numbers [count, 32], scales and zeros [count], halves, of BLOCK4 or BLOCK8; whether there are such
 * of all. It ends at the first that there are none of.
 */
EXPORT int32_t hope_find_blocks(int32_t kind, int64_t count, const uint16_t *w, int8_t *numbers, uint16_t *scales,
                                uint16_t *zeros) {
    for (long block = 0; block < count; block++, w += 2 * LANES, numbers += 2 * LANES) {
        const vf values[2] = {widened(w), widened(w + LANES)};
        Found found;
        if (!find_block(kind, values, &found)) return 0;
        for (int i = 0; i < 2 * LANES; i++) numbers[i] = (int8_t)found.numbers[i / LANES][i % LANES];
        scales[block] = half_of(found.scale);
        zeros[block] = half_of(found.zero);
    }
    return 1;
}

#endif
