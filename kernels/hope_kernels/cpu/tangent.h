/* What the adapted layers make of tokens whose keys and values stay as they are, and how that depends on their sites.
 * Filled in by `hope_kernels.cpu.tangent_layout`, whose structures these are.
 */
#ifndef HOPE_TANGENT_H
#define HOPE_TANGENT_H

#include "reader.h"

/* Transposes of a layer's products; subspaces have no outputs where there is no site. */
typedef struct {
    Frozen qkv, output, gate_up, down;
    Frozen subspaces[SITES];
} Back;

/* T tokens of a session from the place `first` on, which see some of S slots. */
typedef struct {
    const uint16_t *const *keys, *const *values; /* by adapted layer [G, S, K] bf16 */
    const uint16_t *const *deltas;               /* by site [rank, outputs] bf16; null where nothing was learned */
    const float *bias;                           /* [T, S] */
    int64_t first, count, span;
} Lesson;

/* N tokens, lesson by lesson. Both passes are given the same, and what the first has kept. */
typedef struct {
    const Back *backs; /* by adapted layer */
    const Lesson *lessons;
    const int64_t *owners, *positions; /* [N]: whose they are */
    const float *cosines, *sines;      /* [positions, K] */
    const float *hidden;               /* [N, D]: inputs of the first adapted layer */
    float *x;                          /* [N, D]: outputs of the last one; in the pass back their gradient, which is lost */
    float *const *inputs;              /* by site [N, rank]: A x */
    float *const *slopes;              /* by site [N, outputs]: gradients there; null where none is wanted */
    char *scratch;                     /* hope_tangent_scratch bytes of zeros at first */
    Phase *phases;                     /* hope_tangent_phases bytes; null for one thread */
    int64_t count, asked;              /* N, and how many lessons */
    int64_t lines, most_span, most_asked; /* that the scratch has room for; lines in sixteens, slots in sixty-fours */
} Tangent;

/* Lines by place, and by adapted layer what the way back needs. Where they lie depends on the room alone. Heads that share
 * keys are rows of one product: [G, rows].
 */
typedef struct {
    float *enter;       /* by layer, one more [lines, D]: the residual stream */
    float *middle;      /* by layer [lines, D]: behind attention */
    float *raw;         /* by layer [lines, H K]: queries before their norm */
    uint16_t *gates;    /* by layer [lines, 2, M]: gate and up */
    uint16_t *weights;  /* by layer [G, rows, S]: attention, but for the division */
    float *scales;      /* by layer [G, rows]: what that multiplies with */
    uint16_t *operands; /* [lines, D] */
    uint16_t *mixed;    /* [lines, H K] */
    uint16_t *inner;    /* [lines, M] */
    uint16_t *pulled;   /* [lines, 2 M]: gradients of gate and up */
    uint16_t *turns;    /* [lines, (H + 2 G) K]: gradients of queries, zeros behind them */
    uint16_t *traces;   /* [SITES, lines, rank]: U y of a gradient y */
    uint16_t *queries;  /* [G, rows, K] */
    float *heads;       /* [lines, H K] */
    float *wide;        /* [lines, 2 M] */
    float *narrow;      /* [lines, D] */
    float *totals;      /* [lines, groups] */
    float *scores;      /* [G, rows, S] */
    uint32_t *first_packs, *second_packs; /* [asked, G] */
    char *end;
} Kept;

/* Steps from line to line of n operands or floats: an odd number of cache lines, so that what lies at the same place of
 * sixty-four lines does not want the same few places of the first cache.
 */
INLINE long step_of(long n) { return (OPERANDS(n) / (2 * LANES) | 1) * 2 * LANES; }
INLINE long floats_step(long n) { return (PADDED(n) / LANES | 1) * LANES; }

