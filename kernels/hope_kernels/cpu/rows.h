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

/* A tile and some rows. */
typedef struct {
    long tile, first, rows;
} Block;

INLINE Block block_at(long count, long item) {
    const long shares = shares_of(count), some = PADDED((count + shares - 1) / shares), first = item % shares * some;
    return (Block){item / shares, first, count - first < some ? count - first : some};
}

/* sums [SHARING, WIDE]: of a block that has rows, before the bias; returns its weights. */
INLINE Frozen block_sums(const Product *o, Block at, float *sums) {
    const Frozen p = tile_of(o->weights, at.tile, o->inputs);
    const Operands own = {
        .x = (const uint32_t *)(const void *)(o->x + at.first * o->x_step),
        .totals = p.kind == INT4 ? o->totals + at.first * o->totals_step : 0,
        .step = o->x_step / 2,
        .totals_step = o->totals_step,
    };
    frozen_tile(&p, 0, at.rows, &own, sums);
    return p;
}

static void product_item(const void *context, long item) {
    const Product *o = context;
    const Block at = block_at(o->count, item);
    if (at.rows <= 0) return;
    float sums[SHARING * WIDE] __attribute__((aligned(64)));
    const Frozen p = block_sums(o, at, sums);
    for (long row = 0; row < at.rows; row++)
        for (long c = 0; c < WIDE && at.tile * WIDE + c < o->outputs; c += LANES) {
            const long out = at.tile * WIDE + c, left = o->outputs - out, to = (at.first + row) * o->y_step + out;
            const vf found = finished(&p, c, load(sums + row * WIDE + c));
            put(o->y + to, o->base ? get(o->base + to, left) + found : found, left);
        }
}

static void total_item(const void *context, long row) {
    const Product *o = context;
    total_groups(o->x + row * o->x_step, frozen_groups(o->weights->inputs), o->totals + row * o->totals_step);
}

/* A product whose outputs are gates and then as many ups, whole tiles of either; y is not needed. */
typedef struct {
    Product product;
    uint16_t *inner; /* [count, outputs / 2]: silu(gates) ups, bf16 */
    long inner_step;
} Gated;

/* item: a tile of gates, that of their ups and some rows. */
static void gated_item(const void *context, long item) {
    const Gated *o = context;
    const Block gates = block_at(o->product.count, item);
    const Block ups = {gates.tile + o->product.outputs / 2 / WIDE, gates.first, gates.rows};
    if (gates.rows <= 0) return;
    float gate_sums[SHARING * WIDE] __attribute__((aligned(64))), up_sums[SHARING * WIDE] __attribute__((aligned(64)));
    const Frozen gate = block_sums(&o->product, gates, gate_sums), up = block_sums(&o->product, ups, up_sums);
    for (long row = 0; row < gates.rows; row++)
        for (long c = 0; c < WIDE; c += 2 * LANES) {
            vf inner[2];
            UNROLLED for (int i = 0; i < 2; i++) {
                const long at = c + i * LANES;
                inner[i] = silu(finished(&gate, at, load(gate_sums + row * WIDE + at))) *
                           finished(&up, at, load(up_sums + row * WIDE + at));
            }
            put_pairs(o->inner + (gates.first + row) * o->inner_step + gates.tile * WIDE + c, inner[0], inner[1]);
        }
}

INLINE void multiply_rows(Worker *w, const Product *o) {
    if (o->weights->kind == INT4) share(w, total_item, o, o->count);
    share(w, product_item, o, (o->outputs + WIDE - 1) / WIDE * shares_of(o->count));
}

INLINE void multiply_gated(Worker *w, const Gated *o) {
    const Product *own = &o->product;
    if (own->weights->kind == INT4) share(w, total_item, own, own->count);
    share(w, gated_item, o, own->outputs / 2 / WIDE * shares_of(own->count));
}

#endif
