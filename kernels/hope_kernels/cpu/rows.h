/* Products with frozen weights of many rows, shared by threads tile by tile. */
#ifndef HOPE_ROWS_H
#define HOPE_ROWS_H

#include "norms.h"
#include "work.h"

/* y [count, outputs] = base + x W^T + b, of the first outputs of W and of its first inputs. Steps in numbers; rows of x can
 * be read up to a multiple of sixteen.
 */
typedef struct {
    const Frozen *weights;
    const uint16_t *x;
    const float *base; /* with y's step, may be y; null for zeros */
    float *y, *totals;
    long count, inputs, outputs, x_step, y_step, totals_step;
} Product;

/* A tile as weights of its own, of the first `inputs`. */
INLINE Frozen tile_of(const Frozen *p, long tile, long inputs) {
    Frozen own = *p;
    own.weights = (const uint8_t *)p->weights + tile * TILE * unit_bytes(p->kind) * units_of(p->kind, frozen_depth(p));
    own.scales = p->scales + tile * WIDE;
    own.bias = p->bias + tile * WIDE;
    own.outputs = p->outputs - (int32_t)tile * WIDE < WIDE ? p->outputs - (int32_t)tile * WIDE : WIDE;
    own.inputs = (int32_t)inputs;
    return own;
}

/* In how many parts rows are taken, each about as large as the others. */
INLINE long shares_of(long count) { return (count + SHARING - 1) / SHARING; }

/* item: a tile and some rows. */
static void product_item(const void *context, long item) {
    const Product *o = context;
    const long shares = shares_of(o->count), some = PADDED((o->count + shares - 1) / shares), tile = item / shares;
    const long first = item % shares * some, rows = o->count - first < some ? o->count - first : some;
    if (rows <= 0) return;
    float sums[SHARING * WIDE] __attribute__((aligned(64)));
    const Frozen p = tile_of(o->weights, tile, o->inputs);
    const Operands own = {
        .x = (const uint32_t *)(const void *)(o->x + first * o->x_step),
        .totals = p.kind == INT4 ? o->totals + first * o->totals_step : 0,
        .step = o->x_step / 2,
        .totals_step = o->totals_step,
    };
    frozen_tile(&p, 0, rows, &own, sums);
    for (long row = 0; row < rows; row++)
        for (long c = 0; c < WIDE && tile * WIDE + c < o->outputs; c += LANES) {
            const long out = tile * WIDE + c, left = o->outputs - out, to = (first + row) * o->y_step + out;
            const vf found = finished(&p, c, load(sums + row * WIDE + c));
            put(o->y + to, o->base ? get(o->base + to, left) + found : found, left);
        }
}

static void total_item(const void *context, long row) {
    const Product *o = context;
    total_groups(o->x + row * o->x_step, frozen_groups(o->weights->inputs), o->totals + row * o->totals_step);
}

INLINE void multiply_rows(Worker *w, const Product *o) {
    if (o->weights->kind == INT4) share(w, total_item, o, o->count);
    share(w, product_item, o, (o->outputs + WIDE - 1) / WIDE * shares_of(o->count));
}

#endif
