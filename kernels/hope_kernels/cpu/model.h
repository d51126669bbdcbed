/* What a step is given: frozen weights, slabs of rows, and where each row of the step stands. Filled in by
 * `hope_kernels.cpu.layout`, whose structures these are.
 */
#ifndef HOPE_MODEL_H
#define HOPE_MODEL_H

#include "products.h"
#include "work.h"

/* A CMS level of one block. M = width. */
typedef struct {
    Product terms, output; /* key, value and rate [2M + 1] of [D]; [D] of [M] */
    Product base;          /* [M] of [M] */
    const float *gain;     /* [D] */
    const float *delta;    /* slab [S, M, M] */
    uint32_t *learned;     /* delta, packed, see learned.h */
    float *last;           /* slab [S, 2, M]: the last key, and what the memory recalls at it */
    float *kept;           /* slab [S, keeps, 2, M]: errors, and the keys before */
    float *gradient;       /* slab [S, M, M] */
    int32_t width, keeps;
} Level;

/* H heads of width K, conv taps, runs of R and chunks of C tokens. */
typedef struct {
    Product in_gate, query, output, expand, contract;
    const Product *memory_base, *maps_base;         /* [H], each [K] or [2K + 2] of [K] */
    const float *phi_gain, *mlp_gain, *output_gain; /* [D] */
    const float *taps;                              /* [conv, D] */
    const float *rate_bias, *retention_bias;        /* [H] */
    const float *projections, *maps_initial;        /* [H, 2K + 2, K], without and with the identity */
    const float *slow_rate, *retention;             /* [H] of the projections */
    const Level *levels;
    float *window;     /* slab [S, conv - 1, D] */
    float *memory;     /* slab [S, H, K, K] */
    float *maps;       /* slab [S, H, 2K + 2, K] */
    float *run_keys;   /* slab [S, H, R, K] */
    float *run_writes; /* slab [S, H, R, K] */
    float *run_decay;  /* slab [S, H, R] */
    float *decay;      /* slab [S, H] */
    float *chunk_kept; /* slab [S, C, H, 2K + 1] */
    float *pending;    /* slab [S, H, 2K + 2, K] */
    uint32_t *memory_learned, *maps_learned; /* without what they began with, packed, see learned.h */
} Block;

typedef struct {
    const Block *blocks;
    Product head;
    const float *embedding; /* [vocab, D] */
    const float *gain;      /* [D] */
    int32_t width, heads, conv, run, chunk, hidden, vocab, layers, levels, rows; /* rows: S of the slabs */
    float scale, max_rate, max_norm;
} Model;

/* One token of each of B rows; or, in sequence, B tokens of one row. All arrays by place in the step. */
typedef struct {
    const int64_t *rows, *tokens;
    const int64_t *runs, *chunks; /* tokens since each ended */
    const int64_t *kept;          /* [B, levels] tokens whose gradient is not summed */
    const uint8_t *learns;
    uint8_t *wrote; /* [B, layers, H] out: whether the head's write was finite */
    float *logits;  /* [B, vocab] out; in sequence [vocab], of the last token */
    float *scratch; /* hope_scratch(model) numbers a row */
    Phase *phases;  /* hope_phases(model), of zeros; null for one thread */
    int64_t count;
    int64_t sequence; /* whether all places are of one row, each after the one before */
} Step;

/* A row's scratch. */
typedef struct {
    float *x, *wide, *z, *y;
    uint32_t *ops;
} Scratch;

INLINE long largest(long a, long b) { return a > b ? a : b; }

INLINE long width_of_terms(const Model *m) {
    long most = 0;
    for (int i = 0; m->layers && i < m->levels; i++) most = largest(most, m->blocks[0].levels[i].width);
    return most;
}

INLINE long wide_of(const Model *m) {
    return PADDED(largest(2 * largest(m->width, m->hidden), 2 * width_of_terms(m) + 1));
}

INLINE long narrow_of(const Model *m) { return PADDED(largest(m->width, width_of_terms(m))); }

INLINE long ops_of(const Model *m) { return 2 * LANES + largest(narrow_of(m), PADDED((long)m->hidden)); }

INLINE long scratch_of(const Model *m) { return wide_of(m) + 3 * narrow_of(m) + ops_of(m); }

INLINE Scratch scratch_at(const Model *m, const Step *s, long place) {
    Scratch own;
    own.x = s->scratch + place * scratch_of(m);
    own.z = own.x + narrow_of(m);
    own.y = own.z + narrow_of(m);
    own.wide = own.y + narrow_of(m);
    own.ops = (uint32_t *)(own.wide + wide_of(m));
    return own;
}

#define USUAL 64 /* the width of a head that is compiled for by itself */

/* What an item's function is told. */
typedef struct {
    const Model *model;
    const Step *step;
    const Block *block;
    const Level *level;
    const float *gain;
    const Product *product;
    long number; /* of the block, or of the level */
    int bf16;
} Place;

#endif
