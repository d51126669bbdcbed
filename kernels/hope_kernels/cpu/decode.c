/* Decoding a native Hope model on a CPU: one token of each of some rows, in place on their slabs.
 *
 * The recurrences of hope_model/decoding in their order. A row's bits depend neither on the other rows of the
 * step nor on its place nor on the number of threads: every number is computed by one item, whose sums run
 * over its own row in an order of their own.
 */
#include "draw.h"
#include "ends.h"

static void embed(const void *context, long place) {
    const Place *at = context;
    const Model *m = at->model;
    const float *token = m->embedding + at->step->tokens[place] * m->width;
    const Scratch own = scratch_at(m, at->step, place);
    for (long i = 0; i < m->width; i += LANES)
        put(own.x + i, get(token + i, m->width - i) * all(m->scale), m->width - i);
}

/* ops = x / rms(x) . gain */
static void normalise(const void *context, long place) {
    const Place *at = context;
    const long d = at->model->width;
    const Scratch own = scratch_at(at->model, at->step, place);
    const vf scale = all(1.f / sqrtf(square_sum(own.x, d) / (float)d + 1e-6f));
    for (long i = 0; i < d; i += LANES)
        put(own.z + i, get(own.x + i, d - i) * scale * get(at->gain + i, d - i), d - i);
    operands(own.z, d, at->bf16, own.ops);
}

static void gate_hidden(const void *context, long place) {
    const Place *at = context;
    const long f = at->model->hidden;
    const Scratch own = scratch_at(at->model, at->step, place);
    for (long i = 0; i < f; i += LANES)
        put(own.wide + i, silu(get(own.wide + i, f - i)) * get(own.wide + f + i, f - i), f - i);
    operands(own.wide, f, at->bf16, own.ops);
}

static void operands_of_y(const void *context, long place) {
    const Place *at = context;
    const Scratch own = scratch_at(at->model, at->step, place);
    operands(own.y, at->product->inputs, at->bf16, own.ops);
}

/* A product's item is a tile and some rows, enough of them to be worth reading the tile. */
#define SHARING 16

INLINE long product_items(const Product *p, long count) {
    return product_tiles(p) * ((count + SHARING - 1) / SHARING);
}

INLINE void product_item(const Place *at, long item, float *y, long step, int add) {
    const Step *s = at->step;
    const long groups = (s->count + SHARING - 1) / SHARING, first = item % groups * SHARING;
    const long rows = s->count - first < SHARING ? s->count - first : SHARING;
    const Scratch own = scratch_at(at->model, s, first);
    product(at->product, item / groups, rows, own.ops, scratch_of(at->model), y + first * step, step, add);
}

static void to_wide(const void *context, long item) {
    const Place *at = context;
    product_item(at, item, scratch_at(at->model, at->step, 0).wide, scratch_of(at->model), 0);
}

static void to_y(const void *context, long item) {
    const Place *at = context;
    product_item(at, item, scratch_at(at->model, at->step, 0).y, scratch_of(at->model), 0);
}

static void onto_x(const void *context, long item) {
    const Place *at = context;
    product_item(at, item, scratch_at(at->model, at->step, 0).x, scratch_of(at->model), 1);
}

static void to_logits(const void *context, long item) {
    const Place *at = context;
    product_item(at, item, at->step->logits, at->model->vocab, 0);
}

INLINE void multiply(Worker *w, Place *at, const Product *p, void (*item)(const void *, long)) {
    at->product = p;
    share(w, item, at, product_items(p, at->step->count));
}

static void decode_block(Worker *w, Place *at) {
    const Block *b = at->block;
    const long count = at->step->count, rows = at->step->sequence ? 1 : count;
    at->gain = b->phi_gain;
    share(w, normalise, at, count);
    multiply(w, at, &b->in_gate, to_wide);
    share(w, convolve, at, rows);
    multiply(w, at, &b->query, to_y);
    share(w, one_head, at, rows * at->model->heads);
    at->product = &b->output;
    share(w, operands_of_y, at, count);
    multiply(w, at, &b->output, onto_x);
    const long number = at->number;
    for (at->number = 0; at->number < at->model->levels; at->number++) {
        at->level = &b->levels[at->number];
        at->gain = at->level->gain;
        share(w, normalise, at, count);
        multiply(w, at, &at->level->terms, to_wide);
        share(w, recall, at, rows * parts_of(at->level));
        at->product = &at->level->output;
        share(w, operands_of_y, at, count);
        multiply(w, at, &at->level->output, onto_x);
    }
    at->number = number;
    at->gain = b->mlp_gain;
    share(w, normalise, at, count);
    multiply(w, at, &b->expand, to_wide);
    share(w, gate_hidden, at, count);
    multiply(w, at, &b->contract, onto_x);
}

/* One thread's part of a step. */
static void decode(const Model *model, const Step *step) {
    Worker w = {step->phases, 0};
    Place at = {.model = model, .step = step, .bf16 = model->head.bf16};
    share(&w, embed, &at, step->count);
    for (at.number = 0; at.number < model->layers; at.number++) {
        at.block = &model->blocks[at.number];
        decode_block(&w, &at);
    }
    at.gain = model->gain;
    share(&w, normalise, &at, step->count);
    if (!step->sequence) {
        multiply(&w, &at, &model->head, to_logits);
        return;
    }
    Step last = *step;
    last.scratch += (step->count - 1) * scratch_of(model);
    last.count = 1;
    at.step = &last;
    multiply(&w, &at, &model->head, to_logits);
}

/* Rows that are worth reading all weights for: with so many for every thread, each goes its own way. */
#define ENOUGH 8

typedef struct {
    const Model *model;
    const Step *step;
    long parts;
    atomic_long next;
} Call;

static Step part_of(const Model *m, const Step *s, long first, long count) {
    Step own = *s;
    own.rows += first, own.tokens += first, own.runs += first, own.chunks += first, own.learns += first;
    own.kept += first * m->levels;
    own.wrote += first * m->layers * m->heads;
    own.logits += first * m->vocab;
    own.scratch += first * scratch_of(m);
    own.phases = 0;
    own.count = count;
    return own;
}

static void work(void *data) {
    Call *call = data;
    if (call->parts == 1) {
        decode(call->model, call->step);
        return;
    }
    const long count = call->step->count;
    for (long part; (part = atomic_fetch_add(&call->next, 1)) < call->parts;) {
        const long first = part * count / call->parts, end = (part + 1) * count / call->parts;
        const Step own = part_of(call->model, call->step, first, end - first);
        decode(call->model, &own);
    }
}

/* Numbers of 32 bits that a row of a step needs. */
EXPORT int64_t hope_scratch(const Model *model) { return scratch_of(model); }

/* Bytes of a step's phases. */
EXPORT int64_t hope_phases(const Model *model) {
    return (int64_t)sizeof(Phase) * (4 + model->layers * (11 + 5 * model->levels));
}

EXPORT void hope_decode(const Model *model, const Step *step, int32_t threads) {
    Call call = {.model = model, .step = step, .parts = 1};
    if (!step->phases) threads = 1;
    if (threads > 1 && !step->sequence && step->count >= (int64_t)ENOUGH * threads) call.parts = threads;
    if (step->phases) memset(step->phases, 0, (size_t)hope_phases(model));
    together(work, &call, threads);
}
