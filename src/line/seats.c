/* seats.c: where ranks sit: which host, which cores. The table of hosts comes together over the tree, a few bytes a
 * rank; what only the ranks of a host need of each other goes through the first of them. */
#include <stdlib.h>
#include <unistd.h>

#include "ranks_internal.h"

/* --- the hosts --- */

void seats_name(const char *full, char name[HOST_NAME])
{
    if (strlen(full) < HOST_NAME) {
        strcpy(name, full);
        return;
    }
    uint64_t hash = 14695981039346656037u;
    for (const char *at = full; *at; at++) hash = (hash ^ (unsigned char)*at) * 1099511628211u;
    snprintf(name, HOST_NAME, "%.40s~%016llx", full, (unsigned long long)hash);
}

static void own_name(char name[HOST_NAME])
{
    char full[MPI_MAX_PROCESSOR_NAME] = "unknown";
    int n = 0;
    if (MPI_Get_processor_name(full, &n) != MPI_SUCCESS) strcpy(full, "unknown");
    seats_name(full, name);
}

/* Hosts of a run of ranks, as they travel. */
typedef struct hosts_head {
    int32_t ranks, hosts;
} hosts_head;

static int find_host(host_table *t, const char *name)
{
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->names[i], name)) return i;
    return -1;
}

static int add_host(cl_ranks *r, const char *name)
{
    host_table *t = &r->hosts;
    cl_err err;
    int at = find_host(t, name);
    if (at >= 0) return at;
    if (t->n > UINT16_MAX) cl_ranks_abort(r, CL_E_FIT, "ranks: on more than %d hosts", UINT16_MAX + 1);
    void *names = cl_realloc(t->names, (size_t)t->n + 1, HOST_NAME, "host names", &err);
    if (!names) cl_ranks_abort(r, CL_E_FIT, "rank %d: %s", r->rank, err.msg);
    t->names = names;
    memcpy(t->names[t->n], name, HOST_NAME);
    return t->n++;
}

static const char WHERE[] = "word of", WHERE_TO[] = "word to reach";

/* What a child's subtree knows goes behind what is here. */
static void take_hosts(cl_ranks *r, int child, int at)
{
    int n = tree_span(child, r->size);
    cl_err err;
    int32_t hosts = 0;
    wait_recv(r, &hosts, sizeof hosts, child, TAG_SEAT, WHERE);
    char(*names)[HOST_NAME] = cl_malloc((size_t)hosts, HOST_NAME, "host names", &err);
    if (!names) cl_ranks_abort(r, CL_E_FIT, "rank %d: %s", r->rank, err.msg);
    wait_recv(r, names, (size_t)hosts * HOST_NAME, child, TAG_SEAT, WHERE);
    wait_recv(r, &r->hosts.of[at], (size_t)n * sizeof *r->hosts.of, child, TAG_SEAT, WHERE);
    for (int i = 0; i < n; i++) {
        uint16_t host = r->hosts.of[at + i];
        if (host >= hosts) CL_BUG("ranks: host %d of %d", host, hosts);
        r->hosts.of[at + i] = (uint16_t)add_host(r, names[host]);
    }
    free(names);
}

static void find_hosts(cl_ranks *r)
{
    host_table *t = &r->hosts;
    cl_err err;
    char name[HOST_NAME] = "";
    int span = tree_span(r->rank, r->size);
    if (!(t->of = cl_calloc((size_t)r->size, sizeof *t->of, "host names", &err)))
        cl_ranks_abort(r, CL_E_FIT, "rank %d: %s", r->rank, err.msg);
    own_name(name);
    t->of[0] = (uint16_t)add_host(r, name);
    for (int step = 1; step < span; step *= 2) take_hosts(r, r->rank + step, step);
    if (r->rank) {
        const int parent = tree_parent(r->rank);
        int32_t hosts = t->n;
        wait_send(r, &hosts, sizeof hosts, parent, TAG_SEAT, WHERE_TO);
        wait_send(r, t->names, (size_t)t->n * HOST_NAME, parent, TAG_SEAT, WHERE_TO);
        wait_send(r, t->of, (size_t)span * sizeof *t->of, parent, TAG_SEAT, WHERE_TO);
    }
    size_t bytes = (size_t)t->n * HOST_NAME;
    void *names = t->names;
    if (cl_ranks_bcast_bytes(r, &names, &bytes, &err) != CL_OK) cl_ranks_abort(r, CL_E_FIT, "%s", err.msg);
    if (r->rank) free(t->names);
    t->names = names;
    t->n = (int)(bytes / HOST_NAME);
    cl_ranks_bcast(r, t->of, (size_t)r->size * sizeof *t->of);
    t->known = true;
}

