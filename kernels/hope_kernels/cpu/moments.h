/* Products of lines of several sites with a matrix of each, in one call. Lines are two numbers of bf16, whose sum has 16
 * bits: so what they come to grows with them as it should, however coarse the matrices are.
 */
#ifndef HOPE_MOMENTS_H
#define HOPE_MOMENTS_H

#include "pool.h"
#include "rows.h"
#include "tangent.h"

/* Of each of S sites N lines of D numbers. */
typedef struct {
    const Frozen *matrices; /* [S] of D outputs and inputs */
    const float *x;         /* [S, N, D] */
    float *y;               /* [S, N, D]: x W^T */
    uint16_t *operands;     /* [2, S, N in sixteens, hope_moments_line]: x rounded, and what that leaves */
    int64_t sites, count, width;
} Moments;

INLINE uint16_t *moment_half(const Moments *m, long part, long site) {
    return m->operands + (part * m->sites + site) * PADDED(m->count) * step_of(m->width);
}

static void halve_item(const void *context, long item) {
    const Moments *m = context;
    const long line = item % m->count * step_of(m->width), n = m->width;
    const float *x = m->x + item * n;
    uint16_t *first = moment_half(m, 0, item / m->count) + line, *second = moment_half(m, 1, item / m->count) + line;
    for (long i = 0; i < n; i += 2 * LANES) {
        const vf low = get(x + i, n - i), high = n - i > LANES ? get(x + i + LANES, n - i - LANES) : all(0);
        put_pairs(first + i, low, high);
        put_pairs(second + i, low - widened(first + i), high - widened(first + i + LANES));
    }
}

INLINE long moment_tiles(const Moments *m) { return (m->width + WIDE - 1) / WIDE * shares_of(m->count); }

/* Both halves by a tile while the caches hold it. */
static void moment_item(const void *context, long item) {
    const Moments *m = context;
    const long site = item / moment_tiles(m);
    float *y = m->y + site * m->count * m->width;
    for (int half = 0; half < 2; half++) {
        const Product own = {
            .weights = m->matrices + site,
            .x = moment_half(m, half, site),
            .base = half ? y : 0,
            .y = y,
            .count = m->count,
            .inputs = m->width,
            .outputs = m->width,
            .x_step = step_of(m->width),
            .y_step = m->width,
        };
        product_item(&own, item % moment_tiles(m));
    }
}

typedef struct {
    const Moments *call;
    Phase *phases;
} Multiplying;

static void multiply_all(void *data) {
    const Multiplying *own = data;
    Worker w = {own->phases, 0};
    share(&w, halve_item, own->call, own->call->sites * own->call->count);
    share(&w, moment_item, own->call, own->call->sites * moment_tiles(own->call));
}

/* phases: room for 2 of them, zeros; null for one thread. */
EXPORT void hope_moments(const Moments *m, Phase *phases, int32_t threads) {
    Multiplying call = {m, phases};
    together(multiply_all, &call, phases ? threads : 1);
}

EXPORT int64_t hope_moments_line(int64_t width) { return step_of(width); }
EXPORT int64_t hope_moments_phases(void) { return 2 * (int64_t)sizeof(Phase); }

#endif
