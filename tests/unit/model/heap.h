/* heap.h: how much memory is in use, where the C library says so; else always 0. */
#ifndef CHIPLINE_TEST_HEAP_H
#define CHIPLINE_TEST_HEAP_H

#include <malloc.h>
#include <stddef.h>

static inline size_t heap_in_use(void)
{
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
    const struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
#else
    return 0;
#endif
}

#endif
