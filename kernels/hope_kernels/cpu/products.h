/* y = W x + b for frozen W and some rows x, with one order of summation whatever their number.
 *
 * W lies in tiles of 64 outputs (the last may have fewer sixteens). Within a tile, for each input, or in bf16
 * for each pair of inputs, 16 outputs side by side: one sequential stream. An output's sum runs along the
 * inputs in one register, in fp32.
 */
#ifndef HOPE_PRODUCTS_H
#define HOPE_PRODUCTS_H

#include "tiles.h"
#include "vector.h"

#define TILE 4 /* sixteens of outputs */
#ifdef __AVX512F__
#define ROWS 4 /* that share what is loaded of W: as many as there are registers for */
#else
#define ROWS 2
#endif

typedef struct {
    const void *weights; /* packed, see hope_pack */
    const float *bias;   /* padded with zeros to sixteens */
    int32_t outputs, inputs, bf16;
} Product;

INLINE int product_tiles(const Product *p) { return (p->outputs + TILE * LANES - 1) / (TILE * LANES); }

/* Inputs, or pairs of them in sixteens: what each output has a number of 32 bits for. */
INLINE long product_depth(const Product *p) { return p->bf16 ? PADDED((p->inputs + 1) / 2) : p->inputs; }

/* W [outputs, inputs] row by row -> its tiles; `to` has room for all sixteens. */
EXPORT void hope_pack(const Product *p, const float *w, uint32_t *to) {
    const long depth = product_depth(p), sixteens = (p->outputs + LANES - 1) / LANES;
    for (long tile = 0; tile * TILE < sixteens; tile++) {
        const long wide = sixteens - tile * TILE < TILE ? sixteens - tile * TILE : TILE;
        for (long at = 0; at < depth; at++)
            for (long i = 0; i < wide * LANES; i++) {
                const long out = tile * TILE * LANES + i;
                float pair[2] = {0, 0};
                const long first = p->bf16 ? 2 * at : at;
                if (out < p->outputs && first < p->inputs) pair[0] = w[out * p->inputs + first];
                if (out < p->outputs && first + 1 < p->inputs) pair[1] = w[out * p->inputs + first + 1];
                if (p->bf16) *to++ = (round_bf16(all(pair[0]))[0] >> 16) | round_bf16(all(pair[1]))[0];
                else memcpy(to++, pair, sizeof(float));
            }
    }
}

/* x [n] -> operands of a product: as they are, or pairs of bf16. Padded with zeros to sixteens. */
static void operands(const float *x, long n, int bf16, uint32_t *to) {
    if (!bf16) {
        for (long i = 0; i < n; i += LANES) store((float *)to + i, get(x + i, n - i));
        return;
    }
    for (long i = 0; i < n; i += 2 * LANES) {
        const vu a = round_bf16(get(x + i, n - i));
        const vu b = n - i > LANES ? round_bf16(get(x + i + LANES, n - i - LANES)) : (vu){0};
        const vu even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const vu odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        const vu pairs = (even >> 16) | odd;
        memcpy(to + i / 2, &pairs, sizeof pairs);
    }
}

/* y[at ...] = or += s, of as many as there are outputs. */
INLINE void put_sum(float *y, long at, long outputs, vf s, int add) {
    put(y + at, add ? get(y + at, outputs - at) + s : s, outputs - at);
}

/* `wide` sixteens of outputs from `out` on, of `rows` rows; of W, `step` numbers an input. */
INLINE void some_of(const Product *p, int bf16, int wide, int rows, const uint32_t *w, long step, const uint32_t *x,
                    long x_step, long out, float *y, long y_step, int add) {
    vf s[4][TILE];
    UNROLLED for (int r = 0; r < rows; r++)
        UNROLLED for (int c = 0; c < wide; c++) s[r][c] = load(p->bias + out + c * LANES);
    const long depth = product_depth(p);
    for (long at = 0; at < depth; at++, w += step)
        UNROLLED for (int c = 0; c < wide; c++) {
            vu v;
            memcpy(&v, w + c * LANES, sizeof v);
            UNROLLED for (int r = 0; r < rows; r++) {
                float factor;
                memcpy(&factor, x + r * x_step + at, sizeof factor);
                s[r][c] = bf16 ? add_pair(s[r][c], v, x[r * x_step + at]) : fma_((vf)v, all(factor), s[r][c]);
            }
        }
    UNROLLED for (int r = 0; r < rows; r++)
        UNROLLED for (int c = 0; c < wide; c++) put_sum(y + r * y_step, out + c * LANES, p->outputs, s[r][c], add);
}

#define SOME(bf16, wide, rows) some_of(p, bf16, wide, rows, w, step, x, x_step, out, y, y_step, add)

/* As many rows as there are instructions for, at most `left`; how many. */
#define SOME_ROWS(bf16, wide) \
    (left >= 4 && ROWS >= 4 ? (SOME(bf16, wide, 4), 4) \
     : left >= 2 && ROWS >= 2 ? (SOME(bf16, wide, 2), 2) : (SOME(bf16, wide, 1), 1))

static int whole_tile(const Product *p, const uint32_t *w, long step, const uint32_t *x, long x_step, long out,
                      float *y, long y_step, int add, long left) {
    return p->bf16 ? SOME_ROWS(1, TILE) : SOME_ROWS(0, TILE);
}

static int one_sixteen(const Product *p, const uint32_t *w, long step, const uint32_t *x, long x_step, long out,
                       float *y, long y_step, int add, long left) {
    return p->bf16 ? SOME_ROWS(1, 1) : SOME_ROWS(0, 1);
}

/* One tile for n rows: y[row] = or += W x[row] + b in its outputs. Steps lead from row to row. */
static void product(const Product *p, long tile, long n, const uint32_t *x, long x_step, float *y, long y_step,
                    int add) {
    const long sixteens = (p->outputs + LANES - 1) / LANES, first = tile * TILE, out = first * LANES;
    const long width = sixteens - first < TILE ? sixteens - first : TILE, step = width * LANES;
    const uint32_t *w = (const uint32_t *)p->weights + out * product_depth(p);
#ifdef HOPE_AMX
    if (p->bf16 && amx_allowed()) {
        float sums[LANES * TILE * LANES];
        for (long row = 0; row < n; row += LANES) {
            const long some = n - row < LANES ? n - row : LANES;
            multiply_tiles(w, product_depth(p), width, some, x + row * x_step, x_step, p->bias + out, sums);
            for (long r = 0; r < some; r++)
                for (long c = 0; c < step; c += LANES)
                    put_sum(y + (row + r) * y_step, out + c, p->outputs, load(sums + r * step + c), add);
        }
        return;
    }
#endif
    for (long row = 0, some; row < n; row += some) {
        const uint32_t *own = x + row * x_step;
        float *to = y + row * y_step;
        some = 0;
        if (width == TILE) some = whole_tile(p, w, step, own, x_step, out, to, y_step, add, n - row);
        else
            for (long c = 0; c < width; c++)
                some = one_sixteen(p, w + c * LANES, step, own, x_step, out + c * LANES, to, y_step, add, n - row);
    }
}

#endif
