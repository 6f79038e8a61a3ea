/* domains.c: which chips of a stage share memory. */
#include "domains.h"

#include <stdlib.h>

static int host_of(cl_line_stage s, const uint16_t *hosts, int member) { return hosts ? hosts[s.first + member] : 0; }

/* Chips of a host that share memory: none with another, all, or runs of so many. */
static int most_together(const cl_line_options *o, cl_line_stage s)
{
    if (o->carrier == CL_CARRIER_MESSAGES) return 1;
    return o->together > 0 ? o->together : s.members;
}

/* The domain of this member, those before it having theirs: that of the last one on its host, if there is room. */
static int find(const domains *d, cl_line_stage s, const uint16_t *hosts, int member, int most)
{
    for (int m = member - 1; most > 1 && m >= 0; m--) {
        if (host_of(s, hosts, m) != host_of(s, hosts, member)) continue;
        return d->start[d->of[m] + 1] < most ? d->of[m] : d->n;
    }
    return d->n;
}

cl_code domains_make(const cl_line_options *o, cl_line_stage s, const uint16_t *hosts, domains *out, cl_err *err)
{
    domains d = {.members = s.members};
    const size_t n = (size_t)s.members;
    d.of = cl_malloc(n, sizeof *d.of, "chips that share memory", err);
    d.start = cl_calloc(n + 1, sizeof *d.start, "chips that share memory", err);
    d.member = cl_malloc(n, sizeof *d.member, "chips that share memory", err);
    if (!d.of || !d.start || !d.member) {
        domains_free(&d);
        return CL_E_FIT;
    }
    for (int m = 0; m < s.members; m++) { /* start[i + 1] counts the chips of domain i */
        d.of[m] = find(&d, s, hosts, m, most_together(o, s));
        d.n += d.of[m] == d.n;
        d.start[d.of[m] + 1]++;
    }
    for (int i = 0; i < d.n; i++) d.start[i + 1] += d.start[i];
    for (int m = s.members - 1; m >= 0; m--) /* start[i + 1] goes down to where domain i begins, and is set right */
        d.member[--d.start[d.of[m] + 1]] = m;
    for (int i = 0; i < d.n; i++) d.start[i] = d.start[i + 1];
    d.start[d.n] = s.members;
    *out = d;
    return CL_OK;
}

void domains_free(domains *d)
{
    free(d->of);
    free(d->start);
    free(d->member);
    *d = (domains){0};
}
