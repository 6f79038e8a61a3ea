/* gather.c: a stage's gather: the chips of a domain meet in their memory, and their leader brings what the other
 * domains have made. */
#include "line_internal.h"

cl_gathered line_gather(void *ctx, const cl_region *regions, int n)
{
    cl_line *l = ctx;
    const bool together = l->shared.block != NULL, several = l->domains.n > 1;
    cl_gathered got = {0};
    if (l->group.members == 1) return got;
    if (together) shared_arrive(l);
    for (int i = 0; i < n; i++) {
        if (together) shared_check_place(l, &regions[i]);
        got.bytes += cl_region_bytes(&regions[i], l->group.member, l->group.members);
    }
    if (!several) {
        shared_await_arrived(l);
        return got;
    }
    if (!line_leads(l)) {
        shared_await_leader(l);
        return got;
    }
    if (together) shared_await_arrived(l);
    got.messages = messages_exchange(l, regions, n);
    if (together) shared_let_go(l);
    return got;
}
