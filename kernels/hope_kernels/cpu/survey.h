/* What logits say of tokens: their losses, the likeliest others, and the mean of the embeddings of all the rest by their
 * chances. Sums run in one order whatever shares a call: the vocabulary's parts are always the same ones.
 */
#ifndef HOPE_SURVEY_H
#define HOPE_SURVEY_H

#include "norms.h"
#include "pool.h"
#include "work.h"

#define PARTS 16 /* of the vocabulary, summed one by one */
#define MOST_MEANS 128 /* that share a piece of embeddings, made into weights for them */

/* N rows of V logits. */
typedef struct {
    const float *logits;    /* [N, V] */
    const int64_t *targets; /* [N] */
    float *totals, *losses; /* [N]: log of the sum of all, and nats of the targets */
    int64_t *best;          /* [N, size]: the greatest, in no order */
    int64_t count, vocab, size;
} Survey;

/* Of `count` rows the chances of all tokens that a row's list has not. */
typedef struct {
    const float *const *logits;  /* [count] rows of V */
    const float *totals;         /* [count] */
    const int64_t *const *lists; /* [count], each ascending */
    const int64_t *lengths;      /* [count], theirs */
    const uint16_t *embedding;   /* [V, D] bf16 */
    float *shares;               /* [count]: sums of their chances */
    float *means;                /* [count, D]: means of their embeddings, as if the share were no less than 1e-9 */
    uint16_t *chances;           /* [count in sixteens, hope_rest_line] */
    float *sums;                 /* [PARTS, tiles of D, MOST_MEANS, WIDE] */
    int64_t count, vocab, width;
} Rest;

INLINE int any(vi where) {
#ifdef __AVX512F__
    return _mm512_test_epi32_mask((__m512i)where, (__m512i)where) != 0;
#else
    int64_t parts[8], whole = 0;
    memcpy(parts, &where, sizeof parts);
    for (int i = 0; i < 8; i++) whole |= parts[i];
    return whole != 0;
#endif
}

/* The greatest `size` of x [n] and, of equals, the first ones. */
static void pick_best(const float *x, long n, long size, int64_t *best) {
    float own[size], least = INFINITY;
    long at = 0;
    for (long i = 0; i < size; i++) {
        best[i] = i, own[i] = x[i];
        if (!(own[i] >= least)) least = own[i], at = i;
    }
    for (long i = size; i < n; i += LANES) {
        if (n - i >= LANES && !any(load(x + i) > all(least))) continue;
        for (long j = i; j < i + LANES && j < n; j++) {
            if (!(x[j] > least)) continue;
            best[at] = j, own[at] = x[j], least = INFINITY;
            for (long k = 0; k < size; k++)
                if (own[k] < least) least = own[k], at = k;
        }
    }
}

static void survey_item(const void *context, long row) {
    const Survey *s = context;
    const float *x = s->logits + row * s->vocab;
    const long n = s->vocab;
    vf best = all(-INFINITY), total = all(0);
    for (long i = 0; i + LANES <= n; i += LANES) {
        const vf v = load(x + i);
        best = choose(v > best, v, best);
    }
    float most = best[0];
    for (int i = 1; i < LANES; i++) most = best[i] > most ? best[i] : most;
    for (long i = n / LANES * LANES; i < n; i++) most = x[i] > most ? x[i] : most;
    for (long i = 0; i < n; i += LANES) {
        const vf v = exp_(get(x + i, n - i) - all(most));
        float rest[LANES] = {0};
        if (n - i >= LANES) total = total + v;
        else memcpy(rest, &v, (size_t)(n - i) * 4), total = total + load(rest);
    }
    s->totals[row] = most + logf(sum(total));
    s->losses[row] = s->totals[row] - x[s->targets[row]];
    pick_best(x, n, s->size, s->best + row * s->size);
}

/* Numbers of a line of chances: whole registers, an odd number of them. */
#define OPERANDS_OF(n) (2 * PADDED(((n) + 1L) / 2))
#define CHANCES(vocab) ((OPERANDS_OF(vocab) / (2 * LANES) | 1) * 2 * LANES)

static void chances_item(const void *context, long row) {
    const Rest *r = context;
    const float *x = r->logits[row];
    uint16_t *to = r->chances + row * CHANCES(r->vocab);
    const vf whole = all(r->totals[row]);
    const int64_t *list = r->lists[row];
    const long n = r->vocab, listed = r->lengths[row];
    vf share = all(0);
    for (long i = 0, next = 0; i < n; i += 2 * LANES) {
        float some[2 * LANES] = {0};
        put(some, exp_(get(x + i, n - i) - whole), n - i);
        if (n - i > LANES) put(some + LANES, exp_(get(x + i + LANES, n - i - LANES) - whole), n - i - LANES);
        for (; next < listed && list[next] < i + 2 * LANES; next++) some[list[next] - i] = 0;
        share = share + load(some) + load(some + LANES);
        put_pairs(to + i, load(some), load(some + LANES));
    }
    r->shares[row] = sum(share);
}

/* Embeddings of `pairs` pairs of tokens from `first` on, `wide` sixteens from `feature` on, as weights. */
static void pack_embeddings(const Rest *r, long first, long pairs, long feature, long wide, uint32_t *to) {
    for (long pair = first; pair < first + pairs; pair++)
        for (long c = 0; c < wide; c++, to += LANES) {
            const long at = feature + c * LANES, left = r->width - at;
            uint16_t lines[2][LANES];
            const uint16_t *low = r->embedding + 2 * pair * r->width + at, *high = low + r->width;
            if (left < LANES || 2 * pair + 1 >= r->vocab) {
                memset(lines, 0, sizeof lines);
                const size_t bytes = (size_t)(left < LANES ? left : LANES) * 2;
                if (2 * pair < r->vocab) memcpy(lines[0], low, bytes);
                if (2 * pair + 1 < r->vocab) memcpy(lines[1], high, bytes);
                low = lines[0], high = lines[1];
            }
            const vu both = (vu)widened(high) | (vu)widened(low) >> 16;
            memcpy(to, &both, sizeof both);
        }
}

