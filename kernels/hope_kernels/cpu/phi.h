/* One token of phi, rule `delta` (E5 to E9), of one row; see hope_model/decoding/phi.py. */
#ifndef HOPE_PHI_H
#define HOPE_PHI_H

#include "learned.h"
#include "writes.h"

INLINE float square_sum(const float *x, long n) {
    vf s = all(0);
    for (long i = 0; i < n; i += LANES) {
        const vf v = get(x + i, n - i);
        s = fma_(v, v, s);
    }
    return sum(s);
}

/* to = x / |x|, filled up with zeros to sixteens. */
static void unit(const float *x, long n, float *to) {
    const vf scale = all(1.f / sqrtf(square_sum(x, n) + 1e-6f));
    for (long i = 0; i < n; i += LANES) store(to + i, get(x + i, n - i) * scale);
}

/* y [rows] = M [rows, n] x; x is filled up with zeros. */
INLINE void matrix_vector_of(const float *m, long rows, long n, const float *x, float *y) {
    for (long v = 0; v < rows; v += LANES) {
        vf s[LANES];
        const long some = rows - v < LANES ? rows - v : LANES;
        for (long i = 0; i < LANES; i++) s[i] = all(0);
        for (long i = 0; i < some; i++)
            for (long k = 0; k < n; k += LANES) s[i] = fma_(get(m + (v + i) * n + k, n - k), load(x + k), s[i]);
        put(y + v, sums(s), some);
    }
}

static void matrix_vector(const float *m, long rows, long n, const float *x, float *y) {
    if (n == USUAL) matrix_vector_of(m, rows, USUAL, x, y);
    else matrix_vector_of(m, rows, n, x, y);
}

/* The causal convolution of one row; its window moves on. */
INLINE void convolve_token(const Place *at, long place) {
    const Model *m = at->model;
    const long d = m->width, past = m->conv - 1;
    const Scratch own = scratch_at(m, at->step, place);
    float *window = at->block->window + at->step->rows[place] * past * d;
    for (long i = 0; i < d; i += LANES) {
        const long left = d - i;
        const vf x = get(own.wide + i, left);
        vf s = all(0);
        for (long j = 0; j < past; j++) {
            const vf w = get(window + j * d + i, left);
            s = fma_(w, get(at->block->taps + j * d + i, left), s);
            if (j) put(window + (j - 1) * d + i, w, left);
        }
        if (past) put(window + (past - 1) * d + i, x, left);
        put(own.z + i, silu(fma_(x, get(at->block->taps + past * d + i, left), s)), left);
    }
    operands(own.z, d, at->bf16, own.ops);
}

/* item: a place, or in sequence all of them. */
static void convolve(const void *context, long item) {
    const Place *at = context;
    const Step *s = at->step;
    if (!s->sequence) convolve_token(at, item);
    for (long place = 0; s->sequence && place < s->count; place++) convolve_token(at, place);
}

/* read[i] += sum over the run's tokens t of e^(decay - decay_t) (key_t . x[i]) write_t. */
static void read_run(const Block *b, const Model *m, long own, long run, long k, const float *x[2], float *read[2]) {
    const float *keys = b->run_keys + own * m->run * k, *writes = b->run_writes + own * m->run * k;
    float score[2][PADDED(m->run)];
    for (int i = 0; i < 2; i++) matrix_vector(keys, run, k, x[i], score[i]);
    for (long t = 0; t < run; t += LANES) {
        const vf since = exp_(all(b->decay[own]) - get(b->run_decay + own * m->run + t, run - t));
        for (int i = 0; i < 2; i++) put(score[i] + t, get(score[i] + t, run - t) * since, run - t);
    }
    for (long j = 0; j < k; j += LANES) {
        vf s[2] = {load(read[0] + j), load(read[1] + j)};
        for (long t = 0; t < run; t++) {
            const vf write = get(writes + t * k + j, k - j);
            for (int i = 0; i < 2; i++) s[i] = fma_(all(score[i][t]), write, s[i]);
        }
        for (int i = 0; i < 2; i++) store(read[i] + j, s[i]);
    }
}

