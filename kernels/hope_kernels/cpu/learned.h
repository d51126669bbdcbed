/* Matrices of a row as its tokens read them: what every row begins with and what this one has learned, packed alike, added
 * while they are read. Where operands are bf16 both are rounded to it: half the bytes, and rounding takes its share of
 * what was learned alone. Writes go into the matrix in fp32, which is packed again from there.
 */
#ifndef HOPE_LEARNED_H
#define HOPE_LEARNED_H

#include "model.h"
#include "widen.h"

/* Numbers of 32 bits that a product's weights take. */
INLINE long packed_size(const Product *p) { return PADDED((long)p->outputs) * product_depth(p); }

/* Rows' matrices that are packed like `base`, one after the other. */
typedef struct {
    const Product *base;
    uint32_t *learned;
} Matrices;

/* A head's, of slabs of all heads. */
INLINE Matrices of_head(const Model *m, const Product *bases, uint32_t *learned, long head) {
    return (Matrices){bases + head, learned + head * m->rows * packed_size(bases)};
}

INLINE Matrices maps_of(const Model *m, const Block *b, long head) { return of_head(m, b->maps_base, b->maps_learned, head); }
INLINE Matrices memory_of(const Model *m, const Block *b, long head) {
    return of_head(m, b->memory_base, b->memory_learned, head);
}
INLINE Matrices level_of(const Level *l) { return (Matrices){&l->base, l->learned}; }

/* Sixteen words of a line, each an input or a pair of them: of what differs from `initial`, null for zeros. */
INLINE vu words_of(const Product *p, const float *line, const float *initial, long word) {
    const long at = p->bf16 ? 2 * word : word, left = p->inputs - at;
    vf x[2] = {all(0), all(0)};
    for (long i = 0; i < 1 + p->bf16; i++) {
        const long rest = left - i * LANES;
        if (rest <= 0) break;
        x[i] = get(line + at + i * LANES, rest);
        if (initial) x[i] -= get(initial + at + i * LANES, rest);
    }
    return p->bf16 ? two_bf16(x[0], x[1]) : (vu)x[0];
}

/* Packs a row's matrix without what it began with, sixteen outputs and words at a time. */
static void pack_learned(Matrices to, long row, const float *whole, const float *initial) {
    const Product *p = to.base;
    const long depth = product_depth(p), sixteens = PADDED((long)p->outputs) / LANES;
    uint32_t block[LANES][LANES];
    for (long sixteen = 0; sixteen < sixteens; sixteen++) {
        const long first = sixteen / TILE * TILE, wide = sixteens - first < TILE ? sixteens - first : TILE;
        uint32_t *own = to.learned + row * packed_size(p) + (first * depth + sixteen - first) * LANES;
        for (long word = 0; word < depth; word += LANES) {
            for (long i = 0; i < LANES; i++) {
                const long line = sixteen * LANES + i, at = line * p->inputs;
                const vu words = line < p->outputs ? words_of(p, whole + at, initial ? initial + at : 0, word) : (vu){0};
                memcpy(block[i], &words, sizeof words);
            }
            for (long i = 0; i < LANES && word + i < depth; i++)
                for (long j = 0; j < LANES; j++) own[(word + i) * wide * LANES + j] = block[j][i];
        }
    }
}

INLINE void pack_memory(const Model *m, const Block *b, long row, long head) {
    const long k = m->width / m->heads, own = row * m->heads + head;
    pack_learned(memory_of(m, b, head), row, b->memory + own * k * k, 0);
}

INLINE void pack_maps(const Model *m, const Block *b, long row, long head) {
    const long k = m->width / m->heads, size = (2 * k + 2) * k, own = row * m->heads + head;
    pack_learned(maps_of(m, b, head), row, b->maps + own * size, b->maps_initial + head * size);
}

INLINE void pack_level(const Level *l, long row) {
    pack_learned(level_of(l), row, l->delta + row * (long)l->width * l->width, 0);
}

INLINE vf low_half(vu w) { return (vf)(w << 16); }
INLINE vf high_half(vu w) { return (vf)(w & 0xffff0000u); }

/* y[i] = (base + fade learned) x[i] in `wide` sixteens from output `out` on, for n vectors; these and the sums are filled
 * up with zeros. next: learned that is read next, fetched meanwhile; null for none.
 */
INLINE void read_sixteens(const Product *p, const uint32_t *learned, int bf16, int wide, int n, float fade, long out,
                          const float *const *x, float *const *y, const uint32_t *next) {
    const long depth = product_depth(p), step = wide * LANES, start = out * depth;
    const uint32_t *base = (const uint32_t *)p->weights + start;
    vf s[2][2][TILE];
    UNROLLED for (int i = 0; i < n; i++)
        UNROLLED for (int c = 0; c < wide; c++) s[i][0][c] = s[i][1][c] = all(0);
    const long words = bf16 ? (p->inputs + 1) / 2 : p->inputs;
    for (long word = 0; word < words; word++)
        UNROLLED for (int c = 0; c < wide; c++) {
            const long at = word * step + c * LANES;
            vu first, own;
            memcpy(&first, base + at, sizeof first);
            memcpy(&own, learned + start + at, sizeof own);
            if (next) fetch((const float *)(const void *)(next + start + at));
            const vf low = fma_(all(fade), bf16 ? low_half(own) : (vf)own, bf16 ? low_half(first) : (vf)first);
            const vf high = bf16 ? fma_(all(fade), high_half(own), high_half(first)) : all(0);
            UNROLLED for (int i = 0; i < n; i++) {
                s[i][0][c] = fma_(low, all(x[i][bf16 ? 2 * word : word]), s[i][0][c]);
                if (bf16) s[i][1][c] = fma_(high, all(x[i][2 * word + 1]), s[i][1][c]);
            }
        }
    UNROLLED for (int i = 0; i < n; i++)
        UNROLLED for (int c = 0; c < wide; c++) store(y[i] + out + c * LANES, s[i][0][c] + s[i][1][c]);
}

#define READ(bf16, wide) read_sixteens(p, learned, bf16, wide, n, fade, out, x, y, next)

/* The same of a tile. */
INLINE void read_tile_of(const Product *p, const uint32_t *learned, int n, float fade, long tile, const float *const *x,
                         float *const *y, const uint32_t *next) {
    const long out = tile * TILE * LANES, left = PADDED((long)p->outputs) - out;
    switch (left < TILE * LANES ? left / LANES : TILE) {
    case 1: p->bf16 ? READ(1, 1) : READ(0, 1); break;
    case 2: p->bf16 ? READ(1, 2) : READ(0, 2); break;
    case 3: p->bf16 ? READ(1, 3) : READ(0, 3); break;
    default: p->bf16 ? READ(1, TILE) : READ(0, TILE);
    }
}

/* y = M x, of row `row`, in the outputs of a tile. next: the row that is read next, negative for none. */
static void read_tile(Matrices m, long row, long tile, const float *x, float *y, long next) {
    const long size = packed_size(m.base);
    read_tile_of(m.base, m.learned + row * size, 1, 1.f, tile, &x, &y, next < 0 ? 0 : m.learned + next * size);
}

/* y[i] = (base + fade learned) x[i], for both. */
static void read_both(Matrices m, long row, float fade, const float *const x[2], float *const y[2], long next) {
    const long size = packed_size(m.base);
    for (long tile = 0; tile < product_tiles(m.base); tile++)
        read_tile_of(m.base, m.learned + row * size, 2, fade, tile, x, y, next < 0 ? 0 : m.learned + next * size);
}

#endif
