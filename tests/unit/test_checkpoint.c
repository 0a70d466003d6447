/* test_checkpoint.c - everything there and back; every kind of damage; another run's file.
 * SPDX-License-Identifier: MIT */
#include "io/io_internal.h"
#include "kdtest_file.h"
#include "nn/nn.h"
#include <math.h>
#include <stdlib.h>

enum { HEADER = 40, ENTRY = 16 };

/* A run of every kind of object. */
typedef struct run {
    kd_context      *ctx;
    kd_model        *student, *teacher;
    kd_optimizer    *opt;
    kd_ema          *ema;
    kd_dataset      *data;
    kd_loader       *loader;
    kd_tape         *tape;
    kd_loss_distill *loss;
    kd_checkpoint   *cp;
    uint8_t          bytes[16];
    float            items[6 * 3];
} run;

static void start(run *r, kd_context *ctx, uint64_t seed)
{
    memset(r, 0, sizeof *r);
    r->ctx = ctx;
    const size_t sizes[] = { 3, 4, 2 }, item[] = { 3 };
    kd_optimizer_desc opt;
    kd_loader_desc loader;
    kdtest_rand rand = { 3 };
    static const int32_t labels[6] = { 0, 1, 0, 1, 1, 0 };
    kdtest_fill(&rand, r->items, 18, 1);
    CHECK_OK(kd_zoo_mlp(&r->student, ctx, sizes, 3, KD_ACT_RELU, seed));
    CHECK_OK(kd_zoo_mlp(&r->teacher, ctx, sizes, 3, KD_ACT_RELU, seed + 1));
    kd_optimizer_desc_init(&opt, sizeof opt);
    opt.method = KD_OPT_ADAM;
    opt.lr = 0.01f;
    CHECK_OK(kd_optimizer_create(&r->opt, ctx, &opt));
    CHECK_OK(kd_optimizer_add(r->opt, r->student));
    CHECK_OK(kd_ema_create(&r->ema, r->student, 0.9));
    CHECK_OK(kd_dataset_wrap(&r->data, ctx, KD_F32, 6, 1, item, r->items, labels));
    kd_loader_desc_init(&loader, sizeof loader);
    loader.batch = 2;
    loader.ahead = 0;
    loader.seed = 5;
    CHECK_OK(kd_loader_create(&r->loader, ctx, r->data, &loader));
    CHECK_OK(kd_tape_create(&r->tape, ctx, KD_TAPE_TRAIN));
    kd_tape_seed(r->tape, seed);
    CHECK_OK(kd_loss_distill_create(&r->loss, ctx, NULL));
    memset(r->bytes, (int)seed, sizeof r->bytes);
}

static void add_all(run *r)
{
    CHECK_OK(kd_checkpoint_create(&r->cp, r->ctx));
    CHECK_OK(kd_checkpoint_add_model(r->cp, "student", r->student));
    CHECK_OK(kd_checkpoint_add_model(r->cp, "teacher", r->teacher));
    CHECK_OK(kd_checkpoint_add_optimizer(r->cp, "opt", r->opt));
    CHECK_OK(kd_checkpoint_add_ema(r->cp, "ema", r->ema));
    CHECK_OK(kd_checkpoint_add_loader(r->cp, "loader", r->loader));
    CHECK_OK(kd_checkpoint_add_tape(r->cp, "tape", r->tape));
    CHECK_OK(kd_checkpoint_add_loss(r->cp, "loss", r->loss));
    CHECK_OK(kd_checkpoint_add_bytes(r->cp, "bytes", r->bytes, sizeof r->bytes));
    CHECK_OK(kd_checkpoint_add_bytes(r->cp, "no bytes", NULL, 0));
}

static void stop(run *r)
{
    kd_checkpoint_free(r->cp);
    kd_loss_distill_free(r->loss);
    kd_tape_free(r->tape);
    kd_loader_free(r->loader);
    kd_dataset_free(r->data);
    kd_ema_free(r->ema);
    kd_optimizer_free(r->opt);
    kd_model_free(r->student);
    kd_model_free(r->teacher);
}

