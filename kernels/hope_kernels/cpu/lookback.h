/* Attention of a lesson's tokens over its own keys and values, and the gradient of queries: products of many rows, since
 * all tokens and the heads that share a key look at the same ones.
 */
#ifndef HOPE_LOOKBACK_H
#define HOPE_LOOKBACK_H

#include "norms.h"
#include "tangent.h"

/* A pair of sixteen lines, step numbers apart. */
INLINE void gather_pairs(const uint16_t *x, long step, uint32_t *to) {
#ifdef __AVX512F__
    const __m512i place = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                             _mm512_set1_epi32((int)step));
    _mm512_storeu_si512(to, _mm512_i32gather_epi32(place, x, 2));
#else
    for (long i = 0; i < LANES; i++) memcpy(to + i, x + i * step, 4);
#endif
}

/* Lines x [n, k] as weights with n outputs. */
static void pack_lines(const uint16_t *x, long n, long k, uint32_t *to) {
    const long sixteens = PADDED(n) / LANES, depth = PADDED((k + 1) / 2);
    for (long tile = 0; tile < sixteens; tile += TILE) {
        const long wide = sixteens - tile < TILE ? sixteens - tile : TILE;
        for (long pair = 0; pair < depth; pair++)
            for (long c = 0; c < wide; c++, to += LANES) {
                const long first = (tile + c) * LANES;
                if (2 * pair < k && first + LANES <= n) {
                    gather_pairs(x + first * k + 2 * pair, k, to);
                    continue;
                }
                memset(to, 0, LANES * sizeof *to);
                for (long i = 0; 2 * pair < k && first + i < n && i < LANES; i++) memcpy(to + i, x + (first + i) * k + 2 * pair, 4);
            }
    }
}

/* Lines x [n, k] as weights with n inputs and k outputs. */
static void pack_columns(const uint16_t *x, long n, long k, uint32_t *to) {
    const long sixteens = PADDED(k) / LANES, depth = PADDED((n + 1) / 2);
    for (long tile = 0; tile < sixteens; tile += TILE) {
        const long wide = sixteens - tile < TILE ? sixteens - tile : TILE;
        for (long pair = 0; pair < depth; pair++, to += wide * LANES) {
            const long first = tile * LANES, some = k - first < wide * LANES ? k - first : wide * LANES;
            const uint16_t *low = x + 2 * pair * k + first, *high = low + k;
            for (long i = 0; i < wide * LANES; i++) {
                const int is = i < some && 2 * pair < n, both = is && 2 * pair + 1 < n;
                to[i] = (is ? low[i] : 0u) | (both ? (uint32_t)high[i] << 16 : 0u);
            }
        }
    }
}

/* item = lesson * G + group */
static void pack_group_item(const void *context, long item) {
    const At *at = context;
    const Reader *m = at->model;
    const Lesson *l = at->call->lessons + item / m->groups;
    const long k = m->head_width, ring = item % m->groups * l->span * k, place = item * pack_size(m, at->call->most_span);
    const uint16_t *keys = l->keys[at->number] + ring, *values = l->values[at->number] + ring;
    pack_lines(at->back_there ? values : keys, l->span, k, at->own.first_packs + place);
    pack_columns(at->back_there ? keys : values, l->span, k, at->own.second_packs + place);
}

/* Some rows of a lesson and a group. */
typedef struct {
    const Lesson *lesson;
    long group, first, rows; /* first: of the lesson's rows */
    float *scores, *scales;  /* theirs; a line of scores is `wide` numbers, one of weights `line` */
    uint16_t *weights;
    const uint16_t *queries;
    const uint32_t *first_pack, *second_pack;
    long wide, line;
} Some;

INLINE long chunks_of(const At *at, const Lesson *l) { return (l->count * share_of(at->model) + SHARING - 1) / SHARING; }

static long lookback_items(const At *at) {
    long items = 0;
    for (long i = 0; i < at->call->asked; i++) items += chunks_of(at, at->call->lessons + i) * at->model->groups;
    return items;
}

static Some some_at(const At *at, long item) {
    long lesson = 0, own;
    while (item >= (own = chunks_of(at, at->call->lessons + lesson) * at->model->groups)) item -= own, lesson++;
    const Lesson *l = at->call->lessons + lesson;
    Some some = {.lesson = l, .group = item % at->model->groups, .first = item / at->model->groups * SHARING};
    const long left = l->count * share_of(at->model) - some.first;
    some.rows = left < SHARING ? left : SHARING;
    const long row = row_of(at, some.group, l->first) + some.first, kept = at->number * all_rows(at) + row;
    const long pack = (lesson * at->model->groups + some.group) * pack_size(at->model, at->call->most_span);
    some.wide = floats_step(at->call->most_span), some.line = step_of(at->call->most_span);
    some.scores = at->own.scores + row * some.wide, some.scales = at->own.scales + kept;
    some.weights = at->own.weights + kept * some.line;
    some.queries = at->own.queries + row * step_of(at->model->head_width);
    some.first_pack = at->own.first_packs + pack, some.second_pack = at->own.second_packs + pack;
    return some;
}

