/* Grouped-query attention of one token over what is in sight: operands of products in bf16, all else in fp32. */
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

/* to[h][j] = q_h . k_j for what is in sight, sixteen by sixteen, minus infinity beyond; q [heads, OPERANDS(K)]. Values
 * are fetched meanwhile, into the second cache.
 */
INLINE void scores_of(const uint16_t *keys, const uint16_t *values, const int32_t *seen, long n, long k, int heads,
                      const uint16_t *q, float *to, long step) {
    const vi place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
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
            for (long v = 0; v < k; v += 2 * LANES) {
                const vu pairs = pairs_at(key + v, (k - v) / 2);
                UNROLLED for (int h = 0; h < heads; h++)
                    own[h] = add_pairs(own[h], pairs, pairs_at(q + h * OPERANDS(k) + v, LANES));
            }
            UNROLLED for (int h = 0; h < heads; h++) s[h][i] = own[h];
        }
        for (int h = 0; h < heads; h++)
            store(to + h * step + j, choose(place < (int32_t)some, sums(s[h]), all(-INFINITY)));
    }
}

/* w [n] bf16 = softmax(s) but for the division, s [n] in sixteens; zeros up to thirty-two. Returns their sum, to divide by. */
INLINE float soften(const float *s, long n, uint16_t *w) {
    vf best = load(s), total = all(0);
    for (long j = LANES; j < n; j += LANES) {
        const vf v = load(s + j);
        best = choose(v > best, v, best);
    }
    float most = best[0];
    for (int i = 1; i < LANES; i++) most = best[i] > most ? best[i] : most;
    for (long j = 0; j < n; j += 2 * LANES) {
        const vf low = exp_(load(s + j) - all(most)), high = j + LANES < n ? exp_(load(s + j + LANES) - all(most)) : all(0);
        put_pairs(w + j, low, high);
        total += widened(w + j) + widened(w + j + LANES);
    }
    return sum(total);
}

/* to[h] [K] bf16 = sum of w_j v_j / total, two by two; w [heads, step] bf16, a zero behind an odd one. */
INLINE void mix_of(const uint16_t *values, const int32_t *seen, long n, long k, int heads, const uint16_t *w, long step,
                   const float *totals, uint16_t *to, int parts) {
    const long half = k / 2;
    for (long first = 0; first < half; first += parts * LANES) {
        vf even[MOST_SHARE][2], odd[MOST_SHARE][2];
        UNROLLED for (int h = 0; h < heads; h++)
            UNROLLED for (int v = 0; v < parts; v++) even[h][v] = odd[h][v] = all(0);
        for (long j = 0; j < n; j += 2) {
            const uint16_t *one = values + seen[j] * k + 2 * first;
            const uint16_t *two = values + seen[j + 1 < n ? j + 1 : j] * k + 2 * first;
            for (long i = j + AHEAD; i < n && i < j + AHEAD + 2; i++) fetch_line(values + seen[i] * k, k);
            UNROLLED for (int v = 0; v < parts; v++) {
                const long left = half - first - v * LANES;
                const vu a = pairs_at(one + 2 * v * LANES, left), b = pairs_at(two + 2 * v * LANES, left);
                const vu low = (a & 0xffffu) | (b << 16), high = (a >> 16) | (b & 0xffff0000u);
                UNROLLED for (int h = 0; h < heads; h++) {
                    uint32_t weights;
                    memcpy(&weights, w + h * step + j, sizeof weights);
                    even[h][v] = add_pair(even[h][v], low, weights);
                    odd[h][v] = add_pair(odd[h][v], high, weights);
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
                       const uint16_t *q, uint16_t *to) {
    const long step = OPERANDS(n);
    float scores[heads * step] __attribute__((aligned(64)));
    uint16_t weights[heads * step] __attribute__((aligned(64)));
    float totals[MOST_SHARE];
    scores_of(keys, values, seen, n, k, heads, q, scores, step);
    for (int h = 0; h < heads; h++) totals[h] = soften(scores + h * step, PADDED(n), weights + h * step);
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
                         const uint16_t *q, uint16_t *to) {
    for (long j = 0; j < n && j < AHEAD; j++) fetch_line(keys + seen[j] * k, k); /* before the first ones are waited for */
    for (long h = 0, some; h < share; h += some, q += some * OPERANDS(k), to += some * k) {
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
