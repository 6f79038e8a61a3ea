/* sizes.h: bounds of what a configuration may say, far above any real model and far below what would exhaust memory
 * before the first tensor is looked at. */
#ifndef CHIPLINE_IMPORT_SIZES_H
#define CHIPLINE_IMPORT_SIZES_H

enum { CL_MAX_SIZE = 1 << 27, CL_MAX_LAYERS = 10000, CL_MAX_HEADS = 1 << 16, CL_MAX_EXPERTS = 1 << 16 };

#endif