const char *cl_ranks_host(const cl_ranks *r) { return cl_ranks_host_of(r, r->rank); }

const char *cl_ranks_host_of(const cl_ranks *r, int rank)
{
    return r->hosts.known ? r->hosts.names[r->hosts.of[rank]] : "an unknown host"; /* still finding out */
}

/* --- the ranks of a host --- */

static bool is_here(const cl_ranks *r, int rank) { return r->hosts.of[rank] == r->hosts.of[r->rank]; }

static int first_here(const cl_ranks *r)
{
    int first = 0;
    while (!is_here(r, first)) first++;
    return first;
}

cl_seat seats_of(const rank_cores *all, int n, int me)
{
    cpu_set_t together;
    int sharers = 0;
    CPU_ZERO(&together);
    for (int i = 0; i < n; i++) {
        sharers += CPU_EQUAL(&all[i].cores, &all[me].cores) != 0;
        CPU_OR(&together, &together, &all[i].cores);
    }
    int share = CPU_COUNT(&all[me].cores) / sharers;
    return (cl_seat){.ranks_here = n, .cores_here = CPU_COUNT(&together), .threads_fit = share > 1 ? share : 1};
}

static rank_cores own_cores(void)
{
    rank_cores c;
    memset(&c, 0, sizeof c);
    if (sched_getaffinity(0, sizeof c.cores, &c.cores) != 0)
        for (long i = 0; i < sysconf(_SC_NPROCESSORS_ONLN) && i < CPU_SETSIZE; i++) CPU_SET((size_t)i, &c.cores);
    return c;
}

static void find_seats(cl_ranks *r)
{
    rank_cores mine = own_cores();
    int first = first_here(r), n = 0;
    if (first != r->rank) {
        wait_send(r, &mine, sizeof mine, first, TAG_SEAT, WHERE_TO);
        wait_recv(r, &r->seat, sizeof r->seat, first, TAG_SEAT, WHERE);
        return;
    }
    for (int rank = first; rank < r->size; rank++) n += is_here(r, rank);
    cl_err err;
    rank_cores *all = cl_malloc((size_t)n, sizeof *all, "cores of ranks", &err);
    if (!all) cl_ranks_abort(r, CL_E_FIT, "rank %d: %s", r->rank, err.msg);
    all[0] = mine;
    for (int rank = first + 1, i = 1; rank < r->size; rank++)
        if (is_here(r, rank)) wait_recv(r, &all[i++], sizeof *all, rank, TAG_SEAT, WHERE);
    r->seat = seats_of(all, n, 0);
    for (int rank = first + 1, i = 1; rank < r->size; rank++) {
        if (!is_here(r, rank)) continue;
        cl_seat seat = seats_of(all, n, i++);
        wait_send(r, &seat, sizeof seat, rank, TAG_SEAT, WHERE_TO);
    }
    free(all);
}

void seats_find(cl_ranks *r)
{
    find_hosts(r);
    find_seats(r);
}

void seats_free(cl_ranks *r)
{
    free(r->hosts.names);
    free(r->hosts.of);
}

uint64_t seats_sum(cl_ranks *r, uint64_t mine)
{
    uint64_t sum = mine, other = 0;
    int first = first_here(r);
    if (first != r->rank) {
        wait_send(r, &mine, sizeof mine, first, TAG_SEAT, WHERE_TO);
        wait_recv(r, &sum, sizeof sum, first, TAG_SEAT, WHERE);
        return sum;
    }
    for (int rank = first + 1; rank < r->size; rank++) {
        if (!is_here(r, rank)) continue;
        wait_recv(r, &other, sizeof other, rank, TAG_SEAT, WHERE);
        sum += other;
    }
    for (int rank = first + 1; rank < r->size; rank++)
        if (is_here(r, rank)) wait_send(r, &sum, sizeof sum, rank, TAG_SEAT, WHERE_TO);
    return sum;
}