/* Save up what the token writes; of a head whose write is not finite, nothing. */
static void keep(const Place *at, long place, long head, long k, const float *key, const float *value,
                 const float *u, float rate, float log_alpha, int wrote) {
    const Model *m = at->model;
    const Block *b = at->block;
    const long row = at->step->rows[place], run = at->step->runs[place], own = row * m->heads + head;
    float *chunk = b->chunk_kept + ((row * m->chunk + at->step->chunks[place]) * m->heads + head) * (2 * k + 1);
    float *keys = b->run_keys + (own * m->run + run) * k, *writes = b->run_writes + (own * m->run + run) * k;
    const float decay = b->decay[own] + (wrote ? log_alpha : 0.f);
    for (long j = 0; j < k; j++) {
        keys[j] = chunk[j] = wrote ? key[j] : 0.f;
        chunk[k + j] = wrote ? value[j] : 0.f;
        writes[j] = wrote ? u[j] : 0.f;
    }
    chunk[2 * k] = wrote ? rate : 0.f;
    b->decay[own] = b->run_decay[own * m->run + run] = decay;
}

/* next: the row of the same head that follows, negative for none. */
static void head_token(const Place *at, long head, long place, long next) {
    const Model *m = at->model;
    const Step *s = at->step;
    const Block *b = at->block;
    const long row = s->rows[place];
    const long k = m->width / m->heads, full = PADDED(k), own = row * m->heads + head;
    const Scratch scratch = scratch_at(m, s, place);
    float z[full], made[PADDED(2 * k + 2)], key[full], value[full], q[full], a[full], read_q[full], read_a[full];
    for (long j = 0; j < k; j += LANES) store(z + j, get(scratch.z + head * k + j, k - j));
    const Matrices maps = maps_of(m, b, head);
    for (long tile = 0; tile < product_tiles(maps.base); tile++) read_tile(maps, row, tile, z, made, next);
    unit(made, k, key);
    unit(made + k, k, value);
    unit(scratch.y + head * k, k, q);
    const float rate = m->max_rate * sigmoid(made[2 * k] + b->rate_bias[head]);
    const float log_alpha = log_sigmoid(made[2 * k + 1] + b->retention_bias[head]);
    for (long j = 0; j < k; j += LANES)
        store(a + j, all(rate) * (load(value + j) - all(2.f) * load(key + j)));
    const float *x[2] = {q, a};
    float *read[2] = {read_q, read_a};
    read_both(memory_of(m, b, head), row, expf(b->decay[own]), x, read, next);
    read_run(b, m, own, s->runs[place], k, x, read);
    vf total = all(0);
    for (long j = 0; j < k; j += LANES) {
        const vf u = fma_(all(rate), load(value + j) - load(key + j), load(read_a + j));
        store(read_a + j, u);
        total += u;
    }
    const int wrote = isfinite(sum(total) + log_alpha);
    s->wrote[(place * m->layers + at->number) * m->heads + head] = (uint8_t)wrote;
    if (s->learns[place]) keep(at, place, head, k, key, value, read_a, rate, log_alpha, wrote);
    for (long j = 0; j < k; j += LANES) store(read_q + j, load(read_q + j) + load(q + j));
    const vf scale = all(1.f / sqrtf(square_sum(read_q, k) / (float)k + 1e-6f));
    for (long j = 0; j < k; j += LANES) {
        const long channel = head * k + j, left = k - j;
        const vf gate = silu(get(scratch.wide + m->width + channel, left));
        put(scratch.y + channel, load(read_q + j) * scale * get(b->output_gain + channel, left) * gate, left);
    }
}

/* item = head * B + place, so that rows share what is loaded of a head's base; in sequence a head. Runs that end
 * within a sequence are taken up; what ends with its last token is the caller's, as of a step.
 */
static void one_head(const void *context, long item) {
    const Place *at = context;
    const Step *s = at->step;
    if (!s->sequence) {
        const long place = item % s->count;
        head_token(at, item / s->count, place, place + 1 < s->count ? s->rows[place + 1] : -1);
        return;
    }
    for (long place = 0; place < s->count; place++) {
        const int ends = s->learns[place] && s->runs[place] + 1 == at->model->run && place + 1 < s->count;
        head_token(at, item, place, -1);
        if (ends) end_run(at->model, at->block, s->rows[place], item, at->model->run);
    }
}

#endif
