/* test_resume.c - a run that is killed at any step and goes on from its last checkpoint ends in the same bits as one that
 * never stopped: weights, batch-norm statistics, average, moments, learning rate, order of items, augmentation, dropout.
 * SPDX-License-Identifier: MIT */
#include "kdtest_file.h"
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIDE = 6, ITEMS = 22, BATCH = 4, STEPS = 15 };   /* 5 full batches and a part; 2.5 epochs */

static uint8_t images[ITEMS * SIDE * SIDE];
static int32_t labels[ITEMS];

static void make_images(void)
{
    kdtest_rand r = { 11 };
    for (size_t i = 0; i < sizeof images; i++) images[i] = (uint8_t)kdtest_bits(&r);
    for (int i = 0; i < ITEMS; i++) labels[i] = i % 3;
}

typedef struct run {
    kd_context      *ctx;
    kd_model        *teacher, *student;
    kd_dataset      *data;
    kd_loader       *loader;
    kd_tape         *look, *learn;
    kd_loss_distill *loss;
    kd_optimizer    *opt;
    kd_ema          *ema;
    kd_checkpoint   *cp;
    uint64_t         step;
} run;

/* The same run each time but for what a checkpoint must bring: `seed` of the weights and of dropout. */
static int start(run *r, uint64_t seed, uint32_t threads, uint32_t ahead)
{
    memset(r, 0, sizeof *r);
    r->ctx = kdtest_context(threads, KD_ISA_AUTO);
    kd_loader_desc order;
    kd_optimizer_desc adam;
    kd_schedule_desc cosine;
    const size_t sizes[] = { SIDE * SIDE, 12, 3 }, item[] = { SIDE, SIDE, 1 };
    if (!CHECK_OK(kd_zoo_mlp(&r->teacher, r->ctx, sizes, 3, KD_ACT_TANH, 77)) ||
        !CHECK_OK(kd_model_create(&r->student, r->ctx)))
        return 0;
    kd_layer *root = kd_model_root(r->student);
    kd_layer_flatten(root, NULL);
    kd_layer_linear(root, "fc1", SIDE * SIDE, 8, 1);
    kd_layer_batch_norm(root, "bn", 8, 0.1f, 1e-5f);
    kd_layer_activation(root, NULL, KD_ACT_RELU);
    kd_layer_dropout(root, NULL, 0.3f);
    kd_layer_linear(root, "fc2", 8, 3, 1);
    if (!CHECK_OK(kd_model_finish(r->student, seed))) return 0;
    kd_loader_desc_init(&order, sizeof order);
    order.batch = BATCH;
    order.seed = 5;
    order.shift = 1;
    order.flip = 1;
    order.mixup_alpha = 0.4f;
    order.classes = 3;
    order.ahead = ahead;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAMW;
    adam.lr = 0.02f;
    adam.weight_decay = 0.01f;
    adam.max_grad_norm = 1;
    kd_schedule_desc_init(&cosine, sizeof cosine);
    cosine.kind = KD_SCHEDULE_COSINE;
    cosine.warmup_steps = 3;
    cosine.total_steps = STEPS;
    return CHECK_OK(kd_dataset_wrap(&r->data, r->ctx, KD_U8, ITEMS, 3, item, images, labels)) &&
           CHECK_OK(kd_loader_create(&r->loader, r->ctx, r->data, &order)) &&
           CHECK_OK(kd_tape_create(&r->look, r->ctx, KD_TAPE_INFER)) &&
           CHECK_OK(kd_tape_create(&r->learn, r->ctx, KD_TAPE_TRAIN)) &&
           (kd_tape_seed(r->learn, seed), CHECK_OK(kd_loss_distill_create(&r->loss, r->ctx, NULL))) &&
           CHECK_OK(kd_optimizer_create(&r->opt, r->ctx, &adam)) && CHECK_OK(kd_optimizer_add(r->opt, r->student)) &&
           CHECK_OK(kd_optimizer_set_schedule(r->opt, &cosine)) &&
           CHECK_OK(kd_ema_create(&r->ema, r->student, 0.9)) && CHECK_OK(kd_checkpoint_create(&r->cp, r->ctx)) &&
           CHECK_OK(kd_checkpoint_add_model(r->cp, "student", r->student)) &&
           CHECK_OK(kd_checkpoint_add_optimizer(r->cp, "optimizer", r->opt)) &&
           CHECK_OK(kd_checkpoint_add_ema(r->cp, "average", r->ema)) &&
           CHECK_OK(kd_checkpoint_add_loader(r->cp, "loader", r->loader)) &&
           CHECK_OK(kd_checkpoint_add_tape(r->cp, "dropout", r->learn)) &&
           CHECK_OK(kd_checkpoint_add_loss(r->cp, "loss", r->loss)) &&
           CHECK_OK(kd_checkpoint_add_bytes(r->cp, "step", &r->step, sizeof r->step));
}

static void stop(run *r)
{
    kd_checkpoint_free(r->cp);
    kd_ema_free(r->ema);
    kd_optimizer_free(r->opt);
    kd_loss_distill_free(r->loss);
    kd_tape_free(r->learn);
    kd_tape_free(r->look);
    kd_loader_free(r->loader);
    kd_dataset_free(r->data);
    kd_model_free(r->student);
    kd_model_free(r->teacher);
    kd_context_free(r->ctx);
}

