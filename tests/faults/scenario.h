/* scenario.h - whole uses of the library, small, for the programs that make something fail in them.
 * SPDX-License-Identifier: MIT */
#ifndef KD_SCENARIO_H
#define KD_SCENARIO_H
#include "kdtest_file.h"

/* Everything it makes it frees, also when a call in it fails; then it returns that call's status.  *hash is what came out,
 * the same each time.  Files it reads are in kdtest_tmp(), made by scenario_files(). */
typedef struct scenario {
    const char *name;
    kd_status (*run)(kd_context *ctx, uint64_t *hash);
    uint32_t    threads;
    uint32_t    files;     /* SCENARIO_READS, SCENARIO_WRITES "out.*" */
} scenario;
#define SCENARIO_READS  1u
#define SCENARIO_WRITES 2u
extern const scenario scenarios[];
extern const size_t scenario_count;

/* Make the files that scenarios read. */
void scenario_files(void);
#endif
