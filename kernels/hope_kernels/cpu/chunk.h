/* The end of a chunk: the projections take up its tokens (E9), bounds are kept, what is not finite is refused. */
#ifndef HOPE_CHUNK_H
#define HOPE_CHUNK_H

#include "learned.h"

/* x [n] into `to`, at a norm of at most `limit`; 0 and nothing done if that is not finite. */
static int bounded(const float *x, long n, float limit, float *to) {
    vf squares = all(0);
    for (long i = 0; i < n; i += LANES) {
        const vf v = get(x + i, n - i);
        squares = fma_(v, v, squares);
    }
    const float squared = sum(squares), factor = squared <= limit * limit ? 1.f : limit / sqrtf(squared);
    vi wrong = {0};
    for (long i = 0; i < n; i += LANES) {
        const vf v = get(x + i, n - i) * all(factor);
        wrong |= ~(v - v == all(0)); /* NaN of what is not finite */
    }
    for (int i = 0; i < LANES; i++)
        if (wrong[i]) return 0;
    for (long i = 0; i < n; i += LANES) put(to + i, get(x + i, n - i) * all(factor), n - i);
    return 1;
}

/* Sixteen lines at most of D [lines, k]: D_t = alpha D_{t-1} + u_t k_t^T with
 * u_t = -slow_t ((base + D_{t-1}) k_t + maps (k_t - v_t)). keys, changes: [T, PADDED(k)].
 */
INLINE void write_lines(float *d, const float *base, const float *maps, long lines, long k, long tokens, float alpha,
                        const float *keys, const float *changes, const float *slow) {
    const long full = PADDED(k);
    for (long t = 0; t < tokens; t++, keys += full, changes += full) {
        vf s[LANES];
        float u[LANES];
        for (long v = 0; v < LANES; v++) s[v] = all(0);
        for (long v = 0; v < lines; v++)
            for (long j = 0; j < k; j += LANES) {
                const long at = v * k + j, left = k - j;
                s[v] = fma_(get(base + at, left) + get(d + at, left), load(keys + j), s[v]);
                s[v] = fma_(get(maps + at, left), load(changes + j), s[v]);
            }
        store(u, sums(s) * all(-slow[t]));
        for (long v = 0; v < lines; v++)
            for (long j = 0; j < k; j += LANES) {
                float *own = d + v * k + j;
                put(own, fma_(all(u[v]), load(keys + j), all(alpha) * get(own, k - j)), k - j);
            }
    }
}

/* pending after `tokens` of its chunk, into `to` [2K + 2, K]. */
static void pending_after(const Model *m, const Block *b, long row, long head, long tokens, float *to) {
    const long k = m->width / m->heads, full = PADDED(k), lines = 2 * k + 2, own = row * m->heads + head;
    float keys[tokens * full + 1], changes[tokens * full + 1], slow[tokens + 1];
    for (long t = 0; t < tokens; t++) {
        const float *kept = b->chunk_kept + ((row * m->chunk + t) * m->heads + head) * (2 * k + 1);
        for (long j = 0; j < k; j += LANES) {
            const vf key = get(kept + j, k - j);
            store(keys + t * full + j, key);
            store(changes + t * full + j, key - get(kept + k + j, k - j));
        }
        slow[t] = b->slow_rate[head] * kept[2 * k];
    }
    memcpy(to, b->pending + own * lines * k, (size_t)(lines * k) * sizeof(float));
    for (long v = 0; v < lines; v += LANES) {
        const long some = lines - v < LANES ? lines - v : LANES;
        const float *base = b->projections + (head * lines + v) * k, *maps = b->maps + (own * lines + v) * k;
        if (k == USUAL && some == LANES)
            write_lines(to + v * k, base, maps, LANES, USUAL, tokens, b->retention[head], keys, changes, slow);
        else write_lines(to + v * k, base, maps, some, k, tokens, b->retention[head], keys, changes, slow);
    }
}

/* One head's; whether its write was finite. */
static int end_chunk(const Model *m, const Block *b, long row, long head, long tokens) {
    const long k = m->width / m->heads, size = (2 * k + 2) * k, own = row * m->heads + head;
    float written[size];
    float *memory = b->memory + own * k * k, *pending = b->pending + own * size, *maps = b->maps + own * size;
    bounded(memory, k * k, m->max_norm, memory);
    pack_memory(m, b, row, head);
    pending_after(m, b, row, head, tokens, written);
    const int applied = bounded(written, size, m->max_norm, pending);
    for (long i = 0; i < size; i += LANES)
        put(maps + i, get(b->maps_initial + head * size + i, size - i) + get(pending + i, size - i), size - i);
    pack_maps(m, b, row, head);
    return applied;
}

/* Block `layer`'s pending projections after so many tokens of a chunk, into `to` [H, 2K + 2, K]. */
EXPORT void hope_pending(const Model *m, int64_t layer, int64_t row, int64_t tokens, float *to) {
    const long k = m->width / m->heads;
    for (long head = 0; head < m->heads; head++)
        pending_after(m, &m->blocks[layer], row, head, tokens, to + head * (2 * k + 2) * k);
}

#endif