static void step(run *r)
{
    kd_tensor *x, *y;
    kd_status s = kd_loader_next(r->loader, &x, &y);
    if (s == KD_END) s = kd_loader_next(r->loader, &x, &y);
    if (!CHECK_OK(s)) return;
    kd_tensor *out = kd_dropout(r->tape, kd_model_forward(r->student, r->tape, x), 0.25f);
    kd_tensor *teacher = kd_detach(r->tape, kd_model_forward(r->teacher, r->tape, x));
    CHECK_OK(kd_backward(r->tape, kd_loss_distill_apply(r->loss, r->tape, out, teacher, y)));
    CHECK_OK(kd_optimizer_step(r->opt));
    CHECK_OK(kd_ema_update(r->ema));
    kd_tape_reset(r->tape);
    r->bytes[0]++;
}

/* What can be seen of a run without a checkpoint. */
static uint64_t hash(run *r)
{
    size_t n;
    uint64_t h = 0;
    float *w = kd_model_weights(r->student, &n);
    h = h * 31 + kdtest_hash(w, n * sizeof *w);
    w = kd_model_weights(r->teacher, &n);
    h = h * 31 + kdtest_hash(w, n * sizeof *w);
    CHECK_OK(kd_ema_swap(r->ema));
    w = kd_model_weights(r->student, &n);
    h = h * 31 + kdtest_hash(w, n * sizeof *w);
    CHECK_OK(kd_ema_swap(r->ema));
    kd_rng rng = kd_tape_rng(r->tape);
    uint64_t numbers[] = { rng.key, rng.index, kd_optimizer_steps(r->opt), kd_loader_epoch(r->loader) };
    return (h * 31 + kdtest_hash(numbers, sizeof numbers)) * 31 + kdtest_hash(r->bytes, sizeof r->bytes);
}

TEST(everything_there_and_back)
{
    run a, b;
    start(&a, NULL, 1);
    start(&b, NULL, 2);
    add_all(&a);
    add_all(&b);
    const char *path = kdtest_path("run.kdcp");
    for (int i = 0; i < 4; i++) step(&a);
    CHECK(hash(&a) != hash(&b));
    CHECK_OK(kd_checkpoint_save(a.cp, path));
    uint64_t version = b.student->version;
    CHECK_OK(kd_checkpoint_load(b.cp, path));
    CHECK(b.student->version != version);   /* what was derived from the weights is stale */
    CHECK(hash(&a) == hash(&b));
    for (int i = 0; i < 5; i++) {
        step(&a);
        step(&b);
        CHECK_MSG(hash(&a) == hash(&b), "differs %d steps after loading", i + 1);
    }
    /* and back over the run that went on */
    CHECK_OK(kd_checkpoint_load(a.cp, path));
    CHECK(hash(&a) != hash(&b) && kd_optimizer_steps(a.opt) == 4);
    CHECK(kdtest_count_files("kdtmp") == 0);
    stop(&a);
    stop(&b);
}

TEST(order_of_sections_does_not_matter)
{
    run a, b;
    start(&a, NULL, 1);
    start(&b, NULL, 2);
    CHECK_OK(kd_checkpoint_create(&a.cp, NULL));
    CHECK_OK(kd_checkpoint_add_model(a.cp, "student", a.student));
    CHECK_OK(kd_checkpoint_add_bytes(a.cp, "bytes", a.bytes, sizeof a.bytes));
    CHECK_OK(kd_checkpoint_create(&b.cp, NULL));
    CHECK_OK(kd_checkpoint_add_bytes(b.cp, "bytes", b.bytes, sizeof b.bytes));
    CHECK_OK(kd_checkpoint_add_model(b.cp, "student", b.student));
    const char *path = kdtest_path("run.kdcp");
    CHECK_OK(kd_checkpoint_save(a.cp, path));
    CHECK_OK(kd_checkpoint_load(b.cp, path));
    CHECK(memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0);
    stop(&a);
    stop(&b);
}

/* ---- damage ----------------------------------------------------------------------------------------- */

typedef struct damaged { run *r; uint64_t before; size_t bad; } damaged;

static void none_loads(const char *path, char what, size_t at, void *arg)
{
    damaged *d = arg;
    kd_status s = kd_checkpoint_load(d->r->cp, path);
    int fits = what == 'p' ? s == KD_ERR_TRUNCATED
             : what == 'z' ? s == KD_ERR_CHECKSUM || s == KD_ERR_FORMAT
                           : s == (at < 64 ? KD_ERR_FORMAT : KD_ERR_CHECKSUM);   /* the magic is 64 bits */
    CHECK_MSG(fits, "%c %zu: %s (%s)", what, at, kd_status_name(s), kd_last_error());
    CHECK_MSG(hash(d->r) == d->before, "%c %zu: %s, and the run has changed", what, at, kd_status_name(s));
}

