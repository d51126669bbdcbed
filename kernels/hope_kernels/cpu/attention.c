/* Reading some tokens of some rows with a Hope-Attention model on a CPU, through rings of keys and values.
 *
 * The recurrences of hope_model/attention/model.py in their order, operands of products and what the rings hold in bf16,
 * all else in fp32. A token's bits depend neither on what shares its launch nor on its place in it nor on the number of
 * threads: every number is computed by one item, whose sums run over its own token's past in an order of their own.
 */
#include "delta.h"
#include "draw.h"
#include "norms.h"
#include "pack.h"
#include "pool.h"
#include "rows.h"
#include "window.h"

/* Tokens in sight, prefix first, as slots of the ring. */
static void look(const Place *at, long place) {
    const Launch *l = at->launch;
    const long position = l->positions[place], prefix = l->prefixes[place], ring = l->capacity - prefix;
    int32_t *seen = at->own.seen + place * l->capacity;
    const long pinned = prefix < position + 1 ? prefix : position + 1;
    const long oldest = position - l->window + 1, first = oldest > pinned ? oldest : pinned;
    long n = 0;
    for (long own = 0; own < pinned; own++) seen[n++] = (int32_t)own;
    for (long own = first; own <= position; own++) seen[n++] = (int32_t)(prefix + (own - prefix) % ring);
    at->own.sight[place] = (int32_t)n;
}

INLINE long slot_of(const Launch *l, long place) {
    const long position = l->positions[place], prefix = l->prefixes[place];
    return position < prefix ? position : prefix + (position - prefix) % (l->capacity - prefix);
}

static void embed(const void *context, long place) {
    const Place *at = context;
    const Reader *m = at->model;
    const uint16_t *token = m->embedding + at->launch->tokens[place] * m->width;
    float *x = at->launch->x + place * m->width;
    for (long i = 0; i < m->width; i++) {
        const uint32_t bits = (uint32_t)token[i] << 16;
        memcpy(x + i, &bits, 4);
    }
    look(at, place);
}

/* y [outputs] += c U of a place's memory, if it has one. */
static void add_delta(const Place *at, const Site *site, int which, long place, float *y, long outputs) {
    const Launch *l = at->launch;
    const long own = l->memories[place], rank = site->subspace.outputs;
    if (own < 0) return;
    read_delta(l->deltas[site->number] + own * rank * outputs, at->own.coordinates + (which * l->lines + place) * rank_line(at->model),
               rank, outputs, y);
}

INLINE void add_pending(const Place *at, long place) {
    const long d = at->model->width;
    if (at->pending) add_delta(at, at->pending, DOWN, place, at->launch->x + place * d, d);
}

/* Keeps the residual stream in the row's slot. */
INLINE void keep(const Place *at, long place, float *slab) {
    const Launch *l = at->launch;
    const long d = at->model->width;
    memcpy(slab + l->rows[place] * l->state_step + slot_of(l, place) * d, l->x + place * d, (size_t)d * 4);
}

static void enter_layer(const void *context, long place) {
    const Place *at = context;
    const Reader *m = at->model;
    add_pending(at, place);
    if (at->number == m->first_adapted) keep(at, place, at->launch->hidden);
    normalised(at->launch->x + place * m->width, at->layer->input_gain, m->width, m->epsilon,
               at->own.operands + place * OPERANDS(m->width));
}

static void enter_mlp(const void *context, long place) {
    const Place *at = context;
    const Reader *m = at->model;
    normalised(at->launch->x + place * m->width, at->layer->mlp_gain, m->width, m->epsilon,
               at->own.operands + place * OPERANDS(m->width));
}

static void leave(const void *context, long place) {
    const Place *at = context;
    add_pending(at, place);
    if (at->model->first_adapted == at->model->depth) keep(at, place, at->launch->hidden);
    keep(at, place, at->launch->outputs);
}

/* A head's numbers, normed if there is a gain and turned by its position's angles if it is turned; to is padded. */
INLINE void turned(const Place *at, long place, const float *x, const float *gain, float *to) {
    const Reader *m = at->model;
    const long k = m->head_width, half = k / 2;
    const vf scale = all(gain ? norm_scale(x, k, m->epsilon) : 1.f);
    float own[PADDED(k)];
    for (long i = 0; i < k; i += LANES) {
        const vf v = get(x + i, k - i);
        store(own + i, gain ? v * scale * get(gain + i, k - i) : v);
    }
    if (!at->layer->turns) {
        memcpy(to, own, (size_t)k * 4);
        return;
    }
    const float *cosines = at->launch->cosines + at->launch->positions[place] * k;
    const float *sines = at->launch->sines + at->launch->positions[place] * k;
    for (long i = 0; i < half; i += LANES) {
        const long left = half - i;
        const vf low = get(own + i, left), high = get(own + half + i, left);
        put(to + i, fma_(low, get(cosines + i, left), high * get(sines + i, left)), left);
        put(to + half + i, fma_(high, get(cosines + half + i, left), low * get(sines + half + i, left)), left);
    }
}

