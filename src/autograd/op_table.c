/* op_table.c - ops.def as a table: names and backward functions.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

static const struct {
    const char *name;
    void (*backward)(kd_tape *tape, kd__node *node);
} ops[KD__OP_COUNT] = {
#define OP(name) [KD__OP_##name] = { "kd_" #name, kd__backward_##name },
#include "autograd/ops.def"
#undef OP
};

const char *kd__op_name(kd__op_id id) { return ops[id].name; }

void kd__op_backward(kd_tape *tape, kd__node *node) { ops[node->id].backward(tape, node); }
