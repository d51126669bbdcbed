/* The adapted layers of a Hope-Attention model over fixed keys and values, forward and back (E27).
 *
 * The recurrences of hope_model/attention/model.py in their order, operands of products and what is kept of the MLP and of
 * attention in bf16, all else in fp32. A token's gradient flows through its own column only. Its bits depend neither on
 * what shares the pass nor on the number of threads: every number is computed by one item in an order of its own.
 */
#include "delta.h"
#include "lookback.h"
#include "moments.h"
#include "pool.h"
#include "rows.h"
#include "solve.h"
#include "survey.h"
#include "weigh.h"

static void embed(const void *context, long place) {
    const At *at = context;
    memcpy(enter_of(at, 0, place), at->call->hidden + place * at->model->width, (size_t)at->model->width * 4);
}

INLINE int has_site(const At *at, int which) { return at->layer->sites[which].number >= 0; }

/* y += (A x) U of a place's memory at a site. */
INLINE void add_site(const At *at, int which, long place, float *y, long outputs) {
    const Site *site = &at->layer->sites[which];
    const long rank = site->subspace.outputs;
    if (has_site(at, which) && delta_of(at, site, place))
        read_delta(delta_of(at, site, place), at->call->inputs[site->number] + place * rank, rank, outputs, y);
}

static void enter_layer(const void *context, long place) {
    const At *at = context;
    const Reader *m = at->model;
    normalised(enter_of(at, at->number, place), at->layer->input_gain, m->width, m->epsilon,
               at->own.operands + place * step_of(m->width));
}

static void enter_mlp(const void *context, long place) {
    const At *at = context;
    const Reader *m = at->model;
    normalised(middle_of(at, place), at->layer->mlp_gain, m->width, m->epsilon, at->own.operands + place * step_of(m->width));
}

/* Turns x [K] by a position's angles, or back by them. */
INLINE void turn_head(const At *at, long place, const float *x, int back, float *to) {
    const long k = at->model->head_width, half = k / 2;
    const float *cosines = at->call->cosines + at->call->positions[place] * k;
    const float *sines = at->call->sines + at->call->positions[place] * k;
    for (long i = 0; i < half; i += LANES) {
        const long left = half - i;
        const vf low = get(x + i, left), high = get(x + half + i, left);
        const vf up = get(sines + (back ? half : 0) + i, left), down = get(sines + (back ? 0 : half) + i, left);
        put(to + i, fma_(low, get(cosines + i, left), high * up), left);
        put(to + half + i, fma_(high, get(cosines + half + i, left), low * down), left);
    }
}

/* Queries as rows of their groups. */
static void turn(const void *context, long place) {
    const At *at = context;
    const Reader *m = at->model;
    const long k = m->head_width, share = share_of(m);
    const float *heads = at->own.heads + place * floats_step(mixed_width(m));
    const vf scale = all(1.f / sqrtf((float)k));
    float *raw = raw_of(at, place), normed[PADDED(k)], turned[PADDED(k) + LANES];
    memset(turned, 0, sizeof turned);
    memcpy(raw, heads, (size_t)mixed_width(m) * 4);
    for (long h = 0; h < m->heads; h++, heads += k) {
        const float *own = heads;
        if (at->layer->query_gain) {
            const vf size = all(norm_scale(heads, k, m->epsilon));
            for (long i = 0; i < k; i += LANES)
                put(normed + i, get(heads + i, k - i) * size * get(at->layer->query_gain + i, k - i), k - i);
            own = normed;
        }
        if (at->layer->turns) turn_head(at, place, own, 0, turned);
        else memcpy(turned, own, (size_t)k * 4);
        uint16_t *to = at->own.queries + (row_of(at, h / share, place) + h % share) * step_of(k);
        for (long i = 0; i < k; i += 2 * LANES) put_pairs(to + i, load(turned + i) * scale, load(turned + i + LANES) * scale);
    }
}

