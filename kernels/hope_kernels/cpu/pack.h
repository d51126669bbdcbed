/* Frozen weights into the layout of frozen.h and back. */
#ifndef HOPE_PACK_H
#define HOPE_PACK_H

#include "blocks.h"
#include "frozen.h"

/* Bytes of the packed weights. */
EXPORT int64_t hope_frozen_bytes(const Frozen *p) {
    return PADDED((long)p->outputs) / LANES * unit_bytes(p->kind) * units_of(p->kind, frozen_depth(p));
}

INLINE int value_at(const Frozen *p, const int8_t *values, long out, long in) {
    return out < p->outputs && in < p->inputs ? values[out * p->inputs + in] : 0;
}

static void pack_pair(const Frozen *p, const void *values, long out, long at, uint8_t *to) {
    const long size = p->kind == INT8 ? 2 : 4; /* bytes of a pair */
    if (out + LANES <= p->outputs && 2 * at + 2 <= p->inputs) {
        const char *from = (const char *)values + (out * p->inputs + 2 * at) * size / 2;
        for (long i = 0; i < LANES; i++) memcpy(to + i * size, from + i * p->inputs * size / 2, (size_t)size);
        return;
    }
    for (long i = 0; i < 2 * LANES; i++) {
        const long own = out + i / 2, in = 2 * at + i % 2;
        const int is = own < p->outputs && in < p->inputs;
        if (p->kind == INT8) to[i] = (uint8_t)value_at(p, values, own, in);
        else ((uint16_t *)to)[i] = is ? ((const uint16_t *)values)[own * p->inputs + in] : 0;
    }
}

/* The numbers of a group of 4 bits, two pairs a byte. */
static void pack_pairs(const Frozen *p, const int8_t *values, long out, long group, uint8_t *to) {
    for (long pair = group * GROUP; pair < (group + 1) * GROUP; pair += 2, to += 2 * LANES)
        for (long i = 0; i < 2 * LANES; i++) {
            const long own = out + i / 2, in = 2 * pair + i % 2;
            to[i] = (uint8_t)(value_at(p, values, own, in) | value_at(p, values, own, in + 2) << 4);
        }
}

/* Of a block: registers of eight outputs at a pair. */
static void pack_registers(const Frozen *p, const int8_t *values, long out, long group, uint8_t *to) {
    for (long i = 0; i < GROUP * 2 * LANES; i++) {
        const long own = out + i % (2 * LANES) / 2, in = 2 * (group * GROUP + i / (2 * LANES)) + i % 2;
        const int value = value_at(p, values, own, in);
        const long eighth = i / LANES % 8;
        if (p->kind == BLOCK8) to[i] = (uint8_t)value;
        else to[(i / LANES / 8 * LANES + i % LANES) * 4 + eighth / 2] |= (uint8_t)(value << eighth % 2 * 4);
    }
}

static void pack_group(const Frozen *p, const int8_t *values, const uint16_t *scales, const uint16_t *zeros, long out,
                       long group, uint8_t *to) {
    const long groups = frozen_groups(p->inputs), heads = p->kind == BLOCK8 ? LANES : 2 * LANES;
    memset(to, 0, (size_t)unit_bytes(p->kind));
    for (long i = 0; i < heads; i++) {
        const long own = out + i % LANES, at = own * groups + group;
        if (own < p->outputs) memcpy(to + 2 * i, (i < LANES ? scales : zeros) + at, 2);
    }
    if (p->kind == INT4) pack_pairs(p, values, out, group, to + 2 * heads);
    else pack_registers(p, values, out, group, to + 2 * heads);
}

/* values [outputs, inputs] row by row: bf16; or whole numbers, in 4 bits from 0 to 15 with scales and zeros
 * [outputs, inputs / 32] in bf16, or what hope_find_blocks gives. `to` has room for hope_frozen_bytes.
 */
EXPORT void hope_frozen_pack(const Frozen *p, const void *values, const uint16_t *scales, const uint16_t *zeros, uint8_t *to) {
    const long sixteens = PADDED((long)p->outputs) / LANES, units = units_of(p->kind, frozen_depth(p));
    for (long tile = 0; tile < sixteens; tile += TILE)
        for (long unit = 0; unit < units; unit++)
            for (long c = tile; c < sixteens && c < tile + TILE; c++, to += unit_bytes(p->kind)) {
                if (in_groups(p->kind)) pack_group(p, values, scales, zeros, c * LANES, unit, to);
                else pack_pair(p, values, c * LANES, unit, to);
            }
}

/* What a pair's number of an output stands for, before the scales of 8 bits; w: the piece that it comes from. */
INLINE uint16_t meant(const Frozen *p, const uint8_t *w, long wide, long pair, long i, uint16_t value) {
    if (p->kind != INT4) return value;
    const uint16_t *own = (const uint16_t *)(const void *)(w + (pair / GROUP * wide + i / LANES) * GROUP_BYTES) + i % LANES;
    const uint32_t words[3] = {(uint32_t)value << 16, (uint32_t)own[0] << 16, (uint32_t)own[LANES] << 16};
    float x[3];
    memcpy(x, words, sizeof x);
    return (uint16_t)(round_bf16(all(x[0] * x[1] + x[2]))[0] >> 16);
}

/* to [outputs, inputs] bf16: W, before the scales of 8 bits. */
EXPORT void hope_frozen_unpack(const Frozen *p, uint16_t *to) {
    const long sixteens = PADDED((long)p->outputs) / LANES, depth = frozen_depth(p), bytes = unit_bytes(p->kind);
    const uint8_t *w = p->weights;
    uint32_t made[PIECE * WIDE];
    for (long tile = 0; tile < sixteens; tile += TILE) {
        const long wide = sixteens - tile < TILE ? sixteens - tile : TILE;
        for (long at = 0; at < depth; at += PIECE) {
            const long some = depth - at < PIECE ? depth - at : PIECE;
            const uint32_t *piece = widen(p->kind, w, wide, some, made);
            for (long n = 0; n < some * wide * LANES; n++) {
                const long pair = n / (wide * LANES), i = n % (wide * LANES);
                const long out = tile * LANES + i, in = 2 * (at + pair);
                if (out >= p->outputs) continue;
                if (in < p->inputs) to[out * p->inputs + in] = meant(p, w, wide, pair, i, (uint16_t)piece[n]);
                if (in + 1 < p->inputs) to[out * p->inputs + in + 1] = meant(p, w, wide, pair, i, (uint16_t)(piece[n] >> 16));
            }
            w += wide * bytes * units_of(p->kind, some);
        }
    }
}

#endif