/* A tile's share of the next piece, into the second cache. */
INLINE void fetch_embeddings(const Rest *r, long first, long end, long tile, long tiles) {
    const long last = 2 * (first + PIECE < end ? first + PIECE : end), tokens = (last < r->vocab ? last : r->vocab) - 2 * first;
    const char *from = (const char *)(r->embedding + 2 * first * r->width);
    const long lines = tokens * r->width * 2 / 64;
    for (long i = tile * lines / tiles; i < (tile + 1) * lines / tiles; i++) __builtin_prefetch(from + i * 64, 0, 2);
}

typedef struct {
    const Rest *rest;
    long first, rows; /* some of its rows */
} Chunk;

INLINE long width_tiles(const Rest *r) { return (r->width + WIDE - 1) / WIDE; }

/* Numbers of a tile's sums of a part of the vocabulary. */
INLINE long sums_step(const Chunk *some) { return PADDED(some->rows) * WIDE; }

/* item: a part of the vocabulary. */
static void mean_item(const void *context, long part) {
    const Chunk *some = context;
    const Rest *r = some->rest;
    const long step = CHANCES(r->vocab) / 2, depth = OPERANDS_OF(r->vocab) / 2, tiles = width_tiles(r);
    const long each = PADDED((depth + PARTS - 1) / PARTS), end = (part + 1) * each < depth ? (part + 1) * each : depth;
    const uint32_t *x = (const uint32_t *)(const void *)(r->chances + some->first * CHANCES(r->vocab));
    float *sums = r->sums + part * tiles * sums_step(some);
    uint32_t made[PIECE * WIDE] __attribute__((aligned(64)));
    const Group none = {0};
    memset(sums, 0, (size_t)(tiles * sums_step(some)) * sizeof *sums);
#ifdef HOPE_AMX
    const int by_tiles = amx_allowed();
    if (by_tiles) shape_tiles(some->rows < LANES ? some->rows : LANES);
#endif
    for (long at = part * each; at < end; at += PIECE) {
        const long pairs = end - at < PIECE ? end - at : PIECE;
        for (long tile = 0; tile < tiles; tile++) {
            const long left = (r->width - tile * WIDE + LANES - 1) / LANES, wide = left < TILE ? left : TILE;
            if (at + PIECE < end) fetch_embeddings(r, at + PIECE, end, tile, tiles);
            pack_embeddings(r, at, pairs, tile * WIDE, wide, made);
            float *to = sums + tile * sums_step(some);
#ifdef HOPE_AMX
            if (by_tiles) {
                add_rows(made, wide, pairs, some->rows, x + at, step, &none, to);
                continue;
            }
#endif
            add_piece(made, wide, pairs, some->rows, x + at, step, &none, to);
        }
    }
#ifdef HOPE_AMX
    if (by_tiles) _tile_release();
#endif
}

static void gather_item(const void *context, long row) {
    const Chunk *some = context;
    const Rest *r = some->rest;
    const long tiles = width_tiles(r);
    const float share = r->shares[some->first + row];
    const vf scale = all(1.f / (share < 1e-9f ? 1e-9f : share));
    for (long i = 0; i < r->width; i += LANES) {
        vf s = all(0);
        const float *own = r->sums + i / WIDE * sums_step(some) + row * WIDE + i % WIDE;
        for (long part = 0; part < PARTS; part++, own += tiles * sums_step(some)) s = s + load(own);
        put(r->means + (some->first + row) * r->width + i, s * scale, r->width - i);
    }
}

typedef struct {
    const void *call;
    Phase *phases;
} Surveying;

static void survey_all(void *data) {
    const Surveying *s = data;
    Worker w = {s->phases, 0};
    share(&w, survey_item, s->call, ((const Survey *)s->call)->count);
}

static void rest_all(void *data) {
    const Surveying *s = data;
    const Rest *r = s->call;
    Worker w = {s->phases, 0};
    share(&w, chances_item, r, r->count);
    for (long first = 0; first < r->count; first += MOST_MEANS) {
        const Chunk some = {r, first, r->count - first < MOST_MEANS ? r->count - first : MOST_MEANS};
        share(&w, mean_item, &some, PARTS);
        share(&w, gather_item, &some, some.rows);
    }
}

/* phases: hope_survey_phases bytes of zeros; null for one thread. */
EXPORT void hope_survey(const Survey *s, Phase *phases, int32_t threads) {
    Surveying call = {s, phases};
    together(survey_all, &call, phases ? threads : 1);
}

EXPORT void hope_rest(const Rest *r, Phase *phases, int32_t threads) {
    Surveying call = {r, phases};
    together(rest_all, &call, phases ? threads : 1);
}

EXPORT int64_t hope_rest_line(int64_t vocab) { return CHANCES(vocab); }
EXPORT int64_t hope_rest_sums(int64_t width) { return PARTS * ((width + WIDE - 1) / WIDE) * MOST_MEANS * WIDE; }
EXPORT int64_t hope_survey_phases(int64_t count) { return (int64_t)sizeof(Phase) * (3 + 2 * (count / MOST_MEANS + 1)); }

#endif