static int advance(run *r)
{
    kd_tensor *x, *y;
    kd_status s = kd_loader_next(r->loader, &x, &y);
    if (s == KD_END) s = kd_loader_next(r->loader, &x, &y);
    if (!CHECK_OK(s)) return 0;
    kd_tensor *t = kd_model_forward(r->teacher, r->look, x), *out = kd_model_forward(r->student, r->learn, x);
    if (!CHECK_OK(kd_backward(r->learn, kd_loss_distill_apply(r->loss, r->learn, out, t, y))) ||
        !CHECK_OK(kd_optimizer_step(r->opt)) || !CHECK_OK(kd_ema_update(r->ema)))
        return 0;
    kd_tape_reset(r->learn);
    kd_tape_reset(r->look);
    r->step++;
    return 1;
}

static uint64_t hash(run *r)
{
    size_t n;
    uint64_t h = 0;
    for (int average = 0; average < 2; average++) {
        const float *w = kd_model_weights(r->student, &n);
        h = h * 31 + kdtest_hash(w, n * sizeof *w);
        w = kd_model_buffers(r->student, &n);
        h = h * 31 + kdtest_hash(w, n * sizeof *w);
        CHECK_OK(kd_ema_swap(r->ema));
    }
    double lr = kd_optimizer_lr(r->opt);
    return h * 31 + kdtest_hash(&lr, sizeof lr);
}

static uint64_t uninterrupted(void)
{
    static uint64_t h;
    run r;
    if (h) return h;
    make_images();
    if (start(&r, 1, 1, 0)) {
        while (r.step < STEPS && advance(&r)) {}
        h = hash(&r);
    }
    stop(&r);
    return h;
}

TEST(killed_at_every_step)
{
    uint64_t want = uninterrupted();
    for (uint64_t kill = 0; kill < STEPS; kill++) {
        const char *path = kdtest_path("run.kdcp");
        run r;
        if (start(&r, 1, 1, 2)) {
            while (r.step < kill && advance(&r)) {}
            CHECK_OK(kd_checkpoint_save(r.cp, path));
            for (int lost = 0; lost < 2; lost++) advance(&r);   /* done, but after the checkpoint */
        }
        stop(&r);
        if (start(&r, 2, kill % 2 ? 3 : 1, (uint32_t)kill % 3) && CHECK_OK(kd_checkpoint_load(r.cp, path))) {
            CHECK(r.step == kill && kd_optimizer_steps(r.opt) == kill);
            while (r.step < STEPS && advance(&r)) {}
            CHECK_MSG(hash(&r) == want, "killed at step %llu: other bits at the end", (unsigned long long)kill);
        }
        stop(&r);
    }
}

/* The process dies for good, after it has saved at every step; who comes next knows only the file. */
TEST(a_process_that_dies)
{
    uint64_t want = uninterrupted();
    char path[1024];
    snprintf(path, sizeof path, "%s", kdtest_path("died.kdcp"));
    fflush(stdout);
    for (uint64_t kill = 1; kill < STEPS; kill += kdtest_full() ? 1 : 5) {
        pid_t child = fork();
        if (!CHECK(child >= 0)) return;
        if (child == 0) {
            run r;
            if (!start(&r, 1, 2, 2)) _exit(2);
            while (advance(&r)) {
                if (kd_checkpoint_save(r.cp, path) != KD_OK) _exit(3);
                if (r.step == kill) _exit(0);
            }
            _exit(4);
        }
        int how = 0;
        CHECK(waitpid(child, &how, 0) == child && how == 0);
        run r;
        if (start(&r, 2, 1, 1) && CHECK_OK(kd_checkpoint_load(r.cp, path))) {
            CHECK(r.step == kill);
            while (r.step < STEPS && advance(&r)) {}
            CHECK_MSG(hash(&r) == want, "died at step %llu: other bits at the end", (unsigned long long)kill);
        }
        stop(&r);
    }
}

/* A checkpoint without one of its parts would not do: each of them matters to the bits. */
TEST(every_part_matters)
{
    uint64_t want = uninterrupted();
    char path[1024];
    snprintf(path, sizeof path, "%s", kdtest_path("part.kdcp"));
    for (int without = 0; without < 5; without++) {
        run a, b;
        if (start(&a, 1, 1, 0) && start(&b, 2, 1, 0)) {
            run *both[] = { &a, &b };
            for (int i = 0; i < 2; i++) {
                kd_checkpoint_free(both[i]->cp);
                CHECK_OK(kd_checkpoint_create(&both[i]->cp, both[i]->ctx));
                CHECK_OK(kd_checkpoint_add_bytes(both[i]->cp, "step", &both[i]->step, sizeof both[i]->step));
                if (without != 0) CHECK_OK(kd_checkpoint_add_model(both[i]->cp, "a", both[i]->student));
                if (without != 1) CHECK_OK(kd_checkpoint_add_optimizer(both[i]->cp, "b", both[i]->opt));
                if (without != 2) CHECK_OK(kd_checkpoint_add_ema(both[i]->cp, "c", both[i]->ema));
                if (without != 3) CHECK_OK(kd_checkpoint_add_loader(both[i]->cp, "d", both[i]->loader));
                if (without != 4) CHECK_OK(kd_checkpoint_add_tape(both[i]->cp, "e", both[i]->learn));
            }
            while (a.step < 7 && advance(&a)) {}
            CHECK_OK(kd_checkpoint_save(a.cp, path));
            CHECK_OK(kd_checkpoint_load(b.cp, path));
            while (b.step < STEPS && advance(&b)) {}
            CHECK_MSG(hash(&b) != want, "without part %d it ends in the same bits: the test proves nothing", without);
        }
        stop(&a);
        stop(&b);
    }
}
