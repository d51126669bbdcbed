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

#endif
