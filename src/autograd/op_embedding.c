/* op_embedding.c - rows of a table by their numbers.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"

enum { ROWS = 64, COLUMNS = 64 };

typedef struct lookup {
    const float  *from;     /* forward: table; backward: dy */
    float        *to;       /* forward: y; backward: dtable */
    const int64_t *ids;
    size_t        count, width;
} lookup;

/* ids as int64_t, each checked; NULL when poisoned. */
static const int64_t *read_ids(kd__op_scope *op, const kd_tensor *table, const kd_tensor *ids)
{
    const size_t rows = table->shape[0];
    int64_t *out = NULL;
    if (ids->dtype == KD_I32) {
        out = kd__tape_alloc(op->tape, ids->count * sizeof *out);
        for (size_t i = 0; out && i < ids->count; i++) out[i] = ((const int32_t *)ids->data)[i];
    }
    const int64_t *all = ids->dtype == KD_I32 ? out : ids->data;
    for (size_t i = 0; all && i < ids->count; i++) {
        if (all[i] >= 0 && (uint64_t)all[i] < rows) continue;
        size_t index[KD_MAX_RANK];
        kd__index_of(ids->rank, ids->shape, i, index);
        kd__op_fail(op, KD_ERR_RANGE, "ids%S is %lld, outside the table %S", (size_t)ids->rank, index, (long long)all[i],
                    (size_t)table->rank, table->shape);
        return NULL;
    }
    return all;
}

/* y[i] = table[ids[i]] */
static void embedding_forward(size_t begin, size_t end, void *arg)
{
    const lookup *l = arg;
    for (size_t i = begin; i < end; i++)
        memcpy(l->to + i * l->width, l->from + (size_t)l->ids[i] * l->width, l->width * sizeof *l->to);
}

kd_tensor *kd_embedding(kd_tape *tape, kd_tensor *table, kd_tensor *ids)
{
    kd__op_scope op;
    if (!kd__op_begin_masks(&op, tape, KD__OP_embedding, (kd_tensor *[]){ table, ids }, 2, 0, 1u << 1)) return kd__poison(tape);
    table = op.in[0];
    ids = op.in[1];
    if (ids->dtype != KD_I32 && ids->dtype != KD_I64)
        return kd__op_fail(&op, KD_ERR_DTYPE, "ids are %s, not i32 or i64", kd_dtype_name(ids->dtype));
    if (table->rank != 2) return kd__op_fail(&op, KD_ERR_SHAPE, "table %S is not [n, d]", (size_t)table->rank, table->shape);
    if (ids->rank == KD_MAX_RANK) return kd__op_fail(&op, KD_ERR_LIMIT, "ids of rank %d leave no axis for d", KD_MAX_RANK);
    const int64_t *rows = read_ids(&op, table, ids);
    if (!kd__tape_ok(tape)) return kd__poison(tape);

    size_t shape[KD_MAX_RANK];
    memcpy(shape, ids->shape, sizeof shape);
    shape[ids->rank] = table->shape[1];
    kd_tensor *y = kd__op_output(&op, ids->rank + 1u, shape);
    lookup l = { table->data, y ? y->data : NULL, rows, ids->count, table->shape[1] };
    if (y && y->count) kd__parallel_range(tape->ctx, ids->count, ROWS, embedding_forward, &l);
    if (y && op.recording) {
        const int64_t **saved = kd__op_save(&op, sizeof *saved);
        if (saved) *saved = rows;
    }
    return kd__op_end(&op);
}

/* forward: y[i] = table[ids[i]], so dtable[ids[i]] += dy[i]: i in order for every column, whoever takes the column. */
static void embedding_backward(size_t begin, size_t end, void *arg)
{
    const lookup *l = arg;
    for (size_t i = 0; i < l->count; i++) {
        float *row = l->to + (size_t)l->ids[i] * l->width;
        const float *dy = l->from + i * l->width;
        for (size_t k = begin; k < end; k++) row[k] += dy[k];
    }
}

void kd__backward_embedding(kd_tape *tape, kd__node *node)
{
    const kd_tensor *table = node->in[0];
    bool accumulate;
    lookup l = { kd__grad_out(tape, node->out[0]), kd__grad_open(tape, node->in[0], &accumulate),
                 *(const int64_t *const *)node->saved, node->in[1]->count, table->shape[1] };
    if (!l.to || table->count == 0) return;
    if (!accumulate) memset(l.to, 0, table->count * sizeof *l.to);
    kd__parallel_range(tape->ctx, l.width, COLUMNS, embedding_backward, &l);
}
