/* One token of a CMS level of one row; see hope_model/decoding/level.py. */
#ifndef HOPE_LEVEL_H
#define HOPE_LEVEL_H

#include "phi.h"

#define PART (TILE * LANES) /* lines of a memory that are one item: a tile of what is packed */

INLINE long parts_of(const Level *l) { return (l->width + PART - 1) / PART; }

/* Reads a part of the memory's lines and keeps these lines' errors and keys. */
static void recall_token(const Place *at, long part, long place, long next) {
    const Model *m = at->model;
    const Step *s = at->step;
    const Level *l = at->level;
    const long first = part * PART, width = l->width, row = s->rows[place];
    const long lines = width - first < PART ? width - first : PART;
    const Scratch own = scratch_at(m, s, place);
    float key[PADDED(width)], value[PADDED(width)];
    for (long i = 0; i < width; i += LANES) {
        const vf x = get(own.wide + i, width - i);
        store(key + i, choose(x < all(0), all(0), x));
    }
    unit(key, width, key);
    unit(own.wide + width, width, value);
    const vf rate = all(sigmoid(own.wide[2 * width]));
    const float *recalled = own.y + first;
    float *last = l->last + row * 2 * width + first;
    float *kept = l->kept + (row * l->keeps + s->kept[place * m->levels + at->number]) * 2 * width + first;
    read_tile(level_of(l), row, part, key, own.y, next);
    for (long i = 0; i < lines; i += LANES) {
        const long left = lines - i;
        put(kept + i, rate * (get(last + width + i, left) - load(value + first + i)), left);
        put(kept + width + i, get(last + i, left), left);
        put(last + i, load(key + first + i), left);
        put(last + width + i, get(recalled + i, left), left);
    }
}

/* item = part * B + place; in sequence a part. */
static void recall(const void *context, long item) {
    const Place *at = context;
    const Step *s = at->step;
    if (s->sequence) {
        for (long place = 0; place < s->count; place++) recall_token(at, item, place, -1);
        return;
    }
    const long place = item % s->count;
    recall_token(at, item / s->count, place, place + 1 < s->count ? s->rows[place + 1] : -1);
}

#endif
