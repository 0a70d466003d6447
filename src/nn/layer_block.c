/* layer_block.c - a user's C function as a layer.
 * SPDX-License-Identifier: MIT */
#include "nn/nn.h"

void kd__user_block_release(kd_context *ctx, kd__user_block *block)
{
    if (!block || atomic_fetch_sub_explicit(&block->references, 1, memory_order_acq_rel) != 1) return;
    if (block->desc.free) block->desc.free(block->desc.user);
    kd__free(ctx, block);
}

/* `user` is the library's from the call on, also when the block cannot be made: the caller, who sees no error until
 * kd_model_finish, could not know whether to free it. */
static kd_layer *refuse(kd_layer *layer, const kd_block_desc *desc)
{
    if (desc->free) desc->free(desc->user);
    return layer;
}

kd_layer *kd_layer_block(kd_layer *parent, const char *name, const kd_block_desc *desc)
{
    kd_block_desc own = { .struct_size = sizeof own };
    kd_status status = desc ? kd__desc_read(&own, sizeof own, desc, __func__)
                            : kd__fail(KD_ERR_ARG, "desc is NULL");
    kd_layer *self = kd__layer_new(parent, name, KD__LAYER_block, __func__);
    if (kd__layer_is_poison(self)) return refuse(self, &own);
    if (status != KD_OK) return kd__layer_fail(self, status, "%s: %s", __func__, kd_last_error());
    if (!own.forward) return refuse(kd__layer_fail(self, KD_ERR_ARG, "%s: desc->forward is NULL", __func__), &own);
    kd__user_block *block = kd__alloc(self->model->ctx, sizeof *block);
    if (!block) return refuse(kd__layer_fail(self, KD_ERR_NOMEM, "%s: %s", __func__, kd_last_error()), &own);
    block->desc = own;
    kd__format(block->type, sizeof block->type, "%s", own.type ? own.type : "block");
    block->desc.type = block->type;
    atomic_init(&block->references, 1);
    self->u.block = block;
    return self;
}

kd_tensor *kd__layer_run_block(kd_layer *self, kd_tape *tape, kd_tensor *x)
{
    const kd_block_desc *desc = &self->u.block->desc;
    const size_t mark = kd__tape_block_mark(tape);
    kd_tensor *y = desc->forward(self, tape, x, desc->user);
    kd__tape_keep_seen(tape, mark, x, y);
    return y;
}
