/* What tokens have saved up, added to their memories: a sum of outer products, in the tokens' order. */
#ifndef HOPE_WRITES_H
#define HOPE_WRITES_H

#include "learned.h"

#define AT_ONCE 4 /* sixteens of a line, and lines */

/* m [AT_ONCE lines at most, n] = scale m + sum over t of factors[t] right[t]; factors of lines side by side,
 * those of tokens and rights a step apart.
 */
INLINE void add_to_lines(float *m, int lines, long n, float scale, long tokens, const float *factors,
                         long factor_step, const float *right, long right_step) {
    for (long j = 0; j < n; j += AT_ONCE * LANES) {
        vf s[AT_ONCE][AT_ONCE];
        const long left = n - j, wide = left >= AT_ONCE * LANES ? AT_ONCE : (left + LANES - 1) / LANES;
        for (int v = 0; v < lines; v++)
            for (long i = 0; i < wide; i++)
                s[v][i] = all(scale) * get(m + v * n + j + i * LANES, left - i * LANES);
        if (wide == AT_ONCE) {
            for (long t = 0; t < tokens; t++)
                for (int i = 0; i < AT_ONCE; i++) {
                    const vf x = get(right + t * right_step + j + i * LANES, left - i * LANES);
                    for (int v = 0; v < lines; v++) s[v][i] = fma_(all(factors[t * factor_step + v]), x, s[v][i]);
                }
        } else {
            for (long t = 0; t < tokens; t++)
                for (long i = 0; i < wide; i++) {
                    const vf x = get(right + t * right_step + j + i * LANES, left - i * LANES);
                    for (int v = 0; v < lines; v++) s[v][i] = fma_(all(factors[t * factor_step + v]), x, s[v][i]);
                }
        }
        for (int v = 0; v < lines; v++)
            for (long i = 0; i < wide; i++) put(m + v * n + j + i * LANES, s[v][i], left - i * LANES);
    }
}

/* The same for any number of lines. */
static void add_products(float *m, long lines, long n, float scale, long tokens, const float *factors,
                         long factor_step, const float *right, long right_step) {
    long v = 0;
    for (; v + AT_ONCE <= lines; v += AT_ONCE)
        add_to_lines(m + v * n, AT_ONCE, n, scale, tokens, factors + v, factor_step, right, right_step);
    for (; v < lines; v++)
        add_to_lines(m + v * n, 1, n, scale, tokens, factors + v, factor_step, right, right_step);
}

/* The matrix memory of one head takes up its run of tokens (E9). */
INLINE void end_run(const Model *m, const Block *b, long row, long head, long run) {
    const long k = m->width / m->heads, own = row * m->heads + head;
    float *decays = b->run_decay + own * m->run, *writes = b->run_writes + own * m->run * k;
    const float decay = b->decay[own];
    for (long t = 0; t < run; t++) {
        const vf weight = all(expf(decay - decays[t]));
        for (long j = 0; j < k; j += LANES)
            put(writes + t * k + j, get(writes + t * k + j, k - j) * weight, k - j);
    }
    add_products(b->memory + own * k * k, k, k, expf(decay), run, writes, k, b->run_keys + own * m->run * k, k);
    pack_memory(m, b, row, head);
    b->decay[own] = 0.f;
    for (long t = 0; t < m->run; t++) decays[t] = INFINITY;
}

/* Some lines of a level's gradient take up the tokens that are kept (E13). */
INLINE void sum_gradient(const Level *l, long row, long first, long lines, long tokens) {
    const long width = l->width;
    const float *kept = l->kept + row * l->keeps * 2 * width;
    add_products(l->gradient + (row * width + first) * width, lines, width, 1.f, tokens, kept + first, 2 * width,
                 kept + width, 2 * width);
}

#endif
