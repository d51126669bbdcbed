/* y = W x + b for frozen W and operands x of bf16, summed in fp32 in one order whatever the number of rows.
 *
 * W lies in tiles of 64 outputs (the last may have fewer sixteens), as one sequential stream. A piece of a tile is
 * made into pairs of bf16 where it is not, and multiplied with all rows while the first cache holds it. A sum runs
 * along the pairs of inputs; that it waits in memory between two pieces changes no bit. Whole numbers of 8 and 4 bits
 * are exact in bf16: scales and zeros are applied to sums, of all inputs or of a group. Blocks are made into bf16 whole.
 */
#ifndef HOPE_FROZEN_H
#define HOPE_FROZEN_H

#include "tiles.h"
#include "widen.h"

#define TILE 4        /* sixteens of outputs */
#define WIDE (TILE * LANES)
#define PIECE 64      /* pairs of inputs that are multiplied at once */
#define SHARING 64    /* rows that share a piece */
#ifdef __AVX512F__
#define ROWS 4 /* that share a register of W */
#else
#define ROWS 2
#endif

typedef struct {
    const void *weights;
    const float *scales; /* of 8 bits; filled up to sixteens */
    const float *bias;   /* zeros up to sixteens */
    int32_t outputs, inputs, kind, none;
} Frozen;

INLINE long frozen_depth(const Frozen *p) { return PADDED((p->inputs + 1L) / 2); }

INLINE long frozen_groups(long inputs) { return inputs / (2 * GROUP); }

INLINE long frozen_tiles(const Frozen *p) { return (p->outputs + WIDE - 1L) / WIDE; }

/* What a group's sum becomes of; a row's total is that of its inputs in the group. */
typedef struct {
    const uint8_t *scales; /* of the first sixteen, GROUP_BYTES to the next; null for none */
    const float *totals;   /* of the first row */
    long totals_step;
} Group;

/* sums[rows] of a sixteen, WIDE to the next row, take up s[rows] of a group. */
INLINE void fold(const Group *g, long c, long row, long rows, const float *s, float *sums) {
    const uint16_t *own = (const uint16_t *)(const void *)(g->scales + c * GROUP_BYTES);
    const vf scale = widened(own), zero = widened(own + LANES);
    for (long r = 0; r < rows; r++, s += WIDE, sums += WIDE) {
        const vf zeros = fma_(all(g->totals[(row + r) * g->totals_step]), zero, load(sums));
        store(sums, fma_(load(s), scale, zeros));
    }
}

/* sums[rows][WIDE] += of `wide` sixteens from `first` on; W has `step` numbers a pair. */
INLINE void add_some(const uint32_t *w, long step, long depth, int wide, int rows, const uint32_t *x, long x_step,
                     const Group *g, long first, long row, float *sums) {
    vf s[ROWS][TILE];
    UNROLLED for (int r = 0; r < rows; r++)
        UNROLLED for (int c = 0; c < wide; c++) s[r][c] = g->scales ? all(0) : load(sums + r * WIDE + c * LANES);
    for (long at = 0; at < depth; at++, w += step)
        UNROLLED for (int c = 0; c < wide; c++) {
            vu v;
            memcpy(&v, w + c * LANES, sizeof v);
            UNROLLED for (int r = 0; r < rows; r++) s[r][c] = add_pair(s[r][c], v, x[r * x_step + at]);
        }
    float made[ROWS * WIDE];
    float *to = g->scales ? made : sums;
    UNROLLED for (int r = 0; r < rows; r++)
        UNROLLED for (int c = 0; c < wide; c++) store(to + r * WIDE + c * LANES, s[r][c]);
    for (int c = 0; g->scales && c < wide; c++) fold(g, first + c, row, rows, made + c * LANES, sums + c * LANES);
}

#define ADD_ROWS(wide, first) \
    for (; rows - row >= ROWS; row += ROWS) \
        add_some(w + (first) * LANES, step, depth, wide, ROWS, x + row * x_step, x_step, g, first, row, \
                 sums + row * WIDE + (first) * LANES); \
    for (; row < rows; row++) \
        add_some(w + (first) * LANES, step, depth, wide, 1, x + row * x_step, x_step, g, first, row, \
                 sums + row * WIDE + (first) * LANES);

