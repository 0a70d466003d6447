/* distill_mpi.c - a teacher and its student, trained data-parallel on several processes with MPI.
 * SPDX-License-Identifier: MIT
 *     mpicc distill_mpi.c -lkd -lm -pthread -o distill_mpi && mpirun -n 4 ./distill_mpi --data DIR
 *     cc -DKD_MPI_STUB distill_mpi.c -lkd -lm -pthread      one process, no MPI: what a rank of one does, to the bit
 *
 * Every rank holds the whole model and the same data set; its loader deals it a part of each batch.  One step: forward and
 * backward over that part with the loss as a sum, one MPI_Allreduce over the model's contiguous gradient block, division by the
 * rows of all ranks, the optimizer's step.  All ranks then have made the same step from the same gradients: the same bits.
 *
 * The networks have no batch norm: its statistics would be those of a rank's part, and differ from rank to rank.
 *
 *     distill_mpi [--data DIR] [--epochs N] [--batch N] [--out DIR]
 *
 * --data has digits-images.idx and digits-labels.idx.  Into --out rank 0 writes student.safetensors, and losses.txt with a line
 * for each step. */
#ifdef KD_MPI_STUB
#include "mpi_stub.h"
#else
#include <mpi.h>
#endif
#include <kd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRY(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)

/* The count of an MPI call is an int: longer blocks go in pieces. */
enum { PIECE = 16 << 20 };

typedef struct course {
    int rank, ranks;
    kd_context *ctx;
    size_t epochs, batch;
    FILE *losses;              /* rank 0's, or NULL */
} course;

static void broadcast(float *x, size_t count)
{
    for (size_t at = 0; at < count; at += PIECE)
        MPI_Bcast(x + at, (int)(count - at < PIECE ? count - at : PIECE), MPI_FLOAT, 0, MPI_COMM_WORLD);
}