TEST(every_prefix_flip_and_zeroed_tail)
{
    kdtest_alloc a;
    run r;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    start(&r, a.ctx, 1);
    add_all(&r);
    step(&r);
    const char *path = kdtest_path("run.kdcp");
    CHECK_OK(kd_checkpoint_save(r.cp, path));
    size_t n, fds = kdtest_fds();
    unsigned char *data = kdtest_slurp(path, &n);
    step(&r);   /* so that loading the file would show */
    damaged d = { &r, hash(&r), 0 };
    kdtest_damage(data, n, 5, none_loads, &d);
    for (size_t k = 0; k < n; k++) {   /* a file system that lost the end */
        unsigned char *copy = malloc(n);
        if (!CHECK(copy != NULL)) break;
        memcpy(copy, data, k);
        memset(copy + k, 0, n - k);
        if (memcmp(copy, data, n) != 0) none_loads(kdtest_write("damaged", copy, n), 'z', k, &d);
        free(copy);
    }
    for (size_t k = 0; k < n; k += 64) {   /* or a piece in the middle */
        unsigned char *copy = malloc(n);
        if (!CHECK(copy != NULL)) break;
        memcpy(copy, data, n);
        memset(copy + k, 0, KD_MIN(n - k, (size_t)64));
        none_loads(kdtest_write("damaged", copy, n), 'z', k, &d);
        free(copy);
    }
    CHECK(kdtest_fds() == fds);
    CHECK_OK(kd_checkpoint_load(r.cp, kdtest_path("run.kdcp")));
    CHECK(hash(&r) != d.before);
    free(data);
    stop(&r);
    kdtest_alloc_end(&a);
}

static void mend(unsigned char *p, size_t table)
{
    kd__put_le32(p + 32, kd__crc32c(0, p + HEADER, table));
    kd__put_le32(p + 36, kd__crc32c(0, p, 36));
}

static void refused(run *r, const void *data, size_t n, kd_status want, const char *text)
{
    uint64_t before = hash(r);
    CHECK_STATUS(kd_checkpoint_load(r->cp, kdtest_write("refused.kdcp", data, n)), want);
    CHECK_ERROR_HAS(text);
    CHECK_ERROR_HAS("kd_checkpoint_load: ");
    CHECK_ERROR_HAS("refused.kdcp");
    CHECK(hash(r) == before);
}