static void gate(const void *context, long place) {
    const At *at = context;
    const long n = at->model->mlp;
    float *gates = at->own.wide + place * floats_step(2L * at->model->mlp), *ups = gates + n;
    add_site(at, GATE, place, gates, n);
    add_site(at, UP, place, ups, n);
    uint16_t *to = at->own.inner + place * step_of(n), *kept = gates_of(at, place);
    for (long i = 0; i < n; i += 2 * LANES) {
        const long rest = n - i - LANES;
        const vf nothing = all(0), g = get(gates + i, n - i), u = get(ups + i, n - i);
        const vf other = rest > 0 ? get(gates + i + LANES, rest) : nothing, up = rest > 0 ? get(ups + i + LANES, rest) : nothing;
        put_pairs(kept + i, g, other);
        put_pairs(kept + OPERANDS(n) + i, u, up);
        put_pairs(to + i, silu(g) * u, silu(other) * up);
    }
}

static void leave_layer(const void *context, long place) {
    const At *at = context;
    add_site(at, DOWN, place, enter_of(at, at->number + 1, place), at->model->width);
}

static void leave(const void *context, long place) {
    const At *at = context;
    memcpy(at->call->x + place * at->model->width, enter_of(at, adapted_of(at->model), place), (size_t)at->model->width * 4);
}

/* Of all outputs and inputs. */
INLINE Product product_of(const At *at, const Frozen *p, const uint16_t *x, const float *base, float *y, long y_step) {
    return (Product){p, x, base, y, at->own.totals, at->call->count, p->inputs, p->outputs, step_of(p->inputs), y_step,
                     totals_line(at->model)};
}

INLINE void multiply(Worker *w, const At *at, const Frozen *p, const uint16_t *x, const float *base, float *y, long y_step) {
    const Product product = product_of(at, p, x, base, y, y_step);
    multiply_rows(w, &product);
}

/* A x of a site, for everybody. */
INLINE void project(Worker *w, const At *at, int which, const uint16_t *x) {
    const Site *site = &at->layer->sites[which];
    if (has_site(at, which)) multiply(w, at, &site->subspace, x, 0, at->call->inputs[site->number], site->subspace.outputs);
}

#define LAYER_PHASES 24

static void go_forward(void *data) {
    At at = *(const At *)data;
    const Reader *m = at.model;
    Worker w = {at.call->phases, 0};
    share(&w, embed, &at, at.call->count);
    for (at.number = 0; at.number < adapted_of(m); at.number++) {
        at.layer = &m->layers[m->first_adapted + at.number];
        float *enter = enter_of(&at, at.number, 0), *middle = middle_of(&at, 0), *out = enter_of(&at, at.number + 1, 0);
        share(&w, enter_layer, &at, at.call->count);
        Product queries = product_of(&at, &at.layer->qkv, at.own.operands, 0, at.own.heads, floats_step(mixed_width(m)));
        queries.outputs = mixed_width(m);
        multiply_rows(&w, &queries);
        share(&w, pack_group_item, &at, at.call->asked * m->groups);
        share(&w, turn, &at, at.call->count);
        share(&w, lookback_item, &at, lookback_items(&at));
        multiply(&w, &at, &at.layer->output, at.own.mixed, enter, middle, m->width);
        share(&w, enter_mlp, &at, at.call->count);
        multiply(&w, &at, &at.layer->gate_up, at.own.operands, 0, at.own.wide, floats_step(2L * m->mlp));
        project(&w, &at, GATE, at.own.operands);
        project(&w, &at, UP, at.own.operands);
        share(&w, gate, &at, at.call->count);
        project(&w, &at, DOWN, at.own.inner);
        multiply(&w, &at, &at.layer->down, at.own.inner, middle, out, m->width);
        share(&w, leave_layer, &at, at.call->count);
    }
    share(&w, leave, &at, at.call->count);
}

INLINE uint16_t *trace_of(const At *at, int which, long place) {
    return at->own.traces + (which * at->call->lines + place) * rank_step(at->model);
}