/* Turns queries and keys; keys and values go into the row's slot. */
static void turn(const void *context, long place) {
    const Place *at = context;
    const Reader *m = at->model;
    const Launch *l = at->launch;
    const long k = m->head_width;
    const float *heads = at->own.heads + place * heads_line(m), scale = 1.f / sqrtf((float)k);
    uint16_t *queries = at->own.queries + place * queries_line(m);
    float own[PADDED(k) + LANES];
    memset(own, 0, sizeof own);
    for (long h = 0; h < m->heads; h++, heads += k, queries += OPERANDS(k)) {
        turned(at, place, heads, at->layer->query_gain, own);
        for (long i = 0; i < k; i += 2 * LANES)
            put_pairs(queries + i, load(own + i) * all(scale), load(own + i + LANES) * all(scale));
    }
    const long slot = slot_of(l, place);
    for (long g = 0; g < 2 * m->groups; g++, heads += k) {
        const long is_key = g < m->groups, group = is_key ? g : g - m->groups;
        if (is_key) turned(at, place, heads, at->layer->key_gain, own);
        else memcpy(own, heads, (size_t)k * 4);
        uint16_t *slab = (is_key ? l->keys : l->values)[at->number], rounded[OPERANDS(k)];
        for (long i = 0; i < k; i += 2 * LANES) put_pairs(rounded + i, load(own + i), load(own + i + LANES));
        memcpy(slab + l->rows[place] * l->ring_step + (group * l->size + slot) * k, rounded, (size_t)k * 2);
    }
}

/* item = place * G + key head */
static void attend(const void *context, long item) {
    const Place *at = context;
    const Reader *m = at->model;
    const Launch *l = at->launch;
    const long place = item / m->groups, group = item % m->groups, k = m->head_width, share = m->heads / m->groups;
    const long ring = l->rows[place] * l->ring_step + group * l->size * k;
    attend_group(l->keys[at->number] + ring, l->values[at->number] + ring, at->own.seen + place * l->capacity,
                 at->own.sight[place], k, share, at->own.queries + place * queries_line(m) + group * share * OPERANDS(k),
                 at->own.mixed + place * OPERANDS((long)m->heads * k) + group * share * k);
}

static void gate(const void *context, long place) {
    const Place *at = context;
    const Reader *m = at->model;
    const long n = m->mlp;
    float *gates = at->own.wide + place * wide_line(m), *ups = gates + n;
    if (at->layer->sites[GATE].number >= 0) add_delta(at, &at->layer->sites[GATE], GATE, place, gates, n);
    if (at->layer->sites[UP].number >= 0) add_delta(at, &at->layer->sites[UP], UP, place, ups, n);
    uint16_t *to = at->own.inner + place * OPERANDS(n);
    for (long i = 0; i < n; i += 2 * LANES) {
        const long rest = n - i - LANES;
        const vf low = silu(get(gates + i, n - i)) * get(ups + i, n - i);
        put_pairs(to + i, low, rest > 0 ? silu(get(gates + i + LANES, rest)) * get(ups + i + LANES, rest) : all(0));
    }
}

/* y = base + W x for all places; base null for zeros. */
INLINE Product product_of(const Place *at, const Frozen *p, const uint16_t *x, const float *base, float *y, long y_step) {
    return (Product){p, x, base, y, at->own.totals, at->launch->count, p->inputs, p->outputs, OPERANDS(p->inputs), y_step,
                     totals_line(at->model)};
}

INLINE void multiply(Worker *w, const Place *at, const Frozen *p, const uint16_t *x, const float *base, float *y, long y_step) {
    const Product product = product_of(at, p, x, base, y, y_step);
    multiply_rows(w, &product);
}

INLINE int adds(const Place *at, int which) { return at->layer->sites[which].number >= 0 && at->launch->deltas; }

/* c = A x of a site, if anything was learned there. */
static int project(Worker *w, const Place *at, int which, const uint16_t *x) {
    const Site *site = &at->layer->sites[which];
    if (!adds(at, which)) return 0;
    const long line = rank_line(at->model);
    multiply(w, at, &site->subspace, x, 0, at->own.coordinates + which * at->launch->lines * line, line);
    return 1;
}

