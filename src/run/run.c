/* run.c: the life of a run: opened, loaded, served, finished, closed. */
#include <stdlib.h>

#include "run_internal.h"

cl_code run_phases(cl_run *r, const phase *phases, int n, cl_err *err)
{
    cl_code c = CL_OK;
    for (int i = 0; c == CL_OK && i < n; i++) {
        if (phases[i].wanted && !phases[i].wanted(r)) continue;
        cl_ranks_phase(r->ranks, phases[i].name);
        c = cl_ranks_agree(r->ranks, phases[i].run(r, err), err);
    }
    return c;
}

cl_code cl_run_open(cl_run **out, cl_ranks *ranks, const cl_run_options *opt, cl_err *err)
{
    cl_run *r = cl_calloc(1, sizeof *r, "run", err);
    cl_code c = cl_ranks_agree(ranks, r ? CL_OK : CL_E_FIT, err);
    if (c != CL_OK) {
        free(r);
        return c;
    }
    r->ranks = ranks;
    cl_ranks_phase(ranks, "sharing the options");
    c = cl_ranks_agree(ranks, options_share(r, opt, err), err);
    if (c == CL_OK) c = run_phases(r, plan_phases, PLAN_PHASES, err);
    if (c == CL_OK) *out = r;
    else cl_run_close(r);
    return c;
}

cl_code cl_run_load(cl_run *r, cl_err *err) { return run_phases(r, load_phases, LOAD_PHASES, err); }

const cl_model *cl_run_model(const cl_run *r) { return &r->plan.model; }
cl_limits cl_run_limits(const cl_run *r) { return r->plan.limits; }

static void close_trace(cl_run *r)
{
    run_trace *t = &r->trace;
    cl_trace_close(t->recorder);
    if (t->log_path && !t->started) { /* never got to work: nothing in it */
        char *run_path = cl_ranks_rank(r->ranks) == 0 ? cl_event_log_path(r->opt.trace_path, -1, NULL) : NULL;
        remove(t->log_path);
        if (run_path) remove(run_path);
        free(run_path);
    }
    free(t->log_path);
    free(t->ranks);
    free(t->requests);
}

void cl_run_close(cl_run *r)
{
    if (!r) return;
    logits_free(r->logits);
    if (r->chip.free) r->chip.free(r->chip.ctx);
    cl_notes_close(r->notes);
    cl_line_close(r->line);
    close_trace(r);
    cl_placement_free(&r->plan.placement);
    cl_layout_free(&r->plan.layout);
    cl_model_free(&r->plan.model);
    cl_model_file_close(r->file);
    free(r->plan.source);
    free(r->plan.chosen);
    free(r->extents);
    free(r->samples.parts);
    free(r->samples.ids);
    free(r->stats);
    free(r->strings);
    free(r);
}

static cl_code finish_clocks(cl_run *r, cl_err *err)
{
    int64_t offset, uncertainty;
    run_trace *t = &r->trace;
    cl_ranks_clock(r->ranks, &offset, &uncertainty);
    if (uncertainty < t->clock_uncertainty) t->clock_offset = offset, t->clock_uncertainty = uncertainty;
    return CL_OK;
}

static cl_code gather_stats(cl_run *r, cl_err *err)
{
    bool root = cl_ranks_rank(r->ranks) == 0;
    size_t size = root ? (size_t)cl_ranks_size(r->ranks) : 1;
    cl_rank_stats mine = stats_of_rank(r);
    cl_trace_rank row = trace_row(r, &mine);
    r->trace.started = true;
    r->stats = cl_calloc(size, sizeof *r->stats, "numbers of the ranks", err);
    cl_code c = cl_ranks_agree(r->ranks, r->stats ? CL_OK : CL_E_FIT, err);
    if (c != CL_OK) return c;
    cl_ranks_gather(r->ranks, &mine, sizeof mine, r->stats);
    if (trace_wanted(r)) cl_ranks_gather(r->ranks, &row, sizeof row, r->trace.ranks);
    return CL_OK;
}

static cl_code finish_logits(cl_run *r, cl_err *err) { return r->logits ? logits_commit(r->logits, err) : CL_OK; }

cl_code cl_run_finish(cl_run *r, cl_session *session, cl_run_stats *stats, cl_err *err)
{
    static const phase phases[] = {{"comparing clocks", finish_clocks, trace_wanted},
                                   {"gathering numbers", gather_stats, NULL},
                                   {"writing the logits", finish_logits, NULL},
                                   {"collecting the trace", trace_collect, trace_wanted}};
    if (session) r->session = cl_session_get_stats(session);
    cl_code c = run_phases(r, phases, sizeof phases / sizeof *phases, err);
    if (r->stats && cl_ranks_rank(r->ranks) == 0) *stats = run_stats(r);
    return c;
}
