/* Lines from a descriptor: the same whatever pieces they arrive in, without waiting, up to a length. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "lines.h"
#include "suite.h"

static line_reader reader; /* of from */
static int from, to;       /* ends of a pipe */
static const char *line;
static size_t length;
static cl_err err;

static void open_pipe(void)
{
    int ends[2];
    CU_ASSERT_FATAL(pipe(ends) == 0);
    from = ends[0];
    to = ends[1];
    lines_open(&reader, from, "rows");
    err = (cl_err){.code = CL_OK};
}

static void put(const char *text) { CU_ASSERT_FATAL(write(to, text, strlen(text)) == (ssize_t)strlen(text)); }

static lines_got next(size_t max) { return lines_next(&reader, 0, max, &line, &length, &err); }

static bool gives(const char *want)
{
    return next(100) == LINES_LINE && length == strlen(want) && memcmp(line, want, length) == 0;
}

static void test_pieces(void)
{
    open_pipe();
    CU_ASSERT(next(100) == LINES_NONE); /* nothing is there: it does not wait */
    put("row\npart");
    CU_ASSERT(gives("row"));
    CU_ASSERT(next(100) == LINES_NONE);
    put("rest\n");
    CU_ASSERT(gives("partrest"));
    put("one\ntwo\n\nth");
    CU_ASSERT(gives("one") && gives("two") && gives("") && next(100) == LINES_NONE);
    put("re");
    CU_ASSERT(next(100) == LINES_NONE);
    put("e\r\n\rfour\r\n\r\n");
    CU_ASSERT(gives("three") && gives("\rfour") && gives("") && next(100) == LINES_NONE);
    put("no end\r");
    close(to);
    CU_ASSERT(gives("no end") && next(100) == LINES_END && next(100) == LINES_END);
    lines_close(&reader);
    CU_ASSERT(read(from, &(char){0}, 1) < 0); /* it was closed */
}

/* Cut at every place, with an end of the line or without one. */
static void test_every_cut(void)
{
    static const char *const texts[] = {"a\nbcd\n\nef", "a\nbcd\n\nef\n"};
    for (int t = 0; t < 2; t++)
        for (size_t cut = 0; cut <= strlen(texts[t]); cut++) {
            char all[64] = "";
            open_pipe();
            for (int part = 0; part < 2; part++) {
                lines_got got;
                char head[16] = "";
                memcpy(head, texts[t], cut);
                put(part ? texts[t] + cut : head);
                if (part) close(to);
                while ((got = next(100)) == LINES_LINE)
                    snprintf(all + strlen(all), sizeof all - strlen(all), "[%.*s]", (int)length, line);
                CU_ASSERT(got == (part ? LINES_END : LINES_NONE));
            }
            CU_ASSERT_STRING_EQUAL(all, "[a][bcd][][ef]");
            lines_close(&reader);
        }
}

static void test_lengths(void)
{
    open_pipe();
    put("12345"); /* more may come */
    CU_ASSERT(next(5) == LINES_NONE);
    put("6");
    CU_ASSERT(next(5) == LINES_FAILED);
    CU_ASSERT(err.code == CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(err.msg, "rows: a line is over 5 bytes");
    close(to);
    lines_close(&reader);
    /* what was given out before does not count */
    open_pipe();
    put("1234\n12345");
    CU_ASSERT(next(5) == LINES_LINE && next(5) == LINES_NONE);
    put("\n");
    CU_ASSERT(next(5) == LINES_LINE && length == 5);
    close(to);
    lines_close(&reader);
}

static void test_unreadable(void)
{
    int folder = open(".", O_RDONLY);
    lines_open(&reader, folder, "a folder");
    CU_ASSERT(next(5) == LINES_FAILED && err.code == CL_E_INPUT);
    CU_ASSERT_STRING_EQUAL(err.msg, "a folder: cannot be read: Is a directory");
    lines_close(&reader);
}

int main(void)
{
    CU_TestInfo tests[] = {{"pieces", test_pieces},
                           {"every cut", test_every_cut},
                           {"lengths", test_lengths},
                           {"unreadable", test_unreadable},
                           CU_TEST_INFO_NULL};
    return run_suite("lines", tests);
}