/* sums[rows][WIDE] += x W^T of some inputs, of one group where there are groups. */
static void add_piece(const uint32_t *w, long wide, long depth, long rows, const uint32_t *x, long x_step, const Group *g,
                      float *sums) {
    const long step = wide * LANES;
    long row = 0;
    if (wide == TILE) {
        ADD_ROWS(TILE, 0)
        return;
    }
    for (long c = 0; c < wide; c++, row = 0) { ADD_ROWS(1, c) }
}

#ifdef HOPE_AMX
#define TIMES(c, b) \
    if (wide > c) { \
        _tile_loadd(b, w + c * LANES, wide * LANES * 4); \
        _tile_dpbf16ps(c, 4, b); \
    }

#define OF_TILES(what) \
    what(0) \
    if (wide > 1) what(1) \
    if (wide > 2) what(2) \
    if (wide > 3) what(3)
#define LOAD_TILE(c) _tile_loadd(c, to + c * LANES, WIDE * 4);
#define CLEAR_TILE(c) _tile_zero(c);
#define STORE_TILE(c) _tile_stored(c, to + c * LANES, WIDE * 4);

/* Tiles 0 to 3 += of sixteen rows or as many as tiles are shaped for. `fetched` bytes from SOON on are fetched for each
 * sixteen pairs.
 */
INLINE void times_tiles(const uint32_t *w, long wide, long depth, const uint32_t *x, long x_step, long fetched) {
    for (long at = 0; at < depth; at += LANES, w += wide * LANES * LANES) {
        fetch_bytes((const char *)w + SOON, fetched);
        _tile_loadd(4, x + at, x_step * 4);
        TIMES(0, 5) TIMES(1, 6) TIMES(2, 7) TIMES(3, 5)
    }
}

/* to[16][WIDE] = or += */
static void add_tiles(const uint32_t *w, long wide, long depth, const uint32_t *x, long x_step, int add, float *to) {
    if (add) { OF_TILES(LOAD_TILE) }
    else { OF_TILES(CLEAR_TILE) }
    times_tiles(w, wide, depth, x, x_step, 0);
    OF_TILES(STORE_TILE)
}

static void shape_tiles(long rows) {
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.line_bytes[i] = 64;
        shapes.lines[i] = i < 5 ? (uint8_t)rows : LANES;
    }
    READ_WHOLE(shapes);
    _tile_loadconfig(&shapes);
}
#endif

/* totals[groups] of a row's operands. */
INLINE void total_groups(const uint16_t *x, long groups, float *totals) {
    for (long g = 0; g < groups; g++) totals[g] = sum(widened(x + g * 2 * GROUP) + widened(x + g * 2 * GROUP + LANES));
}

/* Operands of some rows. In 4 bits with totals[row][group]. */
typedef struct {
    const uint32_t *x;
    const float *totals;
    long step, totals_step;
} Operands;

#ifdef HOPE_AMX
/* As add_piece. */
INLINE void add_rows(const uint32_t *w, long wide, long depth, long rows, const uint32_t *x, long x_step, const Group *g,
                     float *sums) {
    float made[LANES * WIDE] __attribute__((aligned(64)));
    for (long row = 0; row < rows; row += LANES) {
        const long some = rows - row < LANES ? rows - row : LANES;
        float *to = sums + row * WIDE;
        add_tiles(w, wide, depth, x + row * x_step, x_step, !g->scales, g->scales ? made : to);
        for (long c = 0; g->scales && c < wide; c++) fold(g, c, row, some, made + c * LANES, to + c * LANES);
    }
}
#endif

#ifdef HOPE_AMX
/* sums[16][WIDE] = x W^T of up to sixteen rows, for which sums need not wait in memory; not of groups. */
static void few_rows(int kind, const uint8_t *w, long wide, long depth, const Operands *o, uint32_t *made, float *to) {
    OF_TILES(CLEAR_TILE)
    const long fetched = kind == BF16 ? wide * LANES * LANES * 4 : 0;
    for (long at = 0; at < depth; at += PIECE) {
        const long some = depth - at < PIECE ? depth - at : PIECE;
        times_tiles(widen(kind, w, wide, some, made), wide, some, o->x + at, o->step, fetched);
        w += wide * some * unit_bytes(kind);
    }
    OF_TILES(STORE_TILE)
}

