/* panel.c: from canonical rows to panels and back. */
#include "panel.h"

#include <math.h>
#include <string.h>

enum { MAX_BLOCK_BYTES = 34 };

const int8_t cl_q4_0_values[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
const int8_t cl_q4_1_values[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

size_t panel_bytes(cl_format f, int64_t cols)
{
    size_t blocks = (size_t)panel_blocks(cols), group = (size_t)panel_group(f);
    switch (f) {
    case CL_F32: return blocks * 32 * CL_PANEL * 4;
    case CL_F16:
    case CL_BF16: return blocks * 32 * CL_PANEL * 2;
    case CL_Q8_0:
    case CL_Q4_0:
    case CL_Q4_1:
    case CL_MXFP4:
    case CL_INT4: return (blocks + group - 1) / group * PANEL_SCALES + blocks * panel_integers(f);
    case CL_FP8: return panel_fp8_codes((int64_t)blocks) + blocks * PANEL_I8;
    default: CL_BUG("format %d has no panels", (int)f);
    }
}

/* Where number `col` of row 0 sits, in numbers, and how far apart rows are: float formats. */
static size_t float_at(cl_format f, int64_t col, int row)
{
    if (f == CL_BF16) return ((size_t)col / 2 * CL_PANEL + (size_t)row) * 2 + (size_t)col % 2;
    return (size_t)col * CL_PANEL + (size_t)row;
}

static void pack_floats(cl_format f, int64_t cols, const unsigned char *in, int row, unsigned char *panel)
{
    size_t size = f == CL_F32 ? 4 : 2;
    for (int64_t c = 0; c < cols; c++) memcpy(panel + float_at(f, c, row) * size, in + (size_t)c * size, size);
}

static void unpack_floats(cl_format f, int64_t cols, const unsigned char *panel, int row, float *out)
{
    size_t size = f == CL_F32 ? 4 : 2;
    for (int64_t c = 0; c < cols; c++) cl_decode_row(f, panel + float_at(f, c, row) * size, 1, out + c);
}

/* The 32 integers of a canonical block's 4-bit part lie as column j low, column j + 16 high, in byte j. */
static unsigned nibble(const unsigned char *b, int col) { return col < 16 ? b[col] & 15u : (unsigned)b[col - 16] >> 4; }

static void nibbles_to_panel(const unsigned char *b, unsigned char *ints, int row)
{
    for (int c = 0; c < 32; c += 8) {
        for (int e = 0; e < 4; e++) {
            ints[c / 8 * 64 + row * 4 + e] = (unsigned char)(nibble(b, c + e) | nibble(b, c + 4 + e) << 4);
        }
    }
}

static void nibbles_from_panel(const unsigned char *ints, int row, unsigned char *b)
{
    memset(b, 0, 16);
    for (int c = 0; c < 32; c++) {
        unsigned v = ints[c / 8 * 64 + row * 4 + c % 4];
        v = c % 8 < 4 ? v & 15 : v >> 4;
        b[c % 16] |= (unsigned char)(c < 16 ? v : v << 4);
    }
}

/* A block's place in a panel: the part of its scales that belongs to `row`, and its integers. */
typedef struct place {
    unsigned char *scale, *ints;
} place;

static place place_of(cl_format f, unsigned char *panel, int64_t block, int row)
{
    int group = panel_group(f);
    unsigned char *p = panel + (size_t)(block / group) * panel_group_bytes(f);
    size_t k = (size_t)(block % group);
    return (place){p + k * (size_t)(PANEL_SCALES / group) + (size_t)row * (f == CL_MXFP4 ? 1 : 2),
                   p + PANEL_SCALES + k * panel_integers(f)};
}

static void pack_block(cl_format f, const unsigned char *b, place to, int row)
{
    if (f == CL_MXFP4) {
        *to.scale = b[0];
        nibbles_to_panel(b + 1, to.ints, row);
        return;
    }
    memcpy(to.scale, b, 2);
    if (f == CL_Q4_1) memcpy(to.scale + 2 * CL_PANEL, b + 2, 2);
    if (f == CL_Q8_0) {
        for (int g = 0; g < 8; g++) memcpy(to.ints + g * 64 + row * 4, b + 2 + g * 4, 4);
    } else {
        nibbles_to_panel(b + (f == CL_Q4_1 ? 4 : 2), to.ints, row);
    }
}

static void unpack_block(cl_format f, place from, int row, unsigned char *b)
{
    if (f == CL_MXFP4) {
        b[0] = *from.scale;
        nibbles_from_panel(from.ints, row, b + 1);
        return;
    }
    memcpy(b, from.scale, 2);
    if (f == CL_Q4_1) memcpy(b + 2, from.scale + 2 * CL_PANEL, 2);
    if (f == CL_Q8_0) {
        for (int g = 0; g < 8; g++) memcpy(b + 2 + g * 4, from.ints + g * 64 + row * 4, 4);
    } else {
        nibbles_from_panel(from.ints, row, b + (f == CL_Q4_1 ? 4 : 2));
    }
}

/* --- fp8 --- */

static int64_t fp8_tiles(int64_t cols) { return (cols + PANEL_TILE - 1) / PANEL_TILE; }

static size_t fp8_code_at(int64_t cols, int64_t col, int row)
{
    return panel_fp8_codes(panel_blocks(cols)) + (size_t)(col / 2) * 2 * CL_PANEL + (size_t)row * 2 + (size_t)(col % 2);
}

static void pack_fp8(int64_t cols, const unsigned char *in, int row, unsigned char *panel)
{
    size_t scales = (size_t)fp8_tiles(cols) * sizeof(float);
    if (row == 0) memcpy(panel + PANEL_FP8_SCALES, in, scales);
    else if (memcmp(panel + PANEL_FP8_SCALES, in, scales) != 0)
        CL_BUG("fp8: row %d of a panel has other scales than row 0", row);
    const unsigned char *codes = in + scales;
    float start = 0;
    for (int64_t c = 0; c < cols; c++) {
        panel[fp8_code_at(cols, c, row)] = codes[c];
        if ((codes[c] & 0x7f) == 0x7f) start = NAN;
    }
    memcpy(panel + (size_t)row * sizeof start, &start, sizeof start);
}

static void unpack_fp8(int64_t cols, const unsigned char *panel, int row, float *out)
{
    for (int64_t t = 0; t < fp8_tiles(cols); t++) {
        int64_t at = t * PANEL_TILE, n = cols - at < PANEL_TILE ? cols - at : PANEL_TILE;
        unsigned char tile[sizeof(float) + PANEL_TILE]; /* a canonical row of one tile */
        memcpy(tile, panel + PANEL_FP8_SCALES + (size_t)t * sizeof(float), sizeof(float));
        for (int64_t c = 0; c < n; c++) tile[sizeof(float) + (size_t)c] = panel[fp8_code_at(cols, at + c, row)];
        cl_decode_row(CL_FP8, tile, n, out + at);
    }
}

void panel_pack(cl_format f, int64_t cols, const unsigned char *rows, int64_t n_rows, unsigned char *panels)
{
    size_t row_bytes = cl_row_bytes(f, cols), panel = panel_bytes(f, cols);
    size_t block_bytes = (size_t)cl_format_get(f)->block_bytes;
    for (int64_t r = 0; r < n_rows; r++, rows += row_bytes) {
        unsigned char *to = panels + (size_t)(r / CL_PANEL) * panel;
        int lane = (int)(r % CL_PANEL);
        if (lane == 0) memset(to, 0, panel);
        if (f <= CL_BF16) {
            pack_floats(f, cols, rows, lane, to);
            continue;
        }
        if (f == CL_FP8) {
            pack_fp8(cols, rows, lane, to);
            continue;
        }
        for (int64_t b = 0; b < panel_blocks(cols); b++) {
            pack_block(f, rows + (size_t)b * block_bytes, place_of(f, to, b, lane), lane);
        }
    }
}

void panel_unpack(cl_format f, int64_t cols, const unsigned char *panel, int row, float *out)
{
    if (f <= CL_BF16) {
        unpack_floats(f, cols, panel, row, out);
        return;
    }
    if (f == CL_FP8) {
        unpack_fp8(cols, panel, row, out);
        return;
    }
    for (int64_t b = 0; b < panel_blocks(cols); b++) {
        unsigned char block[MAX_BLOCK_BYTES];
        unpack_block(f, place_of(f, (unsigned char *)panel, b, row), row, block);
        cl_decode_row(f, block, cols - b * 32 < 32 ? cols - b * 32 : 32, out + b * 32);
    }
}
