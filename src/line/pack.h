/* pack.h: numbers of a gather's regions on their way between domains: those that a domain has made and another one
 * needs lie in a message region after region, row after row, from left to right. */
#ifndef CHIPLINE_LINE_PACK_H
#define CHIPLINE_LINE_PACK_H

#include "chipline/group.h"
#include "domains.h"

/* What of the regions: a number is in one of these. */
typedef enum pack_sort {
    PACK_ALL, /* what all chips need alike */
    PACK_ONE, /* what one chip needs: `to` of the region */
    PACK_OWN  /* rows of which each chip needs its own columns */
} pack_sort;

typedef struct packing {
    const domains *domains;
    const cl_region *regions;
    int n;
    const int32_t *rows; /* [n][domains] that a domain has made of each region: filled in by pack_count_rows */
    pack_sort sort;
    int to; /* PACK_ONE: the member */
} packing;

void pack_count_rows(const packing *p, int32_t *rows);
/* Numbers that domain `from` has made and `dest` needs (of no meaning but with PACK_OWN). */
size_t pack_count(const packing *p, int from, int dest);
/* Moves them from the regions to `packed`, or back; returns how many. */
size_t pack(const packing *p, int from, int dest, float *packed);
size_t unpack(const packing *p, int from, int dest, const float *packed);

#endif
