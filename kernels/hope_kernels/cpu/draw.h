/* A token by chance, or the best one; and whether logits are numbers. */
#ifndef HOPE_DRAW_H
#define HOPE_DRAW_H

#include "pool.h"

#define STRETCH 512 /* tokens that are summed before one looks */

typedef double vd __attribute__((vector_size(64)));
typedef float half_vf __attribute__((vector_size(32)));

typedef struct {
    const float *x;
    int64_t n;
    float top, scale;
} Odds;

/* Weights of sixteen tokens from `at` on, zeros beyond the last. */
INLINE vf weights_at(const Odds *o, int64_t at) {
    const vi place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const int64_t left = o->n - at;
    const vf weight = exp_((get(o->x + at, left) - all(o->top)) * all(o->scale));
    return left < LANES ? choose(place < (int32_t)left, weight, all(0)) : weight;
}

/* Their sum over a stretch. */
static double stretch_sum(const Odds *o, int64_t at) {
    vd s = {0};
    for (int64_t i = at; i < at + STRETCH && i < o->n; i += LANES) {
        const vf w = weights_at(o, i);
        s += __builtin_convertvector(__builtin_shufflevector(w, w, 0, 1, 2, 3, 4, 5, 6, 7), vd)
           + __builtin_convertvector(__builtin_shufflevector(w, w, 8, 9, 10, 11, 12, 13, 14, 15), vd);
    }
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* Of some logits: whether all are numbers, and then the largest and the first place where it is. */
typedef struct {
    int32_t finite, first;
    float most;
} Seen;

static Seen seen_of(const float *x, int64_t n) {
    const vi place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vf best[4];
    vi at[4], odd = {0};
    for (int c = 0; c < 4; c++) best[c] = all(-INFINITY), at[c] = place;
    for (int64_t i = 0; i < n; i += 4 * LANES)
        UNROLLED for (int c = 0; c < 4; c++) { /* none waits for another's comparison */
            const int64_t own = i + c * LANES, left = n - own;
            if (left <= 0) break;
            __builtin_prefetch(x + own + 1024, 0, 3);
            const vf found = get(x + own, left);
            odd |= ((vi)found & 0x7f800000) == 0x7f800000;
            const vf v = left < LANES ? choose(place < (int32_t)left, found, all(-INFINITY)) : found;
            const vi more = v > best[c], here = place + (int32_t)own;
            best[c] = choose(more, v, best[c]);
            at[c] = (more & here) | (~more & at[c]);
        }
    Seen seen = {1, 0, -INFINITY};
    for (int i = 0; i < 4 * LANES; i++) {
        const float own = best[i / LANES][i % LANES];
        const int32_t place_of = at[i / LANES][i % LANES];
        if (own > seen.most || (own == seen.most && place_of < seen.first)) seen.most = own, seen.first = place_of;
        if (odd[i % LANES]) seen.finite = 0;
    }
    return seen;
}

/* The first of the largest of x, which holds no NaN. */
EXPORT int64_t hope_best(const float *x, int64_t n) { return seen_of(x, n).first; }

typedef struct {
    const float *const *rows; /* of n numbers each */
    int64_t *best;            /* of each the first of its largest; -1 where one is infinite or NaN */
    int64_t count, n;
} Looks;

#define PARTS 4 /* of a row: a thread looks at what it has computed itself, mostly */

typedef struct {
    const Looks *call;
    Seen *seen; /* [PARTS, count] */
    Phase *phases;
} Looking;

INLINE int64_t part_start(int64_t n, int64_t part) { return n * part / PARTS / LANES * LANES; }

INLINE int64_t part_end(int64_t n, int64_t part) { return part + 1 < PARTS ? part_start(n, part + 1) : n; }

/* item = part * count + row */
static void look_item(const void *context, long item) {
    const Looking *own = context;
    const Looks *l = own->call;
    const int64_t part = item / l->count, first = part_start(l->n, part);
    own->seen[item] = seen_of(l->rows[item % l->count] + first, part_end(l->n, part) - first);
}

static void look_all(void *data) {
    const Looking *own = data;
    Worker w = {own->phases, 0};
    share(&w, look_item, own, PARTS * own->call->count);
}

/* phases: hope_look_phases bytes of zeros; null for one thread. */
EXPORT void hope_look(const Looks *l, Phase *phases, int32_t threads) {
    Seen seen[PARTS * l->count];
    Looking call = {l, seen, phases};
    together(look_all, &call, phases ? threads : 1);
    for (int64_t row = 0; row < l->count; row++) {
        float most = -INFINITY;
        l->best[row] = 0;
        for (int64_t part = 0; part < PARTS; part++) {
            const Seen own = seen[part * l->count + row];
            if (!own.finite) {
                l->best[row] = -1;
                break;
            }
            if (own.most > most) most = own.most, l->best[row] = part_start(l->n, part) + own.first;
        }
    }
}

EXPORT int64_t hope_look_phases(void) { return sizeof(Phase); }

/* The token at which the weights e^(x / temperature), summed in order, pass u of their sum; u in [0, 1), x
 * finite, best where it is largest. Weights in fp32, sums in fp64.
 */
EXPORT int64_t hope_draw(const float *x, int64_t n, double temperature, double u, int64_t best) {
    const Odds odds = {x, n, x[best], (float)fmin(1 / temperature, 1e30)};
    double sums_of[n / STRETCH + 1], total = 0, passed = 0;
    for (int64_t at = 0; at < n; at += STRETCH) total += sums_of[at / STRETCH] = stretch_sum(&odds, at);
    const double goal = u * total;
    int64_t last = best;
    for (int64_t at = 0; at < n; at += STRETCH) {
        const double whole = sums_of[at / STRETCH];
        if (passed + whole <= goal) {
            passed += whole;
            continue;
        }
        for (int64_t i = at; i < at + STRETCH && i < n; i += LANES) {
            const vf w = weights_at(&odds, i);
            for (int j = 0; j < LANES; j++) {
                if (w[j] > 0) last = i + j;
                if ((passed += w[j]) > goal) return i + j;
            }
        }
    }
    return last; /* rounding has left the goal above the sum */
}

#endif
