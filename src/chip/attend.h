/* attend.h: the first half of a layer: norm, queries, keys and values, rotation, cache, attention, output.
 *
 * Inside chip/. */
#ifndef CHIPLINE_CHIP_ATTEND_H
#define CHIPLINE_CHIP_ATTEND_H

#include "phases.h"

/* cos and sin of this member's range of the n tokens of a step, whose slots and positions are there. */
void attend_angles(const chip_fixed *c, const crew_member *m, token_buffers *tokens, int n);

/* x [p->n][hidden]: read, and the half's result added to it. */
void attend_layer(const pass *p, kv_cache *kv, common_buffers *common, attention_buffers *b, float *x);

/* --- for both kinds of attention (rotate.c) --- */

/* Rotates one head of token tok of the micro-batch, if this attention rotates at all. */
void attend_rotate(const pass *p, int tok, float *x);
/* Multiplies n numbers of queries of token tok by what late positions have them multiplied by, if any. */
void attend_temperature(const pass *p, int tok, float *q, int n);

/* --- latent attention (attend_latent.c) --- */

/* From x to b->lookup and the cache; weight bytes read. Ends with a wait. */
uint64_t latent_in(const pass *p, kv_cache *kv, common_buffers *common, latent_buffers *b, const float *x);
/* From lookup and cache to b->found, prepared for the product after it. */
void latent_attend(const pass *p, const kv_cache *kv, common_buffers *common, latent_buffers *b);
/* From there to this chip's columns of seen [p->n][stride]; weight bytes read. */
uint64_t latent_out(const pass *p, const common_buffers *common, const latent_buffers *b, float *seen, size_t stride);

#endif
