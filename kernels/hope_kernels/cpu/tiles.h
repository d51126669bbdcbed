/* Products of bf16 by AMX, where the CPU has it and the kernel allows it: sixteen rows at once, each with the
 * sums that it has alone.
 */
#ifndef HOPE_TILES_H
#define HOPE_TILES_H

#include "vector.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define HOPE_AMX 1

typedef struct {
    uint8_t palette, start, none[14];
    uint16_t line_bytes[16];
    uint8_t lines[16];
} TileShapes;

/* A compiler may take it that _tile_loadconfig reads but the first eight bytes, and never write the rest. */
#define READ_WHOLE(x) __asm__ volatile("" : : "m"(x))

/* Asks Linux for the registers, once for all threads of the process. */
static int amx_allowed(void) {
    static int known;
    if (!known) known = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) ? -1 : 1;
    return known > 0;
}

#define MULTIPLY(c, b) \
    if (wide > c) { \
        _tile_loadd(b, w + c * LANES, wide * LANES * 4); \
        _tile_dpbf16ps(c, 4, b); \
    }

/* y[rows][wide * 16] = bias + x W; depth: pairs of inputs, in sixteens; steps in numbers of 32 bits. */
static void multiply_tiles(const uint32_t *w, long depth, long wide, long rows, const uint32_t *x, long x_step,
                           const float *bias, float *y) {
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.line_bytes[i] = 64;
        shapes.lines[i] = i < 5 ? (uint8_t)rows : LANES; /* sums and x have a line a row, W one an input pair */
    }
    READ_WHOLE(shapes);
    _tile_loadconfig(&shapes);
    _tile_loadd(0, bias, 0);
    if (wide > 1) _tile_loadd(1, bias + LANES, 0);
    if (wide > 2) _tile_loadd(2, bias + 2 * LANES, 0);
    if (wide > 3) _tile_loadd(3, bias + 3 * LANES, 0);
    for (long at = 0; at < depth; at += LANES, w += wide * LANES * LANES) {
        _tile_loadd(4, x + at, x_step * 4);
        MULTIPLY(0, 5) MULTIPLY(1, 6) MULTIPLY(2, 7) MULTIPLY(3, 5)
    }
    const long line = wide * LANES * 4;
    _tile_stored(0, y, line);
    if (wide > 1) _tile_stored(1, y + LANES, line);
    if (wide > 2) _tile_stored(2, y + 2 * LANES, line);
    if (wide > 3) _tile_stored(3, y + 3 * LANES, line);
    _tile_release();
}
#endif

#endif
