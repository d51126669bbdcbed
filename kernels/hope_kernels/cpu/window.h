/* Grouped-query attention of one token over what is in sight, in fp32; keys and values are bf16. */
#ifndef HOPE_WINDOW_H
#define HOPE_WINDOW_H

#include "reader.h"

#define MOST_SHARE 4 /* query heads that share what is loaded of a key */

#define AHEAD 24 /* keys and values that are fetched before they are looked at */

INLINE void fetch_line(const uint16_t *p, long n) {
    for (long i = 0; i < n; i += 32) __builtin_prefetch(p + i, 0, 3);
}

/* Pairs of bf16, `left` of them. */
INLINE vu pairs_at(const uint16_t *p, long left) { return (vu)get((const float *)(const void *)p, left); }

INLINE vf evens(vu pairs) { return (vf)(pairs << 16); }
INLINE vf odds(vu pairs) { return (vf)(pairs & 0xffff0000u); }

/* to[h][j] = q_h . k_j for what is in sight, sixteen by sixteen, minus infinity beyond; q [heads, 2, padded half]. Values
 * are fetched meanwhile, into the second cache.
 */
INLINE void scores_of(const uint16_t *keys, const uint16_t *values, const int32_t *seen, long n, long k, int heads,
                      const float *q, float *to, long step) {
    const vi place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const long half = k / 2, padded = PADDED(half);
    for (long j = 0; j < n; j += LANES) {
        vf s[MOST_SHARE][LANES];
        const long some = n - j < LANES ? n - j : LANES;
        for (long i = some; i < LANES; i++)
            for (int h = 0; h < heads; h++) s[h][i] = all(0);
        for (long i = 0; i < some; i++) {
            const uint16_t *key = keys + seen[j + i] * k;
            if (j + i + AHEAD < n) fetch_line(keys + seen[j + i + AHEAD] * k, k);
            for (long v = 0; v < k; v += 32) __builtin_prefetch(values + seen[j + i] * k + v, 0, 2);
            vf own[MOST_SHARE];
            UNROLLED for (int h = 0; h < heads; h++) own[h] = all(0);
            for (long v = 0; v < half; v += LANES) {
                const vu pairs = pairs_at(key + 2 * v, half - v);
                const vf even = evens(pairs), odd = odds(pairs);
                UNROLLED for (int h = 0; h < heads; h++) {
                    const float *mine = q + 2 * h * padded + v;
                    own[h] = fma_(odd, load(mine + padded), fma_(even, load(mine), own[h]));
                }
            }
            UNROLLED for (int h = 0; h < heads; h++) s[h][i] = own[h];
        }
        for (int h = 0; h < heads; h++)
            store(to + h * step + j, choose(place < (int32_t)some, sums(s[h]), all(-INFINITY)));
    }
}

/* w = softmax(s) but for the division, in place; n is filled up to sixteens. Returns what to divide by. */
INLINE float soften(float *s, long n) {
    vf best = load(s), total = all(0);
    for (long j = LANES; j < n; j += LANES) {
        const vf v = load(s + j);
        best = choose(v > best, v, best);
    }
    float most = best[0];
    for (int i = 1; i < LANES; i++) most = best[i] > most ? best[i] : most;
    for (long j = 0; j < n; j += LANES) {
        const vf w = exp_(load(s + j) - all(most));
        total += w;
        store(s + j, w);
    }
    return sum(total);
}

/* to[h] [K] bf16 = sum of w_j v_j / total. */
INLINE void mix_of(const uint16_t *values, const int32_t *seen, long n, long k, int heads, const float *w, long step,
                   const float *totals, uint16_t *to, int parts) {
    const long half = k / 2;
    for (long first = 0; first < half; first += parts * LANES) {
        vf even[MOST_SHARE][2], odd[MOST_SHARE][2];
        UNROLLED for (int h = 0; h < heads; h++)
            UNROLLED for (int v = 0; v < parts; v++) even[h][v] = odd[h][v] = all(0);
        for (long j = 0; j < n; j++) {
            const uint16_t *value = values + seen[j] * k + 2 * first;
            if (j + AHEAD < n) fetch_line(values + seen[j + AHEAD] * k, k);
            UNROLLED for (int v = 0; v < parts; v++) {
                const vu pairs = pairs_at(value + 2 * v * LANES, half - first - v * LANES);
                const vf a = evens(pairs), b = odds(pairs);
                UNROLLED for (int h = 0; h < heads; h++) {
                    const vf weight = all(w[h * step + j]);
                    even[h][v] = fma_(weight, a, even[h][v]);
                    odd[h][v] = fma_(weight, b, odd[h][v]);
                }
            }
        }
        UNROLLED for (int h = 0; h < heads; h++)
            UNROLLED for (int v = 0; v < parts; v++) {
                const vf scale = all(1.f / totals[h]);
                const vu pairs = (round_bf16(even[h][v] * scale) >> 16) | round_bf16(odd[h][v] * scale);
                const long left = half - first - v * LANES;
                memcpy(to + h * k + 2 * (first + v * LANES), &pairs, (size_t)(left < LANES ? left : LANES) * 4);
            }
    }
}

INLINE void some_heads(const uint16_t *keys, const uint16_t *values, const int32_t *seen, long n, long k, int heads,
                       const float *q, uint16_t *to) {
    const long step = PADDED(n);
    float weights[heads * step] __attribute__((aligned(64)));
    float totals[MOST_SHARE];
    scores_of(keys, values, seen, n, k, heads, q, weights, step);
    for (int h = 0; h < heads; h++) totals[h] = soften(weights + h * step, step);
    if (k % (4 * LANES)) mix_of(values, seen, n, k, heads, weights, step, totals, to, 1);
    else mix_of(values, seen, n, k, heads, weights, step, totals, to, 2);
}

#define SOME_HEADS(count) \
    case count: \
        if (k == 4 * LANES) some_heads(keys, values, seen, n, 4 * LANES, count, q, to); \
        else some_heads(keys, values, seen, n, k, count, q, to); \
        break;

/* The query heads that share a key head; to [share, K]. */
static void attend_group(const uint16_t *keys, const uint16_t *values, const int32_t *seen, long n, long k, long share,
                         const float *q, uint16_t *to) {
    for (long j = 0; j < n && j < AHEAD; j++) fetch_line(keys + seen[j] * k, k); /* before the first ones are waited for */
    for (long h = 0, some; h < share; h += some, q += some * 2 * PADDED(k / 2), to += some * k) {
        some = share - h < MOST_SHARE ? share - h : MOST_SHARE;
        switch (some) {
            SOME_HEADS(1)
            SOME_HEADS(2)
            SOME_HEADS(3)
            SOME_HEADS(4)
        }
    }
}

#endif
