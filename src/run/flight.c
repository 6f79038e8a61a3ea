/* flight.c: a request's ids and text while it is in flight. */
#include "flight.h"

#include <stdlib.h>

#include "chipline/stops.h"

void flight_free(flight *f)
{
    if (!f) return;
    cl_request_free(f->request);
    cl_buf_free(&f->result.text);
    cl_buf_free(&f->result.reasoning);
    cl_reply_free(&f->reply);
    free(f->seq.tokens);
    free(f);
}

/* What it had said before it was interrupted becomes text again, but nobody hears it twice: only what was held back is
 * still to be heard. */
static void say_again(flight *f, cl_err *err)
{
    static const cl_source nobody = {0};
    const cl_request *r = f->request;
    cl_code c = CL_OK;
    bool stop = false;
    for (int i = 0; c == CL_OK && i < r->n_earlier; i++) c = flight_add_text(f, r->earlier[i], &nobody, &stop, err);
}

flight *flight_create(cl_request *r, int context, const cl_tokenizer *t, cl_err *err)
{
    flight *f = cl_calloc(1, sizeof *f, "request", err);
    if (!f) {
        cl_request_free(r);
        return NULL;
    }
    f->request = r;
    f->slot = -1;
    f->result.tokens = f->seq.tokens;
    if (r->error.code != CL_OK) return f;
    int room = context - r->n_prompt, most = r->max_tokens < room ? r->max_tokens : room;
    cl_sequence *q = &f->seq;
    *q = (cl_sequence){.n_prompt = r->n_prompt,
                       .n_tokens = r->n_prompt + r->n_earlier,
                       .capacity = r->n_prompt + most,
                       .fork = -1,
                       .rows = r->want_rows,
                       .sampling = r->sampling,
                       .owner = f};
    if (r->n_earlier >= most) {
        cl_fail(&r->error, CL_E_INPUT, "request %.60s: had %d tokens of at most %d already", r->id, r->n_earlier, most);
        return f;
    }
    if (!(q->tokens = cl_malloc((size_t)q->capacity, sizeof *q->tokens, "tokens", &r->error))) return f;
    memcpy(q->tokens, r->prompt, (size_t)r->n_prompt * sizeof *q->tokens);
    if (r->n_earlier) memcpy(q->tokens + r->n_prompt, r->earlier, (size_t)r->n_earlier * sizeof *q->tokens);
    f->result.tokens = q->tokens + r->n_prompt;
    f->result.n_tokens = r->n_earlier;
    if (t) cl_reply_init(&f->reply, r->chat, t);
    if (t) say_again(f, &r->error);
    return f;
}

/* Gives out reasoning that is new. */
static cl_code show_reasoning(flight *f, const cl_source *to, cl_err *err)
{
    const cl_buf *text = &f->result.reasoning;
    size_t from = f->thought;
    f->thought = text->len;
    if (!to->reasoning || text->len == from) return CL_OK;
    return to->reasoning(to->ctx, f->request, text->data + from, text->len - from, err);
}

/* Gives out text that is new, up to `until`. */
static cl_code show_text(flight *f, size_t until, const cl_source *to, cl_err *err)
{
    size_t from = f->shown;
    if (until <= from) return CL_OK;
    f->shown = until;
    return to->text ? to->text(to->ctx, f->request, f->result.text.data + from, until - from, err) : CL_OK;
}

cl_code flight_add_text(flight *f, int32_t id, const cl_source *to, bool *stop, cl_err *err)
{
    cl_buf *text = &f->result.text;
    size_t before = text->len;
    *stop = false;
    if (cl_reply_add(&f->reply, id, text, &f->result.reasoning, &f->request->error) != CL_OK) return CL_OK;
    cl_code c = show_reasoning(f, to, err);
    if (c != CL_OK || text->len == before) return c;
    const cl_stops stops = {(const char *const *)f->request->stops, f->request->n_stops};
    size_t at = cl_stops_find(&stops, text->data, text->len, before, NULL);
    *stop = at != SIZE_MAX;
    if (*stop) {
        text->len = at;
        text->data[at] = 0;
        return CL_OK;
    }
    return show_text(f, text->len - cl_stops_unsure(&stops, text->data, text->len), to, err);
}

cl_code flight_finish_text(flight *f, bool cut, const cl_source *to, cl_err *err)
{
    cl_result *r = &f->result;
    if (cl_reply_finish(&f->reply, cut, &r->text, &r->reasoning, &f->request->error) != CL_OK) return CL_OK;
    return show_reasoning(f, to, err);
}
