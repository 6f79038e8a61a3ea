/* chat_messages.c: messages written as JSON. */
#include <stdlib.h>

#include "chipline/chat.h"
#include "chipline/json.h"

static cl_code read_message(const json_t *v, size_t i, cl_message *m, cl_err *err)
{
    static const char *const known[] = {"role", "content"};
    const char *key;
    json_t *value;
    if (!json_is_object(v)) return cl_fail(err, CL_E_INPUT, "item %zu is not an object", i);
    cl_code c = cl_json_str(v, "role", true, &m->role, err);
    if (c == CL_OK) c = cl_json_str(v, "content", true, &m->content, err);
    json_object_foreach((json_t *)(uintptr_t)v, key,
                        value) if (c == CL_OK && strcmp(key, known[0]) != 0 && strcmp(key, known[1]) != 0)
        c = cl_fail(err, CL_E_INPUT, "item %zu has an unknown key %.80s (role and content are known)", i, key);
    return c;
}

cl_code cl_messages_read(const json_t *list, cl_message **out, int *n, cl_err *err)
{
    size_t count = json_array_size(list);
    *out = NULL;
    *n = 0;
    if (!json_is_array(list)) return cl_fail(err, CL_E_INPUT, "messages: must be a list");
    if (count < 1 || count > INT32_MAX / 2)
        return cl_fail(err, CL_E_INPUT, count ? "messages: are too many" : "messages: is empty");
    cl_message *m = cl_calloc(count, sizeof *m, "messages", err);
    cl_code c = m ? CL_OK : CL_E_FIT;
    for (size_t i = 0; c == CL_OK && i < count; i++) {
        c = read_message(json_array_get(list, i), i, &m[i], err);
        if (c != CL_OK) cl_fail_prefix(err, "messages");
    }
    if (c == CL_OK) *out = m, *n = (int)count;
    else free(m);
    return c;
}
