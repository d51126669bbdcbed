/* What ends with a token, of some rows at once: their heads, or parts of their levels, are shared by some threads,
 * each done by one.
 */
#ifndef HOPE_ENDS_H
#define HOPE_ENDS_H

#include "chunk.h"
#include "level.h"
#include "pool.h"

typedef struct Ends {
    const Model *model;
    const int64_t *rows, *tokens; /* and how many each row is behind */
    uint8_t *applied;             /* [B, layers, H] out: whether a head's write was finite */
    long level, each, items;      /* each: items of a row */
    void (*end)(const struct Ends *, long place, long item);
    atomic_long next;
} Ends;

static void end_some(void *data) {
    Ends *e = data;
    for (long item; (item = atomic_fetch_add(&e->next, 1)) < e->items;) e->end(e, item / e->each, item % e->each);
}

static void end_all(Ends *e, long count, long each, int32_t threads) {
    e->each = each, e->items = count * each;
    together(end_some, e, threads);
}

static void run_of(const Ends *e, long place, long item) {
    const Model *m = e->model;
    end_run(m, &m->blocks[item / m->heads], e->rows[place], item % m->heads, e->tokens[place]);
}

static void chunk_of(const Ends *e, long place, long item) {
    const Model *m = e->model;
    const Block *b = &m->blocks[item / m->heads];
    e->applied[place * e->each + item] = (uint8_t)end_chunk(m, b, e->rows[place], item % m->heads, e->tokens[place]);
}

static void gradient_of(const Ends *e, long place, long item) {
    const Level *l = &e->model->blocks[item / parts_of(&e->model->blocks[0].levels[e->level])].levels[e->level];
    const long first = item % parts_of(l) * PART, left = l->width - first;
    sum_gradient(l, e->rows[place], first, left < PART ? left : PART, e->tokens[place]);
}

/* Matrix memories take up their runs. */
EXPORT void hope_end_runs(const Model *m, const int64_t *rows, const int64_t *tokens, int64_t count, int32_t threads) {
    Ends e = {.model = m, .rows = rows, .tokens = tokens, .end = run_of};
    end_all(&e, count, m->layers * m->heads, threads);
}

/* Projections take up their chunks, after the end of a run. */
EXPORT void hope_end_chunks(const Model *m, const int64_t *rows, const int64_t *tokens, int64_t count, uint8_t *applied,
                            int32_t threads) {
    Ends e = {.model = m, .rows = rows, .tokens = tokens, .applied = applied, .end = chunk_of};
    end_all(&e, count, m->layers * m->heads, threads);
}

static void pack_row(const Ends *e, long place, long layer) {
    const Block *b = &e->model->blocks[layer];
    for (long head = 0; head < e->model->heads; head++) {
        pack_memory(e->model, b, e->rows[place], head);
        pack_maps(e->model, b, e->rows[place], head);
    }
    for (long level = 0; level < e->model->levels; level++) pack_level(&b->levels[level], e->rows[place]);
}

static void pack_level_of(const Ends *e, long place, long layer) {
    pack_level(&e->model->blocks[layer].levels[e->level], e->rows[place]);
}

/* All matrices of some rows are others than those that are packed. */
EXPORT void hope_pack_rows(const Model *m, const int64_t *rows, int64_t count, int32_t threads) {
    Ends e = {.model = m, .rows = rows, .end = pack_row};
    end_all(&e, count, m->layers, threads);
}

/* Those of a level are. */
EXPORT void hope_pack_level(const Model *m, int64_t level, const int64_t *rows, int64_t count, int32_t threads) {
    Ends e = {.model = m, .rows = rows, .level = level, .end = pack_level_of};
    end_all(&e, count, m->layers, threads);
}

/* A level's gradients take up what is kept. */
EXPORT void hope_sum_gradients(const Model *m, int64_t level, const int64_t *rows, const int64_t *tokens, int64_t count,
                               int32_t threads) {
    if (!m->layers) return;
    Ends e = {.model = m, .rows = rows, .tokens = tokens, .level = level, .end = gradient_of};
    end_all(&e, count, m->layers * parts_of(&m->blocks[0].levels[level]), threads);
}

#endif
