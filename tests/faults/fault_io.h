/* fault_io.h - the library's table of system calls, with one call, or all from one on, going wrong.
 * SPDX-License-Identifier: MIT */
#ifndef KD_FAULT_IO_H
#define KD_FAULT_IO_H
#include "base/base.h"

typedef enum fault_kind {
    FAULT_ERROR,     /* -1 and `error` in errno                              */
    FAULT_SHORT,     /* read and write: half of what was asked, at least 1   */
    FAULT_END,       /* read: 0 bytes, as if the file had ended              */
    FAULT_NONE       /* split what is written into small calls, but no fault */
} fault_kind;

typedef struct fault {
    size_t     at;           /* the call that goes wrong, from 1; 0: none */
    int        persistent;   /* and all after it                          */
    fault_kind kind;
    int        error;
    size_t     most;         /* bytes one write call takes; 0: all        */
    void     (*before)(size_t call), (*after)(size_t call);   /* NULL: nothing */
    /* what happened */
    size_t     calls;
    size_t     hit;          /* calls that went wrong                     */
    size_t     hit_close;    /* of them: closing                          */
    int        unlink_hit;   /* one of them was the removal of a file     */
    int        renamed;      /* the target was replaced                   */
} fault;

/* Behind the table until fault_end. */
void fault_begin(const fault *plan);
/* The table as it was; what happened. */
fault fault_end(void);
#endif