static void sum_over_ranks(float *x, size_t count)
{
    for (size_t at = 0; at < count; at += PIECE)
        MPI_Allreduce(MPI_IN_PLACE, x + at, (int)(count - at < PIECE ? count - at : PIECE), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

/* Do all ranks hold the same bits? */
static int agree(const kd_model *model)
{
    uint64_t least = kd_model_hash(model), most = least;
    MPI_Allreduce(MPI_IN_PLACE, &least, 1, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD);
    return least == most;
}

/* This rank's part of every batch. */
static kd_status open_shard(kd_loader **out, const kd_dataset *data, const course *c, size_t batch, uint32_t shuffle)
{
    kd_loader_desc order;
    kd_loader_desc_init(&order, sizeof order);
    order.batch = batch;                              /* of all ranks together */
    order.shard_index = (uint32_t)c->rank;
    order.shard_count = (uint32_t)c->ranks;
    order.shuffle = shuffle;
    order.seed = 7;                                   /* the same on every rank */
    order.scale = 1.0f / 16;
    return kd_loader_create(out, c->ctx, data, &order);
}

/* Train `model` on all ranks; with no teacher it learns from the labels alone. */
static kd_status train(kd_model *model, kd_model *teacher, const kd_dataset *data, const course *c)
{
    kd_loss_distill *loss = NULL;
    kd_optimizer *opt = NULL;
    kd_loader *batches = NULL;
    kd_tape *look = NULL, *learn = NULL;
    kd_tensor *x, *y, *t = NULL;
    size_t count;
    float *weights = kd_model_weights(model, &count), *grads = kd_model_grads(model, &count);
    kd_status st;

    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.reduction = KD_REDUCE_SUM;                    /* a mean of the ranks' means would be wrong: their parts differ in size */
    if (!teacher) how.hard_weight = 1, how.soft_weight = 0;
    TRY(kd_loss_distill_create(&loss, c->ctx, &how));
    kd_optimizer_desc sgd;
    kd_optimizer_desc_init(&sgd, sizeof sgd);
    sgd.lr = 0.02f;
    TRY(kd_optimizer_create(&opt, c->ctx, &sgd));
    TRY(kd_optimizer_add(opt, model));
    TRY(open_shard(&batches, data, c, c->batch, 1));
    TRY(kd_tape_create(&look, c->ctx, KD_TAPE_INFER));
    TRY(kd_tape_create(&learn, c->ctx, KD_TAPE_TRAIN));

    broadcast(weights, count);                        /* all begin where rank 0 begins */
    kd_model_touch(model);
    for (size_t epoch = 0; epoch < c->epochs; epoch++) {
        while ((st = kd_loader_next(batches, &x, &y)) == KD_OK) {
            if (teacher) t = kd_model_forward(teacher, look, x);
            kd_tensor *s = kd_model_forward(model, learn, x);
            kd_tensor *l = kd_loss_distill_apply(loss, learn, s, t, y);
            kd_distill_terms terms = { .struct_size = sizeof terms };
            TRY(kd_backward(learn, l));
            TRY(kd_loss_distill_terms(learn, l, &terms));

            /* Every image here has its label and its teacher, so that one count serves both terms. */
            double sums[2] = { terms.loss, (double)(teacher ? terms.soft_rows : terms.hard_rows) };
            MPI_Allreduce(MPI_IN_PLACE, sums, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
            sum_over_ranks(grads, count);
            for (size_t i = 0; i < count && sums[1] > 0; i++) grads[i] /= (float)sums[1];
            TRY(kd_optimizer_step(opt));
            if (c->losses) fprintf(c->losses, "%s %.9f\n", teacher ? "student" : "teacher", sums[0] / sums[1]);
            kd_tape_reset(learn);
            kd_tape_reset(look);
        }
        if (st != KD_END) goto done;
        if (!agree(model)) {
            fprintf(stderr, "rank %d: the models differ after epoch %zu\n", c->rank, epoch + 1);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
    }
    st = KD_OK;
done:
    kd_tape_free(learn);
    kd_tape_free(look);
    kd_loader_free(batches);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    return st;
}

/* Percent of `data` that the model gets right, each rank counting in its part. */
static kd_status accuracy(kd_model *model, const kd_dataset *data, const course *c, double *percent)
{
    kd_loader *batches = NULL;
    kd_tape *tape = NULL;
    kd_tensor *x, *y;
    double right = 0;
    kd_status st;
    TRY(open_shard(&batches, data, c, 256, 0));
    TRY(kd_tape_create(&tape, c->ctx, KD_TAPE_INFER));
    while ((st = kd_loader_next(batches, &x, &y)) == KD_OK) {
        kd_tensor *logits = kd_model_forward(model, tape, x);
        TRY(kd_tape_status(tape));
        const float *z = kd_tensor_f32(logits);
        const int32_t *label = kd_tensor_data(y);
        size_t rows = kd_tensor_size(logits, 0), classes = kd_tensor_size(logits, 1);
        for (size_t r = 0; r < rows; r++, z += classes) {
            size_t best = 0;
            for (size_t k = 1; k < classes; k++)
                if (z[k] > z[best]) best = k;
            right += (int32_t)best == label[r];
        }
        kd_tape_reset(tape);
    }
    if (st == KD_END) st = KD_OK;
    MPI_Allreduce(MPI_IN_PLACE, &right, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    *percent = 100 * right / (double)kd_dataset_count(data);
done:
    kd_tape_free(tape);
    kd_loader_free(batches);
    return st;
}

/* A context whose threads leave the other ranks of this machine theirs.  KD_NUM_THREADS says otherwise. */
static kd_status open_context(kd_context **out)
{
    kd_context_desc desc;
    int here = 1;
    MPI_Comm node;
    kd_context_desc_init(&desc, sizeof desc);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &here);
    MPI_Comm_free(&node);
    if (!getenv("KD_NUM_THREADS")) {
        long each = sysconf(_SC_NPROCESSORS_ONLN) / here, may = (long)kd_context_threads(NULL);   /* a bound rank may use fewer */
        desc.threads = (uint32_t)(each < 1 ? 1 : each < may ? each : may);
    }
    return kd_context_create(out, &desc);
}

static kd_status run(course *c, const char *dir, const char *out)
{
    kd_dataset *all = NULL, *data = NULL, *test = NULL;
    kd_model *teacher = NULL, *student = NULL;
    uint32_t *known = NULL, *held = NULL;
    size_t count, a = 0, b = 0;
    double taught = 0, teaching = 0;
    char path[1200], labels[1200];
    kd_status st;

    snprintf(path, sizeof path, "%s/digits-images.idx", dir);
    snprintf(labels, sizeof labels, "%s/digits-labels.idx", dir);
    TRY(kd_dataset_open_idx(&all, c->ctx, path, labels));
    count = kd_dataset_count(all);
    st = KD_ERR_NOMEM;
    if (!(known = malloc(count * sizeof *known)) || !(held = malloc(count * sizeof *held))) goto done;
    for (size_t i = 0; i < count; i++)
        if (i % 5) known[a++] = (uint32_t)i;
        else held[b++] = (uint32_t)i;                 /* every fifth is held out */
    TRY(kd_dataset_subset(&data, all, known, a));
    TRY(kd_dataset_subset(&test, all, held, b));

    TRY(kd_zoo_mlp(&teacher, c->ctx, (size_t[]){ 64, 256, 256, 10 }, 4, KD_ACT_RELU, 1));
    TRY(train(teacher, NULL, data, c));
    kd_model_freeze(teacher, 1);
    TRY(kd_zoo_mlp(&student, c->ctx, (size_t[]){ 64, 32, 10 }, 3, KD_ACT_RELU, 2));
    TRY(train(student, teacher, data, c));
    TRY(accuracy(teacher, test, c, &teaching));
    TRY(accuracy(student, test, c, &taught));

    if (c->rank == 0) {                               /* one writer; the others wait until the file is there */
        printf("%d ranks of %u threads: teacher %.1f %%, student %.1f %%, student's hash %016llx\n", c->ranks,
               kd_context_threads(c->ctx), teaching, taught, (unsigned long long)kd_model_hash(student));
        snprintf(path, sizeof path, "%s/student.safetensors", out);
        TRY(kd_model_save(student, path));
    }
    MPI_Barrier(MPI_COMM_WORLD);
done:
    free(held);
    free(known);
    kd_model_free(student);
    kd_model_free(teacher);
    kd_dataset_free(test);
    kd_dataset_free(data);
    kd_dataset_free(all);
    return st;
}

int main(int argc, char **argv)
{
    course c = { .epochs = 10, .batch = 64 };
    const char *dir = "examples/data", *out = ".";
    char path[1200];
    int have;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &have);   /* libkd's threads never call MPI */
    MPI_Comm_rank(MPI_COMM_WORLD, &c.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &c.ranks);
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--data") && *value) dir = value;
        else if (!strcmp(argv[i], "--epochs") && atoi(value) > 0) c.epochs = (size_t)atoi(value);
        else if (!strcmp(argv[i], "--batch") && atoi(value) > 0) c.batch = (size_t)atoi(value);
        else if (!strcmp(argv[i], "--out") && *value) out = value;
        else {
            if (c.rank == 0) fprintf(stderr, "usage: distill_mpi [--data DIR] [--epochs N] [--batch N] [--out DIR]\n");
            MPI_Finalize();
            return 2;
        }
    }
    kd_status st = open_context(&c.ctx);
    snprintf(path, sizeof path, "%s/losses.txt", out);
    if (c.rank == 0 && !(c.losses = fopen(path, "w"))) {
        perror(path);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    if (st == KD_OK) st = run(&c, dir, out);
    if (c.losses && fclose(c.losses) != 0) {
        perror(path);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    if (st != KD_OK) {                                /* the others would wait for this rank forever */
        fprintf(stderr, "rank %d: %s\n", c.rank, kd_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    kd_context_free(c.ctx);
    MPI_Finalize();
    return 0;
}