/* Whose token a row is, and where its head begins in a line of all heads. */
INLINE long place_of(const At *at, const Some *some, long row) {
    return some->lesson->first + (some->first + row) / share_of(at->model);
}
INLINE long head_of(const At *at, const Some *some, long row) {
    const long share = share_of(at->model);
    return (some->group * share + (some->first + row) % share) * at->model->head_width;
}

/* to [rows] = x W^T, lines `step` apart, filled up with zeros to whole tiles. */
static void lines_times(const uint32_t *pack, long outputs, long inputs, const uint16_t *x, long x_step, long rows, float *to,
                        long step) {
    const Frozen p = {.weights = pack, .outputs = (int32_t)outputs, .inputs = (int32_t)inputs, .kind = BF16};
    const Operands o = {.x = (const uint32_t *)(const void *)x, .step = x_step / 2};
    float sums[SHARING * WIDE] __attribute__((aligned(64)));
    for (long tile = 0; tile < frozen_tiles(&p); tile++) {
        frozen_tile(&p, tile, rows, &o, sums);
        const long left = PADDED(outputs) - tile * WIDE, some = left < WIDE ? left : WIDE;
        for (long row = 0; row < rows; row++) {
            memcpy(to + row * step + tile * WIDE, sums + row * WIDE, (size_t)some * 4);
            memset(to + row * step + tile * WIDE + some, 0, (size_t)(WIDE - some) * 4);
        }
    }
}

/* Sixteen of a bias; nothing beyond its end is seen. */
INLINE vf bias_at(const float *bias, long left) {
    const vi place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if (left >= LANES) return load(bias);
    return left > 0 ? choose(place < (int32_t)left, get(bias, left), all(-INFINITY)) : all(-INFINITY);
}

/* weights = softmax(scores + bias) but for the division. Returns what that multiplies with. */
static float soften_row(float *scores, const float *bias, long n, uint16_t *weights) {
    vf best = all(-INFINITY), total = all(0);
    for (long j = 0; j < n; j += LANES) {
        const vf s = load(scores + j) + bias_at(bias + j, n - j);
        store(scores + j, s);
        best = choose(s > best, s, best);
    }
    float most = best[0];
    for (int i = 1; i < LANES; i++) most = best[i] > most ? best[i] : most;
    for (long j = 0; j < n; j += 2 * LANES) {
        const vf low = exp_(load(scores + j) - all(most));
        const vf high = j + LANES < n ? exp_(load(scores + j + LANES) - all(most)) : all(0);
        total = total + low + high;
        put_pairs(weights + j, low, high);
    }
    return 1.f / sum(total);
}

/* scores = queries of the rows, or their gradients, times the first pack. */
INLINE void score_rows(const At *at, const Some *some) {
    const long k = at->model->head_width;
    lines_times(some->first_pack, some->lesson->span, k, some->queries, step_of(k), some->rows, some->scores, some->wide);
}

/* Numbers of a head that lines_times fills up. */
INLINE long heads_step(long k) { return WIDE * ((k + WIDE - 1) / WIDE); }

static void lookback_item(const void *context, long item) {
    const At *at = context;
    const Some some = some_at(at, item);
    const long k = at->model->head_width, n = some.lesson->span, step = heads_step(k), share = share_of(at->model);
    score_rows(at, &some);
    for (long row = 0; row < some.rows; row++)
        some.scales[row] = soften_row(some.scores + row * some.wide, some.lesson->bias + (some.first + row) / share * n, n,
                                      some.weights + row * some.line);
    float mixed[SHARING * step];
    lines_times(some.second_pack, k, n, some.weights, some.line, some.rows, mixed, step);
    for (long row = 0; row < some.rows; row++) {
        uint16_t *to = at->own.mixed + place_of(at, &some, row) * step_of(mixed_width(at->model)) + head_of(at, &some, row);
        for (long i = 0; i < k; i += LANES) put_rounded(to + i, load(mixed + row * step + i) * all(some.scales[row]), k - i);
    }
}

/* Gradients of scores in the place of the weights, of gradients of weights. */
static void harden_row(const float *found, float scale, long n, uint16_t *weights) {
    vf mean = all(0);
    for (long j = 0; j < n; j += LANES) mean = fma_(widened(weights + j), load(found + j), mean);
    const vf whole = all(scale), middle = all(sum(mean) * scale);
    for (long j = 0; j < n; j += 2 * LANES) {
        const vf low = widened(weights + j) * whole * (load(found + j) - middle);
        const vf high = widened(weights + j + LANES) * whole * (load(found + j + LANES) - middle);
        put_pairs(weights + j, low, high);
    }
}

static void lookback_back_item(const void *context, long item) {
    const At *at = context;
    const Some some = some_at(at, item);
    const long k = at->model->head_width, n = some.lesson->span, step = heads_step(k);
    score_rows(at, &some);
    for (long row = 0; row < some.rows; row++)
        harden_row(some.scores + row * some.wide, some.scales[row], n, some.weights + row * some.line);
    float found[SHARING * step];
    lines_times(some.second_pack, k, n, some.weights, some.line, some.rows, found, step);
    for (long row = 0; row < some.rows; row++) {
        float *to = at->own.heads + place_of(at, &some, row) * floats_step(mixed_width(at->model)) + head_of(at, &some, row);
        memcpy(to, found + row * step, (size_t)k * 4);
    }
}

#endif
