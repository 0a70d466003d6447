/* test_distributed.c - data-parallel training: ranks that share out each batch and add up their gradients train as one does.
 * Here the ranks are objects of one process; tests/tools/check_mpi.sh has the same under MPI.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include <stdlib.h>

enum { ITEMS = 300, WIDTH = 12, CLASSES = 5, MAX_RANKS = 6, MAX_STEPS = 200 };

static float   items[ITEMS][WIDTH];
static int32_t labels[ITEMS];

static kd_dataset *make_data(void)
{
    kdtest_rand r = { 77 };
    kdtest_fill(&r, items[0], ITEMS * WIDTH, 1.0);
    for (int i = 0; i < ITEMS; i++) {
        size_t best = 0;
        for (size_t k = 1; k < CLASSES; k++)
            if (items[i][k] > items[i][best]) best = k;
        labels[i] = (int32_t)best;
    }
    kd_dataset *data = NULL;
    CHECK_OK(kd_dataset_wrap(&data, NULL, KD_F32, ITEMS, 1, (const size_t[]){ WIDTH }, items, labels));
    return data;
}

/* What one process has. */
typedef struct rank {
    kd_model     *student;
    kd_loader    *batches;
    kd_optimizer *opt;
    kd_tape      *look, *learn;
} rank;

static void open_rank(rank *r, const kd_dataset *data, const kd_loader_desc *order)
{
    kd_optimizer_desc sgd;
    kd_optimizer_desc_init(&sgd, sizeof sgd);
    sgd.lr = 0.02f;
    CHECK_OK(kd_zoo_mlp(&r->student, NULL, (size_t[]){ WIDTH, 16, CLASSES }, 3, KD_ACT_RELU, 2));
    CHECK_OK(kd_loader_create(&r->batches, NULL, data, order));
    CHECK_OK(kd_optimizer_create(&r->opt, NULL, &sgd));
    CHECK_OK(kd_optimizer_add(r->opt, r->student));
    CHECK_OK(kd_tape_create(&r->look, NULL, KD_TAPE_INFER));
    CHECK_OK(kd_tape_create(&r->learn, NULL, KD_TAPE_TRAIN));
}

static void close_rank(rank *r)
{
    kd_tape_free(r->learn);
    kd_tape_free(r->look);
    kd_optimizer_free(r->opt);
    kd_loader_free(r->batches);
    kd_model_free(r->student);
}

/* Forward and backward over this rank's rows. */
static kd_status own_part(rank *r, kd_model *teacher, const kd_loss_distill *loss, kd_distill_terms *terms)
{
    kd_tensor *x, *y;
    kd_status st = kd_loader_next(r->batches, &x, &y);
    if (st != KD_OK) return st;
    kd_tensor *t = kd_model_forward(teacher, r->look, x), *s = kd_model_forward(r->student, r->learn, x);
    kd_tensor *l = kd_loss_distill_apply(loss, r->learn, s, t, y);
    CHECK_OK(kd_backward(r->learn, l));
    CHECK_OK(kd_loss_distill_terms(r->learn, l, terms));
    kd_tape_reset(r->look);
    kd_tape_reset(r->learn);
    return KD_OK;
}

/* Some epochs on m ranks; the loss of each step, and the hash all ranks agree on in the end. */
static size_t train(const kd_dataset *data, kd_loader_desc order, uint32_t m, uint32_t reduction, int epochs, double *losses,
                    uint64_t *hash)
{
    kd_model *teacher = NULL;
    kd_loss_distill *loss = NULL;
    kd_loss_distill_desc how;
    rank ranks[MAX_RANKS] = { { 0 } };
    size_t steps = 0, count = 0;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.reduction = reduction;
    CHECK_OK(kd_zoo_mlp(&teacher, NULL, (size_t[]){ WIDTH, 32, CLASSES }, 3, KD_ACT_RELU, 1));
    kd_model_freeze(teacher, 1);
    CHECK_OK(kd_loss_distill_create(&loss, NULL, &how));
    order.shard_count = m;
    for (order.shard_index = 0; order.shard_index < m; order.shard_index++) open_rank(&ranks[order.shard_index], data, &order);
    for (int ended = 0; ended < epochs && steps < MAX_STEPS;) {
        double sum = 0, rows = 0;
        kd_status st = KD_OK;
        for (uint32_t i = 0; i < m; i++) {
            kd_distill_terms terms = { .struct_size = sizeof terms };
            kd_status mine = own_part(&ranks[i], teacher, loss, &terms);
            CHECK_MSG(i == 0 || mine == st, "rank %u has %s, rank 0 %s", i, kd_status_name(mine), kd_status_name(st));
            st = mine;
            sum += terms.loss;
            rows += (double)terms.soft_rows;
        }
        if (st == KD_END) {
            ended++;
            continue;
        }
        if (st != KD_OK) break;
        if (reduction == KD_REDUCE_SUM) {   /* the all-reduce: rank by rank, the same numbers for all */
            float *total = kd_model_grads(ranks[0].student, &count);
            for (uint32_t i = 1; i < m; i++) {
                const float *g = kd_model_grads(ranks[i].student, NULL);
                for (size_t k = 0; k < count; k++) total[k] += g[k];
            }
            for (size_t k = 0; k < count; k++) total[k] /= (float)rows;
            for (uint32_t i = 1; i < m; i++) memcpy(kd_model_grads(ranks[i].student, NULL), total, count * sizeof *total);
            sum /= rows;
        }
        for (uint32_t i = 0; i < m; i++) {
            CHECK_OK(kd_optimizer_step(ranks[i].opt));
            CHECK(kd_model_hash(ranks[i].student) == kd_model_hash(ranks[0].student));
        }
        losses[steps++] = sum;
    }
    *hash = kd_model_hash(ranks[0].student);
    for (uint32_t i = 0; i < m; i++) close_rank(&ranks[i]);
    kd_loss_distill_free(loss);
    kd_model_free(teacher);
    return steps;
}

