/* group.c: the chips of this rank's stage: who they are, and what carries their numbers. */
#include <sys/statvfs.h>

#include "line_internal.h"

static void find_members(cl_line *l)
{
    const cl_line_options *o = &l->opt;
    int member = l->rank - o->stage_first, n = 0;
    if (member < 0 || member >= o->members)
        CL_BUG("line: rank %d is not in the stage of ranks %d + %d", l->rank, o->stage_first, o->members);
    MPI_TRY(l, MPI_Comm_split(l->comm, o->stage_first, member, &l->stage));
    MPI_TRY(l, MPI_Comm_set_errhandler(l->stage, MPI_ERRORS_RETURN));
    MPI_TRY(l, MPI_Comm_size(l->stage, &n));
    if (n != o->members) CL_BUG("line: the stage of rank %d has %d chips, not %d", o->stage_first, n, o->members);
    uint64_t mine[2] = {o->exchange_bytes, UINT64_MAX - o->exchange_bytes}, most[2];
    MPI_TRY(l, MPI_Allreduce(mine, most, 2, MPI_UINT64_T, MPI_MAX, l->stage));
    if (most[0] != UINT64_MAX - most[1]) CL_BUG("line: the chips of a stage differ in their exchange memory");
    l->group.member = member;
    l->group.members = n;
    l->group.ctx = l;
}

static bool on_one_host(cl_line *l)
{
    MPI_Comm here;
    int n = 0;
    MPI_TRY(l, MPI_Comm_split_type(l->stage, MPI_COMM_TYPE_SHARED, l->group.member, MPI_INFO_NULL, &here));
    MPI_TRY(l, MPI_Comm_size(here, &n));
    MPI_TRY(l, MPI_Comm_free(&here));
    return n == l->group.members;
}

static cl_code choose_carrier(cl_line *l, cl_err *err)
{
    bool together = l->group.members > 1 && l->opt.carrier != CL_CARRIER_MESSAGES && on_one_host(l);
    if (l->group.members > 1 && !together && l->opt.carrier == CL_CARRIER_SHARED)
        return cl_fail(
            err, CL_E_FIT,
            "line: the stage of ranks %d to %d is on several hosts, which share no memory (--gather messages, or "
            "stages that fit a host)",
            l->opt.stage_first, l->opt.stage_first + l->opt.members - 1);
    l->opt.carrier = together ? CL_CARRIER_SHARED : CL_CARRIER_MESSAGES;
    return CL_OK;
}

/* Is there room for all stages of this host? Asked before, because an MPI library may give out memory that isn't
 * there (a chip would be killed when it writes), and when it refuses it may tell one member and leave the others
 * waiting. */
static cl_code check_room(cl_line *l, cl_err *err)
{
    struct statvfs fs;
    MPI_Comm here;
    bool asks = l->opt.carrier == CL_CARRIER_SHARED && cl_line_is_head(l);
    uint64_t mine = asks ? cl_line_shared_bytes(l) : 0, all = 0;
    MPI_TRY(l, MPI_Comm_split_type(l->comm, MPI_COMM_TYPE_SHARED, l->rank, MPI_INFO_NULL, &here));
    MPI_TRY(l, MPI_Allreduce(&mine, &all, 1, MPI_UINT64_T, MPI_SUM, here));
    MPI_TRY(l, MPI_Comm_free(&here));
    if (!all || statvfs("/dev/shm", &fs)) return CL_OK;
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (all <= room) return CL_OK;
    return cl_fail(
        err, CL_E_FIT,
        "line: cannot get %llu bytes of shared memory for the stages of %s: /dev/shm has room for %llu (--gather "
        "messages does without)",
        (unsigned long long)all, l->host, (unsigned long long)room);
}

static cl_code make_buffers(cl_line *l, cl_err *err)
{
    return l->opt.carrier == CL_CARRIER_SHARED ? cl_line_shared_open(l, err) : cl_line_messages_open(l, err);
}

cl_code cl_line_stage_open(cl_line *l, cl_err *err)
{
    find_members(l);
    cl_code c = cl_line_agree(l, choose_carrier(l, err), err);
    if (c == CL_OK) c = cl_line_agree(l, check_room(l, err), err);
    if (c == CL_OK) c = cl_line_agree(l, make_buffers(l, err), err);
    return c;
}

void cl_line_stage_close(cl_line *l)
{
    if (l->shared.block) cl_line_shared_close(l);
    else cl_line_messages_close(l);
    if (l->stage != MPI_COMM_NULL) MPI_TRY(l, MPI_Comm_free(&l->stage));
    l->group = (cl_group){0};
}

const cl_group *cl_line_group(const cl_line *l) { return &l->group; }
bool cl_line_shared(const cl_line *l) { return l->shared.block != NULL; }