#define TIMES_AND_WIDEN(c, b) \
    if (more && wide > c) widen_group(kind, next + c * unit_bytes(kind), then + c * LANES, wide * LANES); \
    TIMES(c, b)

/* As few_rows, of groups: the next one is made while one is multiplied. */
INLINE void few_rows_in_groups(int kind, const uint8_t *next, long wide, long depth, const Operands *o, uint32_t *made, float *to) {
    uint32_t *w = made, *then = made + GROUP * WIDE;
    OF_TILES(CLEAR_TILE)
    widen(kind, next, wide, GROUP, w);
    for (long at = 0; at < depth; at += GROUP) {
        const int more = at + GROUP < depth;
        next += wide * unit_bytes(kind);
        _tile_loadd(4, o->x + at, o->step * 4);
        TIMES_AND_WIDEN(0, 5) TIMES_AND_WIDEN(1, 6) TIMES_AND_WIDEN(2, 7) TIMES_AND_WIDEN(3, 5)
        uint32_t *free = w;
        w = then, then = free;
    }
    OF_TILES(STORE_TILE)
}
#endif

/* sums[rows][WIDE] = x W^T in the outputs of a tile, before the bias; at most SHARING rows. Rows of x can be read up
 * to a multiple of sixteen beyond sixteen, and sums has as many.
 */
static void frozen_tile(const Frozen *p, long tile, long rows, const Operands *o, float *sums) {
    const long sixteens = (p->outputs + LANES - 1) / LANES, depth = frozen_depth(p);
    const long wide = sixteens - tile * TILE < TILE ? sixteens - tile * TILE : TILE;
    const long bytes = unit_bytes(p->kind);
    const uint8_t *w = (const uint8_t *)p->weights + tile * TILE * bytes * units_of(p->kind, depth);
    uint32_t made[PIECE * WIDE] __attribute__((aligned(64)));
#ifdef HOPE_AMX
    const int tiles = amx_allowed();
    if (tiles) shape_tiles(rows < LANES ? rows : LANES);
    if (tiles && rows <= LANES && p->kind != INT4) {
        if (p->kind == BLOCK4) few_rows_in_groups(BLOCK4, w, wide, depth, o, made, sums);
        else if (p->kind == BLOCK8) few_rows_in_groups(BLOCK8, w, wide, depth, o, made, sums);
        else few_rows(p->kind, w, wide, depth, o, made, sums);
        _tile_release();
        return;
    }
#endif
    memset(sums, 0, (size_t)(rows < LANES ? rows : PADDED(rows)) * WIDE * sizeof *sums);
    const long part = p->kind == INT4 ? GROUP : PIECE;
    const long most = p->kind == INT4 ? PIECE / 2 : PIECE;
    for (long at = 0; at < depth; at += most) {
        const long some = depth - at < most ? depth - at : most;
        const uint32_t *piece = widen(p->kind, w, wide, some, made);
        for (long i = 0; i < some; i += part) {
            const long pairs = some - i < part ? some - i : part;
            const uint32_t *own = piece + i * wide * LANES, *x = o->x + at + i;
            const uint8_t *scales = p->kind == INT4 ? w + i / GROUP * wide * GROUP_BYTES : 0;
            const Group g = {scales, scales ? o->totals + (at + i) / GROUP : 0, o->totals_step};
#ifdef HOPE_AMX
            if (tiles) {
                add_rows(own, wide, pairs, rows, x, o->step, &g, sums);
                continue;
            }
#endif
            add_piece(own, wide, pairs, rows, x, o->step, &g, sums);
        }
        w += wide * bytes * units_of(p->kind, some);
    }
#ifdef HOPE_AMX
    if (tiles) _tile_release();
#endif
}

/* Sixteen results from out on. */
INLINE vf finished(const Frozen *p, long out, vf s) {
    return p->kind == INT8 ? fma_(s, load(p->scales + out), load(p->bias + out)) : s + load(p->bias + out);
}

#endif