INLINE long mixed_width(const Reader *m) { return (long)m->heads * m->head_width; }
INLINE long share_of(const Reader *m) { return m->heads / m->groups; }
INLINE long adapted_of(const Reader *m) { return m->depth - m->first_adapted; }
/* Sixteens of rows are read. */
INLINE long rows_of(const Reader *m, long lines) { return lines * share_of(m) + LANES; }
INLINE long rank_step(const Reader *m) { return step_of(m->rank); }

/* Numbers of 32 bits of packed keys or values. */
INLINE long pack_size(const Reader *m, long span) {
    const long by_slot = PADDED(span) * PADDED((m->head_width + 1L) / 2);
    const long by_feature = PADDED((long)m->head_width) * PADDED((span + 1) / 2);
    return by_slot > by_feature ? by_slot : by_feature;
}

INLINE Kept kept_at(const Reader *m, char *at, long lines, long span, long asked) {
    const long d = m->width, layers = adapted_of(m), rows = m->groups * rows_of(m, lines);
    Kept own;
    own.enter = part(&at, (layers + 1) * lines * d * 4);
    own.middle = part(&at, layers * lines * d * 4);
    own.raw = part(&at, (m->layers[m->first_adapted].query_gain ? layers : 1) * lines * mixed_width(m) * 4);
    own.gates = part(&at, layers * lines * 2 * OPERANDS((long)m->mlp) * 2);
    own.weights = part(&at, layers * rows * step_of(span) * 2);
    own.scales = part(&at, layers * rows * 4);
    own.operands = part(&at, lines * step_of(d) * 2);
    own.mixed = part(&at, lines * step_of(mixed_width(m)) * 2);
    own.inner = part(&at, lines * step_of(m->mlp) * 2);
    own.pulled = part(&at, lines * step_of(2L * m->mlp) * 2);
    own.turns = part(&at, lines * step_of(mixed_width(m)) * 2);
    own.traces = part(&at, SITES * lines * rank_step(m) * 2);
    own.queries = part(&at, rows * step_of(m->head_width) * 2);
    own.heads = part(&at, lines * floats_step(mixed_width(m)) * 4);
    own.wide = part(&at, lines * floats_step(2L * m->mlp) * 4);
    own.narrow = part(&at, lines * d * 4);
    own.totals = part(&at, lines * totals_line(m) * 4);
    own.scores = part(&at, rows * floats_step(span) * 4);
    own.first_packs = part(&at, asked * m->groups * pack_size(m, span) * 4);
    own.second_packs = part(&at, asked * m->groups * pack_size(m, span) * 4);
    own.end = at;
    return own;
}

/* Where a thread is. */
typedef struct {
    const Reader *model;
    const Tangent *call;
    const Layer *layer;
    const Back *back;
    Kept own;
    long number; /* of the layer, among the adapted ones */
    int back_there; /* whether packs are those of the way back */
} At;

/* A place's line of what is kept by layer. */
INLINE float *enter_of(const At *at, long number, long place) {
    return at->own.enter + (number * at->call->lines + place) * at->model->width;
}
INLINE float *middle_of(const At *at, long place) {
    return at->own.middle + (at->number * at->call->lines + place) * at->model->width;
}
INLINE float *raw_of(const At *at, long place) {
    return at->own.raw + ((at->layer->query_gain ? at->number * at->call->lines : 0) + place) * mixed_width(at->model);
}
INLINE uint16_t *gates_of(const At *at, long place) {
    return at->own.gates + (at->number * at->call->lines + place) * 2 * OPERANDS((long)at->model->mlp);
}

/* Of a group's first row of a place; in rows. */
INLINE long row_of(const At *at, long group, long place) {
    return group * rows_of(at->model, at->call->lines) + place * share_of(at->model);
}
INLINE long all_rows(const At *at) { return at->model->groups * rows_of(at->model, at->call->lines); }

/* A site's delta of a place, and the place's line of the site's inputs or slopes. */
INLINE const uint16_t *delta_of(const At *at, const Site *site, long place) {
    return at->call->lessons[at->call->owners[place]].deltas[site->number];
}

#endif