static void check_ranks(const kd_dataset *data, const kd_loader_desc *order, int epochs)
{
    double one[MAX_STEPS], many[MAX_STEPS];
    uint64_t alone, hash, again;
    size_t steps = train(data, *order, 1, KD_REDUCE_SUM, epochs, one, &alone);
    CHECK(steps > 10 && one[steps - 1] < one[0]);
    for (uint32_t m = 2; m <= MAX_RANKS; m += m == 4 ? 2 : 1) {
        CHECK(train(data, *order, m, KD_REDUCE_SUM, epochs, many, &hash) == steps);
        for (size_t i = 0; i < steps; i++)
            if (!CHECK_NEAR(many[i], one[i], 1e-6)) break;
        train(data, *order, m, KD_REDUCE_SUM, epochs, many, &again);
        CHECK(hash == again);
    }
}

TEST(ranks_train_as_one_does)
{
    kd_dataset *data = make_data();
    kd_loader_desc order;
    kd_loader_desc_init(&order, sizeof order);
    order.batch = 32;
    order.seed = 3;
    check_ranks(data, &order, 6);
    order.mixup_alpha = 0.3f;   /* partners across ranks */
    check_ranks(data, &order, 3);
    order.mixup_alpha = 0;
    order.batch = 37;           /* uneven parts, 4 rows in the last batch: of six ranks two have none */
    check_ranks(data, &order, 3);
    kd_dataset_free(data);
}

/* The sums of a batch of 2^k rows, divided afterwards, are the means: one rank is the ordinary loop, to the bit. */
TEST(one_rank_is_the_ordinary_loop)
{
    kd_dataset *data = make_data();
    kd_loader_desc order;
    kd_loader_desc_init(&order, sizeof order);
    order.batch = 64;
    order.drop_last = 1;
    double sums[MAX_STEPS], means[MAX_STEPS];
    uint64_t by_sums, by_means;
    CHECK(train(data, order, 1, KD_REDUCE_SUM, 8, sums, &by_sums) == 32);
    CHECK(train(data, order, 1, KD_REDUCE_MEAN_ROWS, 8, means, &by_means) == 32);
    CHECK(by_sums == by_means);
    for (int i = 0; i < 32; i++) CHECK_NEAR(sums[i], means[i], 1e-12);   /* doubles, divided at another place */
    kd_dataset_free(data);
}

/* ---- the example, as a program without MPI ------------------------------------------------------------------ */

TEST(the_example_without_mpi)
{
#ifdef KDTEST_SANITIZED
    kdtest_skip("the library wants its sanitizer");
#else
    if (kdtest_emulated()) {
        kdtest_skip("a compiler's output that needs an emulator");
        return;
    }
    int status;
    char *text = kdtest_run(&status, "%s -std=c11 -O1 -Wall -Wextra -Werror -DKD_MPI_STUB -Iinclude examples/mpi/distill_mpi.c "
                            "%s/libkd.a -lm -pthread -o %s/distill_mpi", kdtest_cc(), kdtest_out(), kdtest_tmp());
    CHECK_MSG(status == 0, "%s", text);
    free(text);
    for (uint32_t i = 0; i < 2; i++) {
        text = kdtest_run(&status, "cd %s && mkdir %d && KD_NUM_THREADS=%d ./distill_mpi --data %s/examples/data --out %d",
                          kdtest_tmp(), i, i + 1, kdtest_root(), i);
        CHECK_MSG(status == 0 && strstr(text, "student 9"), "%s", text);
        free(text);
    }
    text = kdtest_run(&status, "cd %s && cmp 0/student.safetensors 1/student.safetensors && cmp 0/losses.txt 1/losses.txt && "
                      "wc -l < 0/losses.txt", kdtest_tmp());
    CHECK_MSG(status == 0 && atoi(text) == 460, "%s", text);
    free(text);
    text = kdtest_run(&status, "%s/distill_mpi --data nowhere --out %s", kdtest_tmp(), kdtest_tmp());
    CHECK_MSG(status == 1 && strstr(text, "rank 0: ") && strstr(text, "nowhere/digits-images.idx"), "%d %s", status, text);
    free(text);
#endif
}
