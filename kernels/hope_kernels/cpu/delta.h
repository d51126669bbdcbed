/* Low-rank memories U [rank, outputs] of bf16, read forward and back in fp32. */
#ifndef HOPE_DELTA_H
#define HOPE_DELTA_H

#include "frozen.h"

/* y [outputs] += c U */
static void read_delta(const uint16_t *delta, const float *c, long rank, long outputs, float *y) {
    long i = 0;
    for (; i + WIDE <= outputs; i += WIDE) {
        vf s[TILE] = {all(0), all(0), all(0), all(0)};
        for (long r = 0; r < rank; r++)
            UNROLLED for (int v = 0; v < TILE; v++) s[v] = fma_(all(c[r]), widened(delta + r * outputs + i + v * LANES), s[v]);
        UNROLLED for (int v = 0; v < TILE; v++) store(y + i + v * LANES, load(y + i + v * LANES) + s[v]);
    }
    for (; i < outputs; i += LANES) {
        const long left = outputs - i;
        vf s = all(0);
        for (long r = 0; r < rank; r++) {
            uint16_t line[LANES] = {0};
            memcpy(line, delta + r * outputs + i, left < LANES ? (size_t)left * 2 : sizeof line);
            s = fma_(all(c[r]), widened(line), s);
        }
        put(y + i, get(y + i, left) + s, left);
    }
}

/* to [rank] = U y, rounded to bf16. */
static void pull_delta(const uint16_t *delta, const float *y, long rank, long outputs, uint16_t *to) {
    for (long r = 0; r < rank; r++) {
        const uint16_t *line = delta + r * outputs;
        vf s = all(0);
        long i = 0;
        for (; i + LANES <= outputs; i += LANES) s = fma_(widened(line + i), load(y + i), s);
        if (i < outputs) {
            uint16_t rest[LANES] = {0};
            memcpy(rest, line + i, (size_t)(outputs - i) * 2);
            s = fma_(widened(rest), get(y + i, outputs - i), s);
        }
        to[r] = (uint16_t)(round_bf16(all(sum(s)))[0] >> 16);
    }
}

#endif
