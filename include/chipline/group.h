/* group.h: the chips of one stage as one of them sees them: what they exchange, and how. Plain data between chip/,
 * which calls it, and line/, which implements it; neither knows the other.
 *
 * Every weight matrix of a stage is split by output rows, so a chip makes some columns of a product's result, and
 * everybody needs all of them before the next product. That exchange is a gather; finished numbers travel, never
 * partial sums. */
#ifndef CHIPLINE_GROUP_H
#define CHIPLINE_GROUP_H

#include <stddef.h>
#include <stdint.h>

/* Rows of 4-byte numbers (float32, or int32) that lie in the exchange memory or in a hand-over's activations. */
typedef struct cl_region {
    void *data; /* [rows][stride] */
    int rows;
    size_t stride;        /* numbers */
    const int32_t *cut;   /* [members + 1] or NULL */
    const int32_t *owner; /* [rows] or NULL */
    /* cut alone: member m has made columns cut[m] .. cut[m + 1] - 1 of every row; afterwards every member has all
     *   columns.
     * owner alone: row r is with member owner[r], columns 0 .. width - 1; afterwards every member has all rows.
     * both: row r is with member owner[r]; afterwards member m has columns cut[m] .. cut[m + 1] - 1 of every row. */
    int width; /* numbers of a row, where there is no cut */
    int to;    /* -1: as above; else only this member needs the result */
} cl_region;

typedef struct cl_group {
    int member, members;
    /* exchange memory of the size asked for, 64-byte aligned, at the same offsets on every member; it may or may not be
     * the same memory for all */
    float *memory;
    /* Collective over the stage's chips, called by the chip's own thread: returns when the regions' results are here.
     * Where memory is shared, every other member has come to this gather by then: what they have read before it may
     * be written again, what they read after it only when a later gather has returned. Bytes that came from others
     * are returned: the same number whatever carries them. A chip that is gone ends the job. */
    uint64_t (*gather)(void *ctx, const cl_region *regions, int n);
    void *ctx;
} cl_group;

/* Bytes that this member gets from the others: what gather returns. */
static inline uint64_t cl_region_bytes(const cl_region *r, int member, int members)
{
    uint64_t numbers = 0;
    if (r->to >= 0 && r->to != member) return 0;
    if (!r->owner)
        return 4 * (uint64_t)r->rows * (uint64_t)(r->cut[members] - r->cut[0] - (r->cut[member + 1] - r->cut[member]));
    for (int i = 0; i < r->rows; i++)
        if (r->owner[i] != member) numbers += (uint64_t)(r->cut ? r->cut[member + 1] - r->cut[member] : r->width);
    return 4 * numbers;
}

#endif