/* What a site is told of the gradient y at its output: keeps it where it is wanted, and U y. */
INLINE void tell_site(const At *at, int which, long place, const float *y, long outputs) {
    const Site *site = &at->layer->sites[which];
    if (!has_site(at, which)) return;
    float *slopes = at->call->slopes[site->number];
    if (slopes) memcpy(slopes + place * outputs, y, (size_t)outputs * 4);
    const long whole = rank_step(at->model);
    uint16_t *trace = trace_of(at, which, place);
    memset(trace, 0, (size_t)whole * 2);
    if (delta_of(at, site, place)) pull_delta(delta_of(at, site, place), y, site->subspace.outputs, outputs, trace);
}

INLINE void round_line(const float *x, long n, uint16_t *to) {
    for (long i = 0; i < n; i += LANES) put_rounded(to + i, get(x + i, n - i), n - i);
}

static void enter_layer_back(const void *context, long place) {
    const At *at = context;
    const long d = at->model->width;
    const float *dx = at->call->x + place * d;
    tell_site(at, DOWN, place, dx, d);
    round_line(dx, d, at->own.operands + place * step_of(d));
}

/* Of the MLP's inner line to gate and up, in its place. */
static void gate_back(const void *context, long place) {
    const At *at = context;
    const long n = at->model->mlp;
    float *gates = at->own.wide + place * floats_step(2L * at->model->mlp), *ups = gates + n;
    const uint16_t *kept = gates_of(at, place);
    for (long i = 0; i < n; i += LANES) {
        const vf g = widened(kept + i), u = widened(kept + OPERANDS(n) + i), own = get(gates + i, n - i);
        const vf s = all(1.f) / (all(1.f) + exp_(-g));
        put(gates + i, own * u * s * (all(1.f) + g * (all(1.f) - s)), n - i);
        put(ups + i, own * g * s, n - i);
    }
    tell_site(at, GATE, place, gates, n);
    tell_site(at, UP, place, ups, n);
    round_line(gates, 2 * n, at->own.pulled + place * step_of(2 * n));
}

static void enter_mlp_back(const void *context, long place) {
    const At *at = context;
    const Reader *m = at->model;
    float *dx = at->call->x + place * m->width;
    norm_back(middle_of(at, place), at->layer->mlp_gain, at->own.narrow + place * m->width, m->width, m->epsilon, 1, dx);
    round_line(dx, m->width, at->own.operands + place * step_of(m->width));
}

/* The gradient of what attention has mixed, as rows of its groups. */
static void gather(const void *context, long place) {
    const At *at = context;
    const Reader *m = at->model;
    const long k = m->head_width, share = share_of(m);
    const float *heads = at->own.heads + place * floats_step(mixed_width(m));
    for (long h = 0; h < m->heads; h++)
        round_line(heads + h * k, k, at->own.queries + (row_of(at, h / share, place) + h % share) * step_of(k));
}

static void turn_back(const void *context, long place) {
    const At *at = context;
    const Reader *m = at->model;
    const long k = m->head_width;
    const float *heads = at->own.heads + place * floats_step(mixed_width(m)), *raw = raw_of(at, place);
    const vf scale = all(1.f / sqrtf((float)k));
    uint16_t *to = at->own.turns + place * step_of(mixed_width(m));
    float own[PADDED(k)], found[PADDED(k)];
    for (long h = 0; h < m->heads; h++, heads += k, raw += k, to += k) {
        if (at->layer->turns) turn_head(at, place, heads, 1, own);
        else memcpy(own, heads, (size_t)k * 4);
        for (long i = 0; i < k; i += LANES) put(own + i, get(own + i, k - i) * scale, k - i);
        if (at->layer->query_gain) norm_back(raw, at->layer->query_gain, own, k, m->epsilon, 0, found);
        round_line(at->layer->query_gain ? found : own, k, to);
    }
}

static void leave_layer_back(const void *context, long place) {
    const At *at = context;
    const Reader *m = at->model;
    norm_back(enter_of(at, at->number, place), at->layer->input_gain, at->own.narrow + place * m->width, m->width, m->epsilon, 1,
              at->call->x + place * m->width);
}

