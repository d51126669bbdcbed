/* What a launch of Hope-Attention is given: frozen weights, the rings of rows, and where each token stands. Filled in
 * by `hope_kernels.cpu.reader_layout`, whose structures these are.
 */
#ifndef HOPE_READER_H
#define HOPE_READER_H

#include "frozen.h"
#include "work.h"

enum { GATE, UP, DOWN, SITES };

/* Where a session's memory adds (A x) U to a projection. */
typedef struct {
    Frozen subspace;  /* A [rank, inputs] */
    int64_t number;   /* of the launch's deltas; negative for no memory */
} Site;

/* H query and G key heads of width K, MLP of M. */
typedef struct {
    Frozen qkv, output, gate_up, down;
    Site sites[SITES];
    const float *input_gain, *mlp_gain;  /* [D] */
    const float *query_gain, *key_gain;  /* [K] each; null for none */
    int64_t turns;                       /* whether positions are applied */
} Layer;

typedef struct {
    const Layer *layers;
    const uint16_t *embedding; /* [vocab, D] bf16 */
    int32_t width, depth, heads, groups, head_width, mlp, first_adapted, rank;
    float epsilon;
} Reader;

/* N tokens, by place; those of one row follow each other. */
typedef struct {
    const int64_t *tokens, *rows, *positions, *prefixes; /* [N] */
    const int64_t *memories;      /* [N] rows of the deltas; negative for none */
    const uint16_t *const *deltas; /* by site [S, rank, outputs] bf16; null where nothing was learned */
    uint16_t *const *keys, *const *values; /* by layer [R, G, size, K] bf16, a row in one piece */
    float *hidden, *outputs;      /* [R, size, D]: inputs of the first adapted layer, outputs of the last */
    const float *cosines, *sines; /* [positions, K] */
    float *x;                     /* [N, D] out: the residual stream */
    char *scratch;                /* hope_reader_scratch bytes */
    Phase *phases;                /* hope_reader_phases bytes; null for one thread */
    int64_t count, size, capacity, window;
    int64_t lines; /* that the scratch has room for: at least N, in sixteens */
    int64_t ring_step, state_step; /* numbers from row to row of keys and values, of hidden and outputs */
} Launch;

/* What items share; lines by place. Where a line lies does not depend on N, so that what fills it up stays zero. */
typedef struct {
    uint16_t *operands; /* [N, D]: of a norm */
    uint16_t *mixed;    /* [N, H K]: of attention */
    uint16_t *inner;    /* [N, M]: of the MLP */
    float *heads;       /* [N, (H + 2 G) K] */
    uint16_t *queries;  /* [N, H, K]: turned */
    float *wide;        /* [N, 2 M] */
    float *totals;      /* [N, groups]: of a product's operands, in 4 bits */
    float *coordinates; /* [SITES, N, rank] */
    int32_t *seen;      /* [N, capacity]: slots in sight, in the order of their positions */
    int32_t *sight;     /* [N]: how many */
    char *end;
} Scratch;

/* Steps from line to line, in numbers; operands fill whole registers. */
#define OPERANDS(n) (2 * PADDED(((n) + 1L) / 2))

typedef struct {
    const Reader *model;
    const Launch *launch;
    const Layer *layer;
    const Site *pending; /* whose delta is still to be added to x */
    Scratch own;
    long number; /* of the layer */
} Place;

INLINE long heads_line(const Reader *m) { return PADDED((m->heads + 2L * m->groups) * m->head_width); }
INLINE long queries_line(const Reader *m) { return m->heads * OPERANDS((long)m->head_width); }
INLINE long wide_line(const Reader *m) { return PADDED(2L * m->mlp); }
INLINE long rank_line(const Reader *m) { return PADDED((long)m->rank); }

INLINE long totals_line(const Reader *m) {
    const long mixed = (long)m->heads * m->head_width, most = mixed > m->width ? mixed : m->width;
    return PADDED(frozen_groups(most > m->mlp ? most : m->mlp));
}

/* A part of the scratch; whole cache lines. */
INLINE void *part(char **at, long bytes) {
    char *own = *at;
    *at += (bytes + 63) / 64 * 64;
    return own;
}

INLINE Scratch scratch_at(const Reader *m, char *at, long lines, long capacity) {
    Scratch own;
    own.operands = part(&at, lines * OPERANDS(m->width) * 2);
    own.mixed = part(&at, lines * OPERANDS((long)m->heads * m->head_width) * 2);
    own.inner = part(&at, lines * OPERANDS(m->mlp) * 2);
    own.heads = part(&at, lines * heads_line(m) * 4);
    own.queries = part(&at, lines * queries_line(m) * 2);
    own.wide = part(&at, lines * wide_line(m) * 4);
    own.totals = part(&at, lines * totals_line(m) * 4);
    own.coordinates = part(&at, SITES * lines * rank_line(m) * 4);
    own.sight = part(&at, lines * 4);
    own.seen = part(&at, lines * capacity * 4);
    own.end = at;
    return own;
}

#endif
