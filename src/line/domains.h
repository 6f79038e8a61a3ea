/* domains.h: which chips of a stage share memory: its domains. Chips of one host do, as far as the carrier lets them.
 * What a domain has to say to others goes through its leader. */
#ifndef CHIPLINE_LINE_DOMAINS_H
#define CHIPLINE_LINE_DOMAINS_H

#include "chipline/line.h"

typedef struct domains {
    int members, n;  /* chips of the stage; domains, counted in the order of their leaders */
    int32_t *of;     /* [members] the domain of each */
    int32_t *start;  /* [n + 1] */
    int32_t *member; /* [members] domain d is member[start[d] .. start[d + 1] - 1], ascending; the first one leads */
} domains;

/* Of a stage of a line with these options; hosts: of every rank, NULL: all are on one. The same on every rank. */
cl_code domains_make(const cl_line_options *o, cl_line_stage stage, const uint16_t *hosts, domains *out, cl_err *err);
void domains_free(domains *d);
static inline int domains_leader(const domains *d, int domain) { return d->member[d->start[domain]]; }
static inline int domains_size(const domains *d, int domain) { return d->start[domain + 1] - d->start[domain]; }

#endif
