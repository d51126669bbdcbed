/* y = W x + b for frozen W of 16, 8 or 4 bits and operands x of bf16, summed in fp32 in one order whatever the
 * number of rows.
 *
 * W lies in tiles of 64 outputs (the last may have fewer sixteens), as one sequential stream. A piece of a tile is
 * made into pairs of bf16 where it is not, and multiplied with all rows while the first cache holds it. A sum runs
 * along the pairs of inputs; that it waits in memory between two pieces changes no bit. Whole numbers of 8 and 4 bits
 * are exact in bf16: scales and zeros are applied to sums, of all inputs or of a group.
 */
#ifndef HOPE_FROZEN_H
#define HOPE_FROZEN_H

#include "tiles.h"
#include "vector.h"

#define TILE 4        /* sixteens of outputs */
#define WIDE (TILE * LANES)
#define PIECE 64      /* pairs of inputs that are multiplied at once */
#define GROUP 16      /* pairs of inputs that share scale and zero in 4 bits */
#define SHARING 64    /* rows that share a piece */
#ifdef __AVX512F__
#define ROWS 4 /* that share a register of W */
#else
#define ROWS 2
#endif

enum { BF16, INT8, INT4 };

/* In 16 bits by pair and output; in 8 bits too, whole numbers with a scale for each output. In 4 bits by group of
 * pairs and sixteen of outputs: scales and zeros in bf16, then for every two pairs 32 bytes, whose lower halves are
 * the first pair's numbers and whose upper halves are the second one's, 8 more than they stand for.
 */
typedef struct {
    const void *weights;
    const float *scales; /* of 8 bits; filled up to sixteens */
    const float *bias;   /* zeros up to sixteens */
    int32_t outputs, inputs, kind, none;
} Frozen;

typedef int8_t signed_bytes __attribute__((vector_size(16)));
typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint16_t half_words __attribute__((vector_size(32)));

#define GROUP_BYTES (4 * LANES + GROUP * LANES) /* of 4 bits, a sixteen of outputs */

INLINE long frozen_depth(const Frozen *p) { return PADDED((p->inputs + 1L) / 2); }

INLINE long frozen_groups(long inputs) { return inputs / (2 * GROUP); }

INLINE long frozen_tiles(const Frozen *p) { return (p->outputs + WIDE - 1L) / WIDE; }

/* Bytes of a pair of inputs, or in 4 bits of a group of them, for sixteen outputs. */
INLINE long unit_bytes(int kind) { return kind == BF16 ? 4 * LANES : kind == INT8 ? 2 * LANES : GROUP_BYTES; }

INLINE long units_of(int kind, long pairs) { return kind == INT4 ? pairs / GROUP : pairs; }

/* Thirty-two numbers as bf16, in order. */
INLINE vu two_bf16(vf low, vf high) {
#ifdef __AVX512BF16__
    return (vu)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#else
    const half_words a = __builtin_convertvector(round_bf16(low) >> 16, half_words);
    const half_words b = __builtin_convertvector(round_bf16(high) >> 16, half_words);
    vu both;
    memcpy(&both, &a, 32);
    memcpy((char *)&both + 32, &b, 32);
    return both;
#endif
}

