/* panel.h: the layout of packed weights that all sets but the reference share: one row is one lane, one panel one
 * stream.
 *
 * Float formats, columns padded with zeros to a multiple of 32:
 *   f32  [column][16 rows] float;  f16  [column][16 rows] uint16;  bf16  [column pair][16 rows][2] uint16.
 * Formats in blocks of 32 columns: scales of PANEL_GROUP blocks fill 64 bytes, then come the integers of these blocks
 * (the last group has 64 bytes of scales and only the blocks that exist). Everything starts at a multiple of 64 bytes.
 *   scales q8_0, q4_0: [block][16 rows] f16; int4: [block][16 rows] bf16; q4_1: [16 rows] f16 scale, [16 rows] f16
 *     minimum; mxfp4: [block][16 rows] e8m0.
 *   integers of a block  q8_0: [8][16 rows][4] int8: 64 bytes hold 16 rows x 4 consecutive columns;
 *     4 bits: [4][16 rows][4] bytes: the low halves of 64 bytes are columns 8v .. 8v+3, the high halves columns 8v+4
 *     .. 8v+7.
 * fp8: [16 rows] float start of the sum: 0, or NaN for a row with a NaN code (sets may decode those as numbers);
 *   [tile] float scale of 128 columns, shared by the 16 rows, padded to 64 bytes; [column pair][16 rows][2] codes,
 *   columns padded to 32. */
#ifndef CHIPLINE_KERNELS_PANEL_H
#define CHIPLINE_KERNELS_PANEL_H

#include "chipline/kernels.h"

/* bytes: scales of a group; integers (fp8: codes) of a block */
enum { PANEL_SCALES = 64, PANEL_I8 = 512, PANEL_U4 = 256 };
enum { PANEL_TILE = 128 }; /* fp8: columns that share a scale */

static inline int64_t panel_blocks(int64_t cols) { return (cols + 31) / 32; }
/* Blocks that share 64 bytes of scales. */
static inline int panel_group(cl_format f) { return f == CL_MXFP4 ? 4 : f == CL_Q4_1 ? 1 : 2; }
static inline size_t panel_integers(cl_format f) { return f == CL_Q8_0 ? PANEL_I8 : PANEL_U4; }
/* fp8: where the scales and the codes begin. */
enum { PANEL_FP8_SCALES = CL_PANEL * sizeof(float) };
static inline size_t panel_fp8_codes(int64_t blocks)
{
    size_t tiles = ((size_t)blocks + 3) / 4;
    return PANEL_FP8_SCALES + (tiles * sizeof(float) + 63) / 64 * 64;
}
static inline size_t panel_group_bytes(cl_format f)
{
    return PANEL_SCALES + (size_t)panel_group(f) * panel_integers(f);
}

/* The integers that 4-bit codes stand for; MXFP4: cl_e2m1_doubled. */
extern const int8_t cl_q4_0_values[16], cl_q4_1_values[16];

size_t panel_bytes(cl_format f, int64_t cols);
void panel_pack(cl_format f, int64_t cols, const unsigned char *rows, int64_t n_rows, unsigned char *panels);
void panel_unpack(cl_format f, int64_t cols, const unsigned char *panel, int row, float *out);

#endif