TEST(headers_that_lie)
{
    kdtest_alloc a;
    run r;
    kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
    start(&r, a.ctx, 1);
    add_all(&r);
    const char *path = kdtest_path("run.kdcp");
    CHECK_OK(kd_checkpoint_save(r.cp, path));
    size_t n;
    unsigned char *data = kdtest_slurp(path, &n), *p = malloc(n + 1);
    size_t table = (size_t)kd__le64(data + 24);
    static const struct { size_t at, width; uint64_t value; kd_status want; const char *text; } cases[] = {
        { 8, 4, 2, KD_ERR_VERSION, "version 2, this libkd reads up to 1" },
        { 8, 4, 0xffffffff, KD_ERR_VERSION, "version 4294967295" },
        { 8, 4, 0, KD_ERR_FORMAT, "version 0" },
        { 12, 4, 8, KD_ERR_SHAPE, "section \"no bytes\" (bytes) is not in the file" },
        { 12, 4, 10, KD_ERR_FORMAT, "the table of sections is broken" },
        { 12, 4, 0xffffffff, KD_ERR_FORMAT, "the table of sections is broken" },
        { 16, 8, 0, KD_ERR_FORMAT, "0 bytes" },
        { 16, 8, UINT64_MAX, KD_ERR_TRUNCATED, "it was cut short" },
        { 24, 8, UINT64_MAX, KD_ERR_FORMAT, "a table of 18446744073709551615" },
        { HEADER, 4, 2, KD_ERR_SHAPE, "section \"student\" is of kind optimizer in the file, model was added" },
        { HEADER, 4, 99, KD_ERR_SHAPE, "of kind ? in the file" },
        { HEADER + 4, 4, 0, KD_ERR_FORMAT, "the table of sections is broken" },
        { HEADER + 4, 4, 201, KD_ERR_FORMAT, "the table of sections is broken" },
        { HEADER + 4, 4, 0xffffffff, KD_ERR_FORMAT, "the table of sections is broken" },
        { HEADER + 8, 8, UINT64_MAX, KD_ERR_FORMAT, "reach past the end" },
        { HEADER + 8, 8, UINT64_MAX - 3, KD_ERR_FORMAT, "reach past the end" },
        { HEADER + 8, 8, 0, KD_ERR_FORMAT, "belong to no section" },
        { HEADER + ENTRY, 1, 'S', KD_ERR_SHAPE, "a section \"Student\" (model) that was not added" },
    };
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        memcpy(p, data, n);
        for (size_t b = 0; b < cases[i].width; b++) p[cases[i].at + b] = (unsigned char)(cases[i].value >> 8 * b);
        mend(p, table);
        refused(&r, p, n, cases[i].want, cases[i].text);
    }
    memcpy(p, data, n);   /* one section twice */
    memcpy(p + HEADER + ENTRY + 7 + ENTRY, "student", 7);
    mend(p, table);
    refused(&r, p, n, KD_ERR_FORMAT, "section \"student\" is there twice");
    memcpy(p, data, n);   /* a byte too many */
    p[n] = 0;
    refused(&r, p, n + 1, KD_ERR_FORMAT, "the file has");
    memset(p, 0, n);
    refused(&r, p, n, KD_ERR_FORMAT, "not a checkpoint");
    refused(&r, "", 0, KD_ERR_TRUNCATED, "begins with 40");
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    refused(&r, lfs, sizeof lfs - 1, KD_ERR_FORMAT, "git lfs pull");
    free(p);
    free(data);
    stop(&r);
    kdtest_alloc_end(&a);
}

/* Checksums that are right over a directory of parameters that is not. */
TEST(model_states_that_lie)
{
    kd_model *m;
    run r = { 0 };
    CHECK_OK(kd_model_create(&m, NULL));
    kd_layer_linear(kd_model_root(m), "fc", 3, 2, 1);
    CHECK_OK(kd_model_finish(m, 1));
    CHECK_OK(kd_checkpoint_create(&r.cp, NULL));
    CHECK_OK(kd_checkpoint_add_model(r.cp, "m", m));
    const char *path = kdtest_path("m.kdcp");
    CHECK_OK(kd_checkpoint_save(r.cp, path));
    size_t n;
    unsigned char *data = kdtest_slurp(path, &n), *p = malloc(n);
    size_t table = ENTRY + 1, state = HEADER + table, entry = state + 8;
    static const struct { int at; size_t width; uint64_t value; kd_status want; const char *text; } cases[] = {
        { -8, 8, 1, KD_ERR_SHAPE, "the file has 1 parameters, the model 2: \"fc.bias\" is not in the file" },
        { -8, 8, 0, KD_ERR_SHAPE, "\"fc.weight\" is not in the file" },
        { -8, 8, UINT64_MAX, KD_ERR_SHAPE, "the file has 18446744073709551615 parameters" },
        { 0, 8, 0, KD_ERR_SHAPE, "parameter \"fc.weight\" is of kind 0 in the file, 1 in the model" },
        { 8, 8, UINT64_MAX, KD_ERR_FORMAT, "the directory of parameters is broken" },
        { 8, 8, 5, KD_ERR_SHAPE, "a parameter \"fc.we\" where the model has \"fc.weight\"" },
        { 16, 8, 9, KD_ERR_FORMAT, "the directory of parameters is broken" },
        { 16, 8, UINT64_MAX, KD_ERR_FORMAT, "the directory of parameters is broken" },
        { 24, 8, 4, KD_ERR_SHAPE, "parameter \"fc.weight\" is [4, 2] in the file, [3, 2] in the model" },
        { 40, 1, 'F', KD_ERR_SHAPE, "a parameter \"Fc.weight\" where the model has \"fc.weight\"" },
    };
    for (size_t i = 0; i <= KD_COUNT(cases) + 3; i++) {
        memcpy(p, data, n);
        size_t size = n, bytes = n - state - 4;
        kd_status want = KD_ERR_FORMAT;
        const char *text = "bytes where";
        if (i < KD_COUNT(cases)) {
            unsigned char *q = p + entry + cases[i].at;
            for (size_t b = 0; b < cases[i].width; b++) q[b] = (unsigned char)(cases[i].value >> 8 * b);
            want = cases[i].want;
            text = cases[i].text;
        } else {   /* a state cut short: in the numbers, in the directory, in its count, nothing */
            static const size_t kept[] = { 8 + 24 + 16 + 9 + 24 + 8 + 7 + 4, 8 + 20, 7, 0 };
            bytes = kept[i - KD_COUNT(cases)];
            size = state + bytes + 4;
            if (bytes < 50) text = "cut short";
        }
        kd__put_le64(p + HEADER + 8, bytes);
        kd__put_le64(p + 16, size);
        kd__put_le32(p + state + bytes, kd__crc32c(kd__crc32c(0, p + HEADER, table), p + state, bytes));
        mend(p, table);
        float before = kd_model_weights(m, NULL)[0];
        kd_model_weights(m, NULL)[0] = 5;
        CHECK_STATUS(kd_checkpoint_load(r.cp, kdtest_write("lies.kdcp", p, size)), want);
        CHECK_ERROR_HAS(text);
        CHECK_ERROR_HAS("lies.kdcp: section \"m\": ");
        CHECK(kd_model_weights(m, NULL)[0] == 5);
        kd_model_weights(m, NULL)[0] = before;
    }
    free(p);
    free(data);
    kd_checkpoint_free(r.cp);
    kd_model_free(m);
}

