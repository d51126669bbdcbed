/* What taught tokens are worth against others (E27): margins over a shortlist and all the rest as one, and their
 * gradients. Each lesson has a shortlist of its own, whose embeddings are made into weights for the call.
 */
#ifndef HOPE_WEIGH_H
#define HOPE_WEIGH_H

#include "lookback.h"
#include "pool.h"

/* T tokens from the place `first` on, and c embeddings. */
typedef struct {
    const uint16_t *rows;   /* [c, D] bf16 */
    const int64_t *place;   /* [T]: the targets' among them */
    const float *reference; /* [T, D]: where the rest was taken */
    const float *others;    /* [T]: its logit there */
    const float *direction; /* [T, D]: the gradient of that */
    char *scratch;          /* hope_weigh_scratch bytes */
    int64_t first, count, listed;
} Shortlist;

/* N tokens, lesson by lesson. */
typedef struct {
    const Shortlist *lists;
    const float *x, *gain; /* [N, D]: outputs of the last layer; and the last norm's [D] */
    float *margins;        /* [N] */
    float *slopes;         /* [N, D]: their gradients with regard to x */
    int64_t count, asked, width;
    double epsilon;
} Weighing;

typedef struct {
    uint32_t *rows, *columns; /* the embeddings as weights */
    float *logits;            /* [T, logits_line] */
    uint16_t *pulls;          /* [T, step_of(c)]: gradients of the margin by logit */
    char *end;
} Weighed;

INLINE long logits_line(long listed) { return (listed + WIDE - 1) / WIDE * WIDE; }

INLINE Weighed weighed_at(char *at, long width, long listed, long count) {
    Weighed own;
    own.rows = part(&at, PADDED(listed) * PADDED((width + 1) / 2) * 4);
    own.columns = part(&at, PADDED(width) * PADDED((listed + 1) / 2) * 4);
    own.logits = part(&at, count * logits_line(listed) * 4);
    own.pulls = part(&at, count * step_of(listed) * 2);
    own.end = at;
    return own;
}

INLINE Weighed weighed_of(const Weighing *w, const Shortlist *l) { return weighed_at(l->scratch, w->width, l->listed, l->count); }

/* item = lesson * 2 + way */
static void pack_list_item(const void *context, long item) {
    const Weighing *w = context;
    const Shortlist *l = w->lists + item / 2;
    const Weighed own = weighed_of(w, l);
    if (item % 2) pack_columns(l->rows, l->listed, w->width, own.columns);
    else pack_lines(l->rows, l->listed, w->width, own.rows);
}

/* Sixteen tokens of a lesson or fewer, from `first` of its own on. */
typedef struct {
    const Shortlist *list;
    long first, count;
} Few;

static Few few_at(const Weighing *w, long item) {
    const Shortlist *l = w->lists;
    for (; item >= PADDED(l->count) / LANES; l++) item -= PADDED(l->count) / LANES;
    const long first = item * LANES;
    return (Few){l, first, l->count - first < LANES ? l->count - first : LANES};
}

INLINE float log_of_both(float a, float b) { return (a > b ? a : b) + log1pf(expf(-fabsf(a - b))); }

/* Of logits [listed in whole tiles], which become -inf where they do not count. */
static float log_sum(float *logits, long listed, long place) {
    const long n = logits_line(listed);
    vf best = all(-INFINITY), total = all(0);
    for (long i = listed; i < n; i++) logits[i] = -INFINITY;
    logits[place] = -INFINITY;
    for (long i = 0; i < n; i += LANES) best = choose(load(logits + i) > best, load(logits + i), best);
    float most = best[0];
    for (int i = 1; i < LANES; i++) most = best[i] > most ? best[i] : most;
    if (!(most > -INFINITY)) return -INFINITY;
    for (long i = 0; i < n; i += LANES) total = total + exp_(load(logits + i) - all(most));
    return most + logf(sum(total));
}

/* The margin of a token x, a line of operands; pulls, and how much the others pull. */
static float weigh_row(const Weighing *w, const Few *few, long row, const uint16_t *x, float *logits, uint16_t *pulls,
                       float *share) {
    const Shortlist *l = few->list;
    const long at = few->first + row, n = w->width;
    const float *reference = l->reference + at * n, *direction = l->direction + at * n, own = logits[l->place[at]];
    vf moved = all(0);
    for (long i = 0; i < n; i += LANES)
        moved = fma_(widened(x + i) - get(reference + i, n - i), get(direction + i, n - i), moved);
    const float others = l->others[at] + sum(moved), rest = log_of_both(log_sum(logits, l->listed, l->place[at]), others);
    for (long i = 0; i < OPERANDS(l->listed); i += 2 * LANES)
        put_pairs(pulls + i, -exp_(load(logits + i) - all(rest)), -exp_(load(logits + i + LANES) - all(rest)));
    pulls[l->place[at]] = 0x3f80; /* 1 */
    *share = expf(others - rest);
    return own - rest;
}

static void weigh_item(const void *context, long item) {
    const Weighing *w = context;
    const Few few = few_at(w, item);
    const Shortlist *l = few.list;
    const Weighed own = weighed_of(w, l);
    const long n = w->width, line = step_of(n), wide = logits_line(l->listed), step = step_of(l->listed), to = heads_step(n);
    const float *x = w->x + (l->first + few.first) * n;
    float *logits = own.logits + few.first * wide, shares[LANES], found[LANES * to];
    uint16_t *pulls = own.pulls + few.first * step, operands[LANES * line];
    for (long row = 0; row < few.count; row++) normalised(x + row * n, w->gain, n, (float)w->epsilon, operands + row * line);
    lines_times(own.rows, l->listed, n, operands, line, few.count, logits, wide);
    for (long row = 0; row < few.count; row++)
        w->margins[l->first + few.first + row] =
            weigh_row(w, &few, row, operands + row * line, logits + row * wide, pulls + row * step, shares + row);
    lines_times(own.columns, n, l->listed, pulls, step, few.count, found, to);
    for (long row = 0; row < few.count; row++) {
        const float *direction = l->direction + (few.first + row) * n;
        float *slope = found + row * to;
        for (long i = 0; i < n; i += LANES) store(slope + i, fma_(all(-shares[row]), get(direction + i, n - i), load(slope + i)));
        norm_back(x + row * n, w->gain, slope, n, (float)w->epsilon, 0, w->slopes + (l->first + few.first + row) * n);
    }
}

typedef struct {
    const Weighing *call;
    Phase *phases;
} Weigher;

static void weigh_all(void *data) {
    const Weigher *own = data;
    Worker w = {own->phases, 0};
    long items = 0;
    for (long i = 0; i < own->call->asked; i++) items += PADDED(own->call->lists[i].count) / LANES;
    share(&w, pack_list_item, own->call, own->call->asked * 2);
    share(&w, weigh_item, own->call, items);
}

/* phases: hope_weigh_phases bytes of zeros; null for one thread. */
EXPORT void hope_weigh(const Weighing *w, Phase *phases, int32_t threads) {
    Weigher call = {w, phases};
    together(weigh_all, &call, phases ? threads : 1);
}

EXPORT int64_t hope_weigh_phases(void) { return 2 * (int64_t)sizeof(Phase); }

EXPORT int64_t hope_weigh_scratch(int64_t width, int64_t listed, int64_t count) {
    char nothing;
    return weighed_at(&nothing, width, listed, count).end - &nothing;
}

#endif