/* Sixteen bf16, bytes or signed bytes. The compiler's own conversions of small lanes go one by one. */
#if defined(__AVX512F__)
INLINE vf widened(const uint16_t *p) {
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16);
}
INLINE vi bytes_at(const uint8_t *p) { return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)); }
INLINE vf floats_of(vi x) { return (vf)_mm512_cvtepi32_ps((__m512i)x); }
INLINE vf signed_at(const int8_t *p) {
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
#elif defined(__AVX2__)
typedef union { vf f; vi i; __m256i half[2]; } Halves;

INLINE vf widened(const uint16_t *p) {
    Halves to;
    for (int i = 0; i < 2; i++)
        to.half[i] = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 8 * i))), 16);
    return to.f;
}
INLINE vi bytes_at(const uint8_t *p) {
    Halves to;
    for (int i = 0; i < 2; i++) to.half[i] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * i)));
    return to.i;
}
INLINE vf floats_of(vi x) {
    Halves from = {.i = x}, to;
    for (int i = 0; i < 2; i++) to.half[i] = (__m256i)_mm256_cvtepi32_ps(from.half[i]);
    return to.f;
}
INLINE vf signed_at(const int8_t *p) {
    Halves to;
    for (int i = 0; i < 2; i++) to.half[i] = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * i)));
    return floats_of(to.i);
}
#else
INLINE vf widened(const uint16_t *p) {
    half_words v;
    memcpy(&v, p, sizeof v);
    return (vf)(__builtin_convertvector(v, vu) << 16);
}
INLINE vi bytes_at(const uint8_t *p) {
    bytes16 v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vi);
}
INLINE vf floats_of(vi x) { return __builtin_convertvector(x, vf); }
INLINE vf signed_at(const int8_t *p) {
    signed_bytes v;
    memcpy(&v, p, sizeof v);
    return floats_of(__builtin_convertvector(v, vi));
}
#endif

/* bf16 of 7 down to -8. */
#define VALUES \
    0x40e0, 0x40c0, 0x40a0, 0x4080, 0x4040, 0x4000, 0x3f80, 0, (short)0xbf80, (short)0xc000, (short)0xc040, (short)0xc080, \
    (short)0xc0a0, (short)0xc0c0, (short)0xc0e0, (short)0xc100

/* Two pairs of sixteen outputs, of 32 bytes. */
INLINE void widen_two(const uint8_t *from, uint32_t *to, long step) {
#ifdef __AVX512BW__
    const __m512i values = _mm512_set_epi16(VALUES, VALUES);
    const __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)from));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(both, values));
    _mm512_storeu_si512(to + step, _mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), values));
#else
    const vi a = bytes_at(from), b = bytes_at(from + LANES);
    const vu first = two_bf16(floats_of((a & 15) - 8), floats_of((b & 15) - 8));
    const vu second = two_bf16(floats_of((a >> 4) - 8), floats_of((b >> 4) - 8));
    memcpy(to, &first, sizeof first);
    memcpy(to + step, &second, sizeof second);
#endif
}

#define SOON 2048 /* bytes that are fetched before they are needed: half and twice as many are slower */

INLINE void fetch_bytes(const void *p, long n) {
    for (long i = 0; i < n; i += 64) __builtin_prefetch((const char *)p + i, 0, 3);
}

/* A piece of a tile as pairs of bf16, `wide` sixteens a line; itself where it is that. */
static const uint32_t *widen(int kind, const uint8_t *w, long wide, long depth, uint32_t *to) {
    if (kind == BF16) return (const uint32_t *)(const void *)w;
    const long step = wide * LANES;
    if (kind == INT4) {
        for (long at = 0; at < depth; at += GROUP)
            for (long c = 0; c < wide; c++, w += GROUP_BYTES) {
                fetch_bytes(w + SOON, GROUP_BYTES);
                for (long i = 0; i < GROUP; i += 2)
                    widen_two(w + 4 * LANES + i * LANES, to + (at + i) * step + c * LANES, step);
            }
        return to;
    }
    for (long i = 0; i < depth * wide; i++, w += 2 * LANES) {
        if (i % 2 == 0) fetch_bytes(w + SOON, 64);
        const vu pairs = two_bf16(signed_at((const int8_t *)w), signed_at((const int8_t *)w + LANES));
        memcpy(to + i * LANES, &pairs, sizeof pairs);
    }
    return to;
}

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
/* sums[16][WIDE] = x W^T of up to sixteen rows, for which sums need not wait in memory; not in 4 bits. */
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
        few_rows(p->kind, w, wide, depth, o, made, sums);
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