/* Two models of one architecture: their states are of one size, each with a checksum of its own. */
TEST(swapped_sections)
{
    run r;
    start(&r, NULL, 1);
    add_all(&r);
    const char *path = kdtest_path("run.kdcp");
    CHECK_OK(kd_checkpoint_save(r.cp, path));
    size_t n;
    unsigned char *data = kdtest_slurp(path, &n);
    size_t one = HEADER + (size_t)kd__le64(data + 24), bytes = (size_t)kd__le64(data + HEADER + 8) + 4;
    unsigned char *copy = malloc(n);
    memcpy(copy, data, n);
    memcpy(copy + one, data + one + bytes, bytes);
    memcpy(copy + one + bytes, data + one, bytes);
    CHECK(memcmp(copy, data, n) != 0);
    refused(&r, copy, n, KD_ERR_CHECKSUM, "section \"student\"");
    free(copy);
    free(data);
    stop(&r);
}

/* ---- another run ------------------------------------------------------------------------------------ */

static void of_model(kd_model **m, size_t in, size_t out, int32_t bias, const char *name)
{
    CHECK_OK(kd_model_create(m, NULL));
    kd_layer_linear(kd_model_root(*m), name, in, out, bias);
    kd_layer_batch_norm(kd_model_root(*m), "bn", out, 0.1f, 1e-5f);
    CHECK_OK(kd_model_finish(*m, 1));
}

TEST(another_architecture)
{
    static const struct { size_t in, out; int32_t bias; const char *name, *text; } cases[] = {
        { 3, 4, 1, "fc", NULL },
        { 5, 4, 1, "fc", "section \"m\": parameter \"fc.weight\" is [3, 4] in the file, [5, 4] in the model" },
        { 3, 4, 1, "head", "a parameter \"fc.weight\" where the model has \"head.weight\"" },
        { 3, 4, 0, "fc", "a parameter \"fc.bias\" where the model has \"bn.weight\"" },
        { 3, 2, 1, "fc", "parameter \"fc.weight\" is [3, 4] in the file, [3, 2] in the model" },
    };
    kd_model *m, *other;
    kd_checkpoint *cp;
    const char *path = kdtest_path("m.kdcp");
    of_model(&m, 3, 4, 1, "fc");
    CHECK_OK(kd_checkpoint_create(&cp, NULL));
    CHECK_OK(kd_checkpoint_add_model(cp, "m", m));
    CHECK_OK(kd_checkpoint_save(cp, path));
    kd_checkpoint_free(cp);
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        of_model(&other, cases[i].in, cases[i].out, cases[i].bias, cases[i].name);
        size_t n;
        float *w = kd_model_weights(other, &n);
        w[0] = 77;
        CHECK_OK(kd_checkpoint_create(&cp, NULL));
        CHECK_OK(kd_checkpoint_add_model(cp, "m", other));
        CHECK_STATUS(kd_checkpoint_load(cp, path), cases[i].text ? KD_ERR_SHAPE : KD_OK);
        if (cases[i].text) CHECK_ERROR_HAS(cases[i].text);
        CHECK((w[0] == 77) == (cases[i].text != NULL));
        kd_checkpoint_free(cp);
        kd_model_free(other);
    }
    kd_model_free(m);
}

