/* tape.c - a tape's life: made, reset, asked; its sticky error; tensors that are not an op's result.
 * SPDX-License-Identifier: MIT */
#include "autograd/tape_internal.h"
#include <stdarg.h>

_Static_assert(offsetof(struct kd_tape, state) == 0, "kd_tensor reads the state at the tape's beginning");

/* What ops return when there is no tape.  Never written. */
static kd_tensor no_tape = { .magic = KD__TENSOR_MAGIC, .dtype = KD_F32, .owner = KD__OWNER_POISON, .block = KD__NO_BLOCK,
                             .grad_block = KD__NO_BLOCK };

kd_status kd_tape_create(kd_tape **out, kd_context *ctx, uint32_t mode)
{
    KD_NEED(out);
    *out = NULL;
    uint32_t kind = mode & ~KD_TAPE_CHECK_FINITE;
    if (kind != KD_TAPE_TRAIN && kind != KD_TAPE_INFER && kind != KD_TAPE_EVAL)
        return kd__fail(KD_ERR_ARG, "%s: mode %u is not KD_TAPE_TRAIN, _INFER or _EVAL", __func__, (unsigned)mode);
    kd_tape *tape = kd__alloc(ctx, sizeof *tape);
    if (!tape) return kd__fail(KD_ERR_NOMEM, "%s: out of memory", __func__);
    tape->ctx = kd__context_retain(ctx);
    tape->mode = kind;
    tape->check_finite = mode & KD_TAPE_CHECK_FINITE;
    tape->rng = kd_rng_make(0);
    tape->poison = no_tape;
    tape->poison.tape = tape;
    kd__arena_init(&tape->arena, tape->ctx);
    kd__arena_init(&tape->records, tape->ctx);
    kd_tape_reset(tape);
    *out = tape;
    return KD_OK;
}

void kd_tape_free(kd_tape *tape)
{
    if (!tape) return;
    kd_context *ctx = tape->ctx;
    kd__memory_free(tape);
    kd__free(ctx, tape);
    kd__context_release(ctx);
}

void kd_tape_reset(kd_tape *tape)
{
    if (!tape) return;
    tape->state.generation++;
    tape->state.status = KD_OK;
    tape->state.text[0] = 0;
    tape->backward_done = false;
    tape->op_count = tape->op_number = tape->multiply_adds = 0;
    tape->op_name = "kd_tape";
    tape->tags = NULL;
    tape->error_placed = false;
    kd__memory_reset(tape);
}

kd_status kd_tape_status(const kd_tape *tape)
{
    return tape ? tape->state.status : kd__fail(KD_ERR_ARG, "%s: tape is NULL", __func__);
}

uint32_t kd_tape_mode(const kd_tape *tape) { return tape ? tape->mode : 0; }

uint64_t kd_tape_multiply_adds(const kd_tape *tape) { return tape ? tape->multiply_adds : 0; }

void kd_tape_seed(kd_tape *tape, uint64_t seed) { kd_tape_set_rng(tape, kd_rng_make(seed)); }

kd_rng kd_tape_rng(const kd_tape *tape) { return tape ? tape->rng : (kd_rng){ 0, 0 }; }

void kd_tape_set_rng(kd_tape *tape, kd_rng rng)
{
    if (tape) tape->rng = rng;
}

/* ---- the sticky error -------------------------------------------------------------------------------------- */
kd_tensor *kd__poison(kd_tape *tape) { return tape ? &tape->poison : &no_tape; }

void kd__tape_fp_back(kd_tape *tape)
{
    if (tape->fp_changed) kd__fp_leave(&tape->fp_host);
    tape->fp_changed = false;
}

kd_tensor *kd__tape_fail(kd_tape *tape, kd_status status)
{
    if (!kd__tape_ok(tape)) return kd__poison(tape);
    const char *name = tape->op_name, *why = kd_last_error();
    const size_t length = strlen(name);
    const bool named = strncmp(why, name, length) == 0 && why[length] == ':';
    char text[sizeof tape->state.text];
    kd__format(text, sizeof text, "%s%s%s%s", tape->in_backward ? "kd_backward: " : "", named ? "" : name, named ? "" : ": ",
               why);
    if (tape->op_number) {   /* the number stays even where a long text is cut */
        char number[40];
        size_t n = kd__format(number, sizeof number, " (op %llu)", (unsigned long long)tape->op_number);
        size_t at = KD_MIN(strlen(text), sizeof text - 1 - n);
        memcpy(text + at, number, n + 1);
    }
    tape->state.status = status;
    memcpy(tape->state.text, text, sizeof text);
    kd__fail(status, "%s", text);
    kd__tape_fp_back(tape);
    return &tape->poison;
}

/* ---- tensors that are not results -------------------------------------------------------------------------- */
/* For the calls below, which are not ops: their name in error texts.  False: no tape, or a poisoned one. */
static bool enter(kd_tape *tape, const char *function)
{
    if (!tape) {
        kd__fail(KD_ERR_ARG, "%s: tape is NULL", function);
        return false;
    }
    tape->op_name = function;
    tape->op_number = 0;
    return kd__tape_ok(tape);
}

kd_tensor *kd_tape_tensor(kd_tape *tape, kd_dtype dtype, size_t rank, const size_t *shape)
{
    if (!enter(tape, __func__)) return kd__poison(tape);
    kd_tensor *x = kd__tape_new(tape, dtype, rank, shape);
    return x ? x : kd__poison(tape);
}

kd_tensor *kd_tape_constant(kd_tape *tape, size_t rank, const size_t *shape, const float *data)
{
    if (!enter(tape, __func__)) return kd__poison(tape);
    kd_tensor *x = kd__tape_new(tape, KD_F32, rank, shape);
    if (!x) return kd__poison(tape);
    if (x->count && !data) return kd__tape_fail(tape, kd__fail(KD_ERR_ARG, "%s: data is NULL for %S", __func__, rank, shape));
    if (x->count) memcpy(x->data, data, x->count * sizeof(float));
    return x;
}

kd_tensor *kd_requires_grad(kd_tape *tape, kd_tensor *x)
{
    if (!enter(tape, __func__)) return kd__poison(tape);
    if (kd__tensor_check(x, __func__, "x") != KD_OK) return kd__input_fail(tape, x, __func__, "x");
    if (x->dtype != KD_F32)
        return kd__tape_fail(tape, kd__fail(KD_ERR_DTYPE, "%s: x is %s, not f32", __func__, kd_dtype_name(x->dtype)));
    if (x->owner == KD__OWNER_MODEL)
        return x->requires_grad ? x : kd__tape_fail(tape, kd__fail(KD_ERR_STATE, "%s: x belongs to a model, and is a buffer or "
                                                                   "frozen", __func__));
    if (x->owner == KD__OWNER_TAPE && x->tape != tape)
        return kd__tape_fail(tape, kd__fail(KD_ERR_ARG, "%s: x was made on another tape and is a constant here", __func__));
    x->requires_grad = x->retain_grad = true;
    return x;
}

kd_tensor *kd__input_fail(kd_tape *tape, const kd_tensor *x, const char *function, const char *what)
{
    kd_status status = kd__tensor_check(x, function, what);
    if (!x || x->magic != KD__TENSOR_MAGIC || x->owner != KD__OWNER_POISON || !x->tape || kd__tape_ok(x->tape))
        return kd__tape_fail(tape, status);
    /* Another tape's poison brings its own error, text and all. */
    tape->state.status = status;
    memcpy(tape->state.text, x->tape->state.text, sizeof tape->state.text);
    kd__tape_fp_back(tape);
    return &tape->poison;
}