/* inner = silu(gates) ups; at once where nothing is added to either and tiles are of one of them. */
static void read_gates(Worker *w, const Place *at) {
    const Reader *m = at->model;
    const Frozen *p = &at->layer->gate_up;
    if (m->mlp % WIDE == 0 && !adds(at, GATE) && !adds(at, UP)) {
        const Gated gated = {product_of(at, p, at->own.operands, 0, 0, 0), at->own.inner, OPERANDS(m->mlp)};
        multiply_gated(w, &gated);
        return;
    }
    multiply(w, at, p, at->own.operands, 0, at->own.wide, wide_line(m));
    project(w, at, GATE, at->own.operands);
    project(w, at, UP, at->own.operands);
    share(w, gate, at, at->launch->count);
}

static void read_layer(Worker *w, Place *at) {
    const Reader *m = at->model;
    const Layer *layer = at->layer;
    const long count = at->launch->count;
    share(w, enter_layer, at, count);
    at->pending = 0;
    multiply(w, at, &layer->qkv, at->own.operands, 0, at->own.heads, heads_line(m));
    share(w, turn, at, count);
    share(w, attend, at, count * m->groups);
    multiply(w, at, &layer->output, at->own.mixed, at->launch->x, at->launch->x, m->width);
    share(w, enter_mlp, at, count);
    read_gates(w, at);
    multiply(w, at, &layer->down, at->own.inner, at->launch->x, at->launch->x, m->width);
    if (project(w, at, DOWN, at->own.inner)) at->pending = &layer->sites[DOWN];
}

#define LAYER_PHASES 16

static void read_all(void *data) {
    Place at = *(const Place *)data;
    const Reader *m = at.model;
    Worker w = {at.launch->phases, 0};
    share(&w, embed, &at, at.launch->count);
    for (at.number = 0; at.number < m->depth; at.number++) {
        at.layer = &m->layers[at.number];
        read_layer(&w, &at);
    }
    share(&w, leave, &at, at.launch->count);
}

/* Bytes of zeros that launches of up to `lines` tokens need, a multiple of sixteen. */
EXPORT int64_t hope_reader_scratch(const Reader *m, int64_t lines, int64_t capacity) {
    char nothing;
    return scratch_at(m, &nothing, lines, capacity).end - &nothing;
}

/* Bytes of a launch's phases, of zeros. */
EXPORT int64_t hope_reader_phases(const Reader *m) { return (int64_t)sizeof(Phase) * (2 + LAYER_PHASES * (long)m->depth); }

EXPORT void hope_read(const Reader *model, const Launch *launch, int32_t threads) {
    Place at = {.model = model, .launch = launch};
    at.own = scratch_at(model, launch->scratch, launch->lines, launch->capacity);
    if (launch->phases) memset(launch->phases, 0, (size_t)hope_reader_phases(model));
    together(read_all, &at, launch->phases ? threads : 1);
}

/* A product alone, of operands or of what a norm makes of rows. */
typedef struct {
    Product product;
    const float *rows, *gain; /* [count, inputs] fp32, and [inputs]; null for no norm */
    uint16_t *operands;       /* of the norm: what the product is of */
    float epsilon;
    Phase *phases;
} Alone;

static void normalise_alone(const void *context, long row) {
    const Alone *o = context;
    const long width = o->product.inputs;
    normalised(o->rows + row * width, o->gain, width, o->epsilon, o->operands + row * o->product.x_step);
}

static void multiply_alone(void *data) {
    const Alone *o = data;
    Worker w = {o->phases, 0};
    if (o->rows) share(&w, normalise_alone, o, o->product.count);
    multiply_rows(&w, &o->product);
}

INLINE Product product_alone(const Frozen *p, const uint16_t *x, int64_t count, float *y, float *totals) {
    return (Product){p, x, 0, y, totals, count, p->inputs, p->outputs, OPERANDS(p->inputs), p->outputs, frozen_groups(p->inputs)};
}

/* y [count, outputs] fp32 = W x + b. x: bf16, lines of hope_frozen_line numbers, count filled up to sixteens. totals:
 * room for [count, inputs / 32].
 */
EXPORT void hope_frozen_multiply(const Frozen *p, const uint16_t *x, int64_t count, float *y, float *totals, int32_t threads) {
    Phase phases[2] = {0};
    Alone call = {.product = product_alone(p, x, count, y, totals), .phases = threads > 1 ? phases : 0};
    together(multiply_alone, &call, threads);
}

/* As hope_frozen_multiply, of the norm of x [count, inputs] fp32 with gain; operands: room for its lines. */
EXPORT void hope_frozen_normed(const Frozen *p, const float *x, const float *gain, float epsilon, int64_t count, uint16_t *operands,
                               float *y, float *totals, int32_t threads) {
    Phase phases[3] = {0};
    Alone call = {product_alone(p, operands, count, y, totals), x, gain, operands, epsilon, threads > 1 ? phases : 0};
    together(multiply_alone, &call, threads);
}

EXPORT int64_t hope_frozen_line(const Frozen *p) { return OPERANDS(p->inputs); }
