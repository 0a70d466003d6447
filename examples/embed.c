/* embed.c - libkd inside a program that has its own memory, log, threads and stop button.
 * SPDX-License-Identifier: MIT
 *
 * With the library as one header, nothing else is needed:  cc -O2 -DKD_SINGLE embed.c -lm -pthread
 * It prints the same on every machine, in every build. */
#ifdef KD_SINGLE
#define KD_IMPLEMENTATION
#include "kd_single.h"
#else
#include <kd.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#define TRY(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)

typedef struct host {
    size_t bytes, blocks;   /* that libkd holds now */
    size_t lines;           /* it logged */
} host;

/* Memory: from the host's heap, counted.  free() gets the size back. */
static void *host_alloc(size_t bytes, size_t align, void *user)
{
    host *h = user;
    size_t room = bytes + align + sizeof(void *);
    unsigned char *block = malloc(room);
    if (!block) return NULL;   /* libkd returns KD_ERR_NOMEM, and goes on working */
    unsigned char *ptr = block + sizeof(void *);
    ptr += (align - (uintptr_t)ptr % align) % align;
    ((void **)(void *)ptr)[-1] = block;
    h->bytes += bytes;
    h->blocks++;
    return ptr;
}
static void host_free(void *ptr, size_t bytes, void *user)
{
    host *h = user;
    h->bytes -= bytes;
    h->blocks--;
    free(((void **)ptr)[-1]);
}

/* One line, without its newline. */
static void host_log(uint32_t level, const char *text, void *user)
{
    host *h = user;
    h->lines++;
    if (level <= KD_LOG_WARN) fprintf(stderr, "libkd: %s\n", text);
}

/* A parallel loop: any order, any threads.  A host with a pool hands the indices to it, and waits. */
static void host_parallel(size_t n, void (*task)(size_t i, void *arg), void *arg, void *user)
{
    (void)user;
    for (size_t i = n; i-- > 0;) task(i, arg);
}

static kd_status host_context(kd_context **ctx, host *h)
{
    kd_context_desc how;
    kd_context_desc_init(&how, sizeof how);
    how.allocator = (kd_allocator){ host_alloc, host_free, h };
    how.log = host_log;
    how.log_user = h;
    how.threads = 4;                 /* what the host's loop uses; no thread of libkd's own is made */
    how.parallel = host_parallel;
    return kd_context_create(ctx, &how);
}

enum { ROWS = 256, INPUTS = 32, CLASSES = 10, STEPS = 60 };

/* A student learns to say what its teacher says about random inputs. */
static kd_status distill(kd_context *ctx, const char *file)
{
    kd_model *teacher = NULL, *student = NULL;
    kd_tape *look = NULL, *learn = NULL;
    kd_tensor *x = NULL;
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_loss_distill_desc what;
    kd_optimizer_desc adam;
    kd_status st;
    kd_rng rng = kd_rng_make(1);
    kd_loss_distill_desc_init(&what, sizeof what);
    what.hard_weight = 0, what.soft_weight = 1;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAMW;
    adam.lr = 0.01f;
    TRY(kd_zoo_mlp(&teacher, ctx, (size_t[]){ INPUTS, 64, CLASSES }, 3, KD_ACT_RELU, 1));
    TRY(kd_zoo_mlp(&student, ctx, (size_t[]){ INPUTS, 16, CLASSES }, 3, KD_ACT_RELU, 2));
    TRY(kd_loss_distill_create(&loss, ctx, &what));
    TRY(kd_optimizer_create(&opt, ctx, &adam));
    TRY(kd_optimizer_add(opt, student));
    TRY(kd_tape_create(&look, ctx, KD_TAPE_INFER));
    TRY(kd_tape_create(&learn, ctx, KD_TAPE_TRAIN));
    TRY(kd_tensor_create(&x, ctx, KD_F32, 2, (size_t[]){ ROWS, INPUTS }));
    for (size_t i = 0; i < ROWS * INPUTS; i++) kd_tensor_f32(x)[i] = kd_rng_normal(&rng);
    for (int step = 0; step < STEPS; step++) {
        kd_tensor *l = kd_loss_distill_apply(loss, learn, kd_model_forward(student, learn, x), kd_model_forward(teacher, look, x), NULL);
        TRY(kd_backward(learn, l));
        TRY(kd_optimizer_step(opt));
        if (step % 20 == 19) printf("step %d  loss %.9g\n", step + 1, (double)kd_tensor_item(l));
        kd_tape_reset(learn);
        kd_tape_reset(look);
    }

    /* The stop button: from any thread or a signal handler.  What was running returns KD_ERR_CANCELLED and stays usable. */
    kd_context_cancel(ctx);
    st = kd_optimizer_step(opt);
    printf("cancelled: %s\n", kd_status_name(st));
    kd_context_resume(ctx);

    /* A build without files says so. */
    st = kd_model_save(student, file);
    if (st == KD_ERR_UNSUPPORTED) fprintf(stderr, "not saved: %s\n", kd_last_error());
    else if (st == KD_OK) st = kd_model_load(teacher, file, 0);
    printf("a file of another network: %s\n", kd_status_name(st == KD_ERR_UNSUPPORTED ? KD_ERR_SHAPE : st));
    st = KD_OK;
done:
    if (st != KD_OK) fprintf(stderr, "embed: %s\n", kd_last_error());
    kd_tensor_free(x);
    kd_tape_free(learn);
    kd_tape_free(look);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    kd_model_free(student);
    kd_model_free(teacher);
    return st;
}

int main(int argc, char **argv)
{
    host h = { 0, 0, 0 };
    kd_context *ctx = NULL;
    const char *file = argc > 1 ? argv[1] : "sch\303\274ler.safetensors";   /* paths are UTF-8, also on Windows */
    if (host_context(&ctx, &h) != KD_OK) return fprintf(stderr, "embed: %s\n", kd_last_error()), 1;
    fprintf(stderr, "%s; %s\n", kd_build_info(), kd_context_isa(ctx));
    kd_status st = distill(ctx, file);
    kd_context_free(ctx);
    printf("held at the end: %zu bytes in %zu blocks\n", h.bytes, h.blocks);
    return st != KD_OK || h.blocks != 0;
}