/* y += A^T (U y') of a site that was told. */
INLINE void project_back(Worker *w, const At *at, int which, float *y, long y_step) {
    if (!has_site(at, which)) return;
    const Frozen *p = &at->back->subspaces[which];
    Product product = product_of(at, p, trace_of(at, which, 0), y, y, y_step);
    product.x_step = rank_step(at->model);
    multiply_rows(w, &product);
}

/* Whether a gradient is wanted at any of these sites of a layer. */
INLINE int wanted(const At *at, long number, int first, int last) {
    const Layer *layer = &at->model->layers[at->model->first_adapted + number];
    for (int which = first; which <= last; which++)
        if (layer->sites[which].number >= 0 && at->call->slopes[layer->sites[which].number]) return 1;
    return 0;
}

static void go_through_mlp(Worker *w, const At *at) {
    const Reader *m = at->model;
    multiply(w, at, &at->back->down, at->own.operands, 0, at->own.wide, floats_step(2L * m->mlp));
    project_back(w, at, DOWN, at->own.wide, floats_step(2L * m->mlp));
    share(w, gate_back, at, at->call->count);
}

static void go_through_attention(Worker *w, const At *at) {
    const Reader *m = at->model;
    multiply(w, at, &at->back->gate_up, at->own.pulled, 0, at->own.narrow, m->width);
    project_back(w, at, GATE, at->own.narrow, m->width);
    project_back(w, at, UP, at->own.narrow, m->width);
    share(w, enter_mlp_back, at, at->call->count);
    multiply(w, at, &at->back->output, at->own.operands, 0, at->own.heads, floats_step(mixed_width(m)));
    share(w, pack_group_item, at, at->call->asked * m->groups);
    share(w, gather, at, at->call->count);
    share(w, lookback_back_item, at, lookback_items(at));
    share(w, turn_back, at, at->call->count);
    Product product = product_of(at, &at->back->qkv, at->own.turns, 0, at->own.narrow, m->width);
    product.inputs = mixed_width(m), product.x_step = step_of(mixed_width(m)); /* keys and values do not move */
    multiply_rows(w, &product);
    share(w, leave_layer_back, at, at->call->count);
}

/* Down to the lowest site where a gradient is wanted. */
static void go_back(void *data) {
    At at = *(const At *)data;
    const Reader *m = at.model;
    Worker w = {at.call->phases, 0};
    at.back_there = 1;
    long lowest = 0;
    while (lowest < adapted_of(m) && !wanted(&at, lowest, GATE, DOWN)) lowest++;
    for (at.number = adapted_of(m) - 1; at.number >= lowest; at.number--) {
        at.layer = &m->layers[m->first_adapted + at.number];
        at.back = &at.call->backs[at.number];
        share(&w, enter_layer_back, &at, at.call->count);
        if (at.number == lowest && !wanted(&at, lowest, GATE, UP)) return;
        go_through_mlp(&w, &at);
        if (at.number == lowest) return;
        go_through_attention(&w, &at);
    }
}

/* Bytes of zeros that passes of up to `lines` tokens, `span` slots and `asked` lessons need. */
EXPORT int64_t hope_tangent_scratch(const Reader *m, int64_t lines, int64_t span, int64_t asked) {
    char nothing;
    return kept_at(m, &nothing, lines, span, asked).end - &nothing;
}

/* Bytes of a pass's phases. */
EXPORT int64_t hope_tangent_phases(const Reader *m) { return (int64_t)sizeof(Phase) * (2 + LAYER_PHASES * adapted_of(m)); }

static void go(void (*pass)(void *), const Reader *model, const Tangent *call, int32_t threads) {
    At at = {.model = model, .call = call};
    at.own = kept_at(model, call->scratch, call->lines, call->most_span, call->most_asked);
    if (call->phases) memset(call->phases, 0, (size_t)hope_tangent_phases(model));
    together(pass, &at, call->phases ? threads : 1);
}

EXPORT void hope_tangent_forward(const Reader *model, const Tangent *call, int32_t threads) {
    go(go_forward, model, call, threads);
}

/* From the gradient of x, after hope_tangent_forward of the same tokens. */
EXPORT void hope_tangent_back(const Reader *model, const Tangent *call, int32_t threads) { go(go_back, model, call, threads); }