/* An optimizer or loader that is not the file's: nothing else is read either. */
TEST(other_objects)
{
    run a, b;
    start(&a, NULL, 1);
    add_all(&a);
    step(&a);
    const char *path = kdtest_path("run.kdcp");
    CHECK_OK(kd_checkpoint_save(a.cp, path));
    for (int what = 0; what < 4; what++) {
        start(&b, NULL, 2);
        size_t sizes[] = { 3, 5, 2 };
        kd_optimizer_desc opt;
        kd_optimizer_desc_init(&opt, sizeof opt);
        const char *text = "section \"opt\": ";
        if (what == 0) {   /* SGD */
            kd_optimizer_free(b.opt);
            CHECK_OK(kd_optimizer_create(&b.opt, NULL, &opt));
            CHECK_OK(kd_optimizer_add(b.opt, b.student));
        } else if (what == 1) {   /* two models */
            CHECK_OK(kd_optimizer_add(b.opt, b.teacher));
        } else if (what == 2) {   /* another batch size */
            kd_loader_desc loader;
            kd_loader_desc_init(&loader, sizeof loader);
            loader.batch = 3;
            kd_loader_free(b.loader);
            CHECK_OK(kd_loader_create(&b.loader, NULL, b.data, &loader));
            text = "section \"loader\": ";
        } else {   /* the average of another model */
            kd_ema_free(b.ema);
            kd_model_free(b.teacher);
            CHECK_OK(kd_zoo_mlp(&b.teacher, NULL, sizes, 3, KD_ACT_RELU, 9));
            CHECK_OK(kd_ema_create(&b.ema, b.teacher, 0.5));
            text = "section \"teacher\": ";
        }
        add_all(&b);
        uint64_t before = hash(&b);
        CHECK_STATUS(kd_checkpoint_load(b.cp, path), KD_ERR_SHAPE);
        CHECK_ERROR_HAS(text);
        CHECK(hash(&b) == before);
        stop(&b);
    }
    start(&b, NULL, 2);   /* a section missing, one too many, other bytes */
    add_all(&b);
    CHECK_OK(kd_checkpoint_add_bytes(b.cp, "more", b.bytes, 1));
    CHECK_STATUS(kd_checkpoint_load(b.cp, path), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("section \"more\" (bytes) is not in the file");
    kd_checkpoint_free(b.cp);
    CHECK_OK(kd_checkpoint_create(&b.cp, NULL));
    CHECK_OK(kd_checkpoint_add_model(b.cp, "student", b.student));
    CHECK_STATUS(kd_checkpoint_load(b.cp, path), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("a section \"teacher\" (model) that was not added");
    kd_checkpoint_free(b.cp);
    CHECK_OK(kd_checkpoint_create(&b.cp, NULL));
    CHECK_OK(kd_checkpoint_add_bytes(b.cp, "student", b.bytes, 8));
    CHECK_STATUS(kd_checkpoint_load(b.cp, path), KD_ERR_SHAPE);
    CHECK_OK(kd_checkpoint_save(b.cp, path));
    kd_checkpoint_free(b.cp);
    CHECK_OK(kd_checkpoint_create(&b.cp, NULL));
    CHECK_OK(kd_checkpoint_add_bytes(b.cp, "student", b.bytes, 9));
    CHECK_STATUS(kd_checkpoint_load(b.cp, path), KD_ERR_SHAPE);
    CHECK_ERROR_HAS("8 bytes in the file, 9 were added");
    stop(&a);
    stop(&b);
}

TEST(arguments)
{
    run r;
    kd_checkpoint *cp;
    kd_model *unfinished;
    char name[202];
    memset(name, 'n', 201);
    name[201] = 0;
    start(&r, NULL, 1);
    CHECK_STATUS(kd_checkpoint_create(NULL, NULL), KD_ERR_ARG);
    if (!CHECK_OK(kd_checkpoint_create(&cp, NULL))) return;
    CHECK_STATUS(kd_checkpoint_add_model(NULL, "a", r.student), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_add_model(cp, NULL, r.student), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_add_model(cp, "", r.student), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_add_model(cp, name, r.student), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_checkpoint_add_model: name is 201 bytes");
    CHECK_STATUS(kd_checkpoint_add_model(cp, "a", NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_add_optimizer(cp, "a", NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_add_ema(cp, "a", NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_add_loader(cp, "a", NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_add_tape(cp, "a", NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_add_loss(cp, "a", NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_add_bytes(cp, "a", NULL, 1), KD_ERR_ARG);
    if (CHECK_OK(kd_model_create(&unfinished, NULL)))
        CHECK_STATUS(kd_checkpoint_add_model(cp, "a", unfinished), KD_ERR_STATE);
    kd_model_free(unfinished);
    name[200] = 0;
    CHECK_OK(kd_checkpoint_add_model(cp, name, r.student));
    CHECK_STATUS(kd_checkpoint_add_bytes(cp, name, r.bytes, 1), KD_ERR_ARG);
    CHECK_ERROR_HAS("is taken already");
    CHECK_STATUS(kd_checkpoint_save(NULL, "x"), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_save(cp, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_load(NULL, "x"), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_load(cp, NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_checkpoint_load(cp, kdtest_path("nothing")), KD_ERR_IO);
    CHECK_ERROR_HAS("no such file");
    CHECK_STATUS(kd_checkpoint_save(cp, kdtest_path("no/such/dir")), KD_ERR_IO);
    const char *path = kdtest_path("long name.kdcp");
    CHECK_OK(kd_checkpoint_save(cp, path));
    CHECK_OK(kd_checkpoint_load(cp, path));
    kd_checkpoint_free(cp);
    kd_checkpoint_free(NULL);
    CHECK_OK(kd_checkpoint_create(&cp, NULL));   /* of nothing */
    CHECK_OK(kd_checkpoint_save(cp, path));
    CHECK_OK(kd_checkpoint_load(cp, path));
    kd_checkpoint_free(cp);
    stop(&r);
}

/* Warm-up is part of a checkpoint; a loss without state takes no byte of it. */
TEST(a_loss_and_its_advances)
{
    float s[2] = { 0, 1 }, t[2] = { 2, 0 };
    kd_distill_batch b = { .struct_size = sizeof b, .rows = 1, .classes = 2, .student = s, .teacher = t };
    kd_loss_distill *loss[3];
    kd_loss_distill_desc d;
    CHECK_OK(kd_loss_distill_desc_for(&d, sizeof d, KD_DISTILL_KD));
    kd_distill_terms terms[2] = { { .struct_size = sizeof *terms }, { .struct_size = sizeof *terms } };
    d.hard_weight = 0, d.warmup = 8;
    for (int i = 0; i < 3; i++) {
        kd_checkpoint *cp;
        if (i == 2) d.warmup = 0;
        if (!CHECK_OK(kd_loss_distill_create(&loss[i], NULL, &d)) || !CHECK_OK(kd_checkpoint_create(&cp, NULL))) return;
        CHECK_OK(kd_checkpoint_add_loss(cp, "loss", loss[i]));
        for (int k = 0; k < 3 && i == 0; k++) CHECK_OK(kd_loss_distill_advance(loss[0]));
        if (i == 0) CHECK_OK(kd_checkpoint_save(cp, kdtest_path("loss.kdcp")));
        if (i == 1) CHECK_OK(kd_checkpoint_load(cp, kdtest_path("loss.kdcp")));
        if (i == 2) CHECK_STATUS(kd_checkpoint_load(cp, kdtest_path("loss.kdcp")), KD_ERR_SHAPE);
        if (i < 2) CHECK_OK(kd_loss_distill_eval(loss[i], &b, &terms[i]));
        kd_checkpoint_free(cp);
    }
    CHECK(terms[0].loss == terms[1].loss && fabs(terms[0].loss / terms[0].soft - 0.9 * 4 / 8) < 1e-6);
    for (int i = 0; i < 3; i++) kd_loss_distill_free(loss[i]);
}
