/* group.h: the chips of one stage as one of them sees them: what they exchange, and how. Plain data between chip/,
 * which calls it, and line/, which implements it; neither knows the other.
 *
 * Every weight matrix of a stage is split by output rows, so a chip makes some columns of a product's result, and
 * everybody needs all of them before the next product. That exchange is a gather; finished numbers travel, never
 * partial sums. */
#ifndef CHIPLINE_GROUP_H
#define CHIPLINE_GROUP_H

#include <stdbool.h>
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

enum { CL_REGIONS_MOST = 8 }; /* of one gather */

/* What a gather has brought. */
typedef struct cl_gathered {
    uint64_t bytes;    /* that this member got of the others: the same number whatever carries them */
    uint32_t messages; /* that came to this chip for it: none where memory is shared */
} cl_gathered;

typedef struct cl_group {
    int member, members;
    /* exchange memory of the size asked for, 64-byte aligned, at the same offsets on every member; it may or may not be
     * the same memory for all */
    float *memory;
    /* Collective over the stage's chips, called by the chip's own thread: returns when the regions' results are here.
     * Where memory is shared, every other member has come to this gather by then: what they have read before it may
     * be written again, what they read after it only when a later gather has returned. A chip that is gone ends the
     * job. */
    cl_gathered (*gather)(void *ctx, const cl_region *regions, int n);
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

/* --- messages between the domains of a stage: sets of chips that share memory ---
 *
 * What all need goes around in rounds: in round k each domain passes on what it has to the domain 2^k before it, so
 * that after ceil(log2(domains)) rounds, and as many messages each, all have all, and no byte has come twice (Bruck et
 * al., Efficient algorithms for all-to-all communications in multiport message-passing systems, IEEE TPDS 8(11),
 * 1997). What one chip needs goes up a binomial tree to it. Rows of which every chip needs its own columns go straight
 * where they are large, and else in rounds too, each number in half of them. */
static inline int cl_exchange_rounds(int domains)
{
    int rounds = 0;
    while (1 << rounds < domains) rounds++;
    return rounds;
}

/* Bytes that travel while a message is under way, about: 2 us at 4 GB/s. */
enum { CL_MESSAGE_WORTH = 8192 };

/* Do rows of so many bytes in all, each with one domain, go in rounds to who needs their columns? */
static inline bool cl_exchange_in_rounds(int domains, uint64_t bytes)
{
    const int rounds = cl_exchange_rounds(domains);
    return (double)bytes / domains * rounds / 2 < (double)(domains - 1 - rounds) * CL_MESSAGE_WORTH;
}

/* Hand-overs go from domains of one stage to those of the next, each of which gets one, from this one. */
static inline int cl_handover_giver(int domains, int of_next, int next)
{
    return (int)((int64_t)next * domains / of_next);
}
/* How many this one gives. */
static inline int cl_handovers(int domain, int domains, int of_next)
{
    int n = 0;
    for (int d = 0; d < of_next; d++) n += cl_handover_giver(domains, of_next, d) == domain;
    return n;
}

#endif
