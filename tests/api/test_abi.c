/* test_abi.c - what programs already built rely on is what docs/abi/ records, and such programs run: older ones with shorter structs,
 * newer ones with longer ones.  docs/reference/abi.md has the rules.
 * SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <sys/stat.h>
#include "kdtest_tools.h"

/* ---- the record ---------------------------------------------------------------------------------------------- */

enum { MAX_LINES = 4000 };
typedef struct record { char *text, *line[MAX_LINES]; size_t n; } record;

static void read_record(record *r, char *text)
{
    r->text = text;
    r->n = 0;
    for (char *rest = text, *line; (line = kdtest_line(&rest)) && r->n < MAX_LINES;) r->line[r->n++] = line;
}

static int has(const record *r, const char *line)
{
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->line[i], line) == 0) return 1;
    return 0;
}

/* The size that the record gives a struct; 0 if it knows none of this name. */
static size_t size_in(const record *r, const char *name, size_t length)
{
    char start[200];
    size_t bytes;
    snprintf(start, sizeof start, "%.*s size ", (int)length, name);
    for (size_t i = 0; i < r->n; i++)
        if (strncmp(r->line[i], start, strlen(start)) == 0 && sscanf(r->line[i] + strlen(start), "%zu", &bytes) == 1) return bytes;
    return 0;
}

static int is_sized(const record *r, const char *name, size_t length)
{
    char line[300];
    snprintf(line, sizeof line, "%.*s.struct_size offset 0 size %zu: size_t struct_size", (int)length, name, sizeof(size_t));
    return has(r, line);
}

/* What became of a recorded line that is gone; NULL: nothing that a program notices. */
static const char *loss_of(const record *kept, const record *made, const char *line)
{
    size_t length = strcspn(line, ". "), now = size_in(made, line, length), then = size_in(kept, line, length);
    if (strncmp(line + length, " size ", 6) == 0 && now > then && is_sized(made, line, length)) return NULL;
    return "changed or gone";
}

/* What is wrong with a line that is new; NULL: an addition. */
static const char *fault_of(const record *kept, const record *made, const char *line)
{
    size_t length = strcspn(line, ". "), then = size_in(kept, line, length), offset;
    const char *at = strstr(line, " offset ");
    if (!then || line[length] != '.' || !at) return NULL;
    if (!is_sized(made, line, length)) return "a new field in a struct without struct_size";
    if (sscanf(at, " offset %zu", &offset) == 1 && offset < then) return "a new field between the others, or in what was padding";
    return NULL;
}

/* Adds a line for each difference to `report`; returns the differences that break programs, *additions the others. */
static int compare(const char *name, const record *kept, const record *made, int *additions, char *report, size_t cap)
{
    int broken = 0;
    *additions = 0;
    *report = 0;
    for (int new = 0; new < 2; new++) {
        const record *of = new ? made : kept;
        for (size_t i = 0; i < of->n; i++) {
            const char *line = of->line[i];
            size_t length = strcspn(line, ". ");
            if (has(new ? kept : made, line) || (new && strncmp(line + length, " size ", 6) == 0 && size_in(kept, line, length))) continue;
            const char *fault = new ? fault_of(kept, made, line) : loss_of(kept, made, line);
            if (fault) broken++;
            else (*additions)++;
            size_t n = strlen(report);
            snprintf(report + n, cap - n, "docs/abi/%s: %s: %s\n", name, fault ? fault : new ? "new" : "grew", line);
        }
    }
    return broken;
}

static const char *made_in(void)
{
    static char dir[600];
    if (*dir) return dir;
    int status;
    char *text = kdtest_run(&status, "KD_CC='%s' sh tests/tools/gen_abi.sh '%s/abi'", kdtest_cc(), kdtest_tmp());
    if (CHECK_MSG(status == 0 && !*text, "gen_abi.sh: %s", text)) snprintf(dir, sizeof dir, "%s/abi", kdtest_tmp());
    free(text);
    return dir;
}

static void check_record(const char *name)
{
    static char report[20000];
    char path[100];
    int status, additions;
    snprintf(path, sizeof path, "docs/abi/%s", name);
    char *text = kdtest_read(path, NULL);
    if (!text || !*made_in()) return;
    static record kept, made;
    read_record(&kept, text);
    read_record(&made, kdtest_run(&status, "cat '%s/%s'", made_in(), name));
    CHECK(kept.n > 10 && made.n > 10);
    int broken = compare(name, &kept, &made, &additions, report, sizeof report);
    CHECK_MSG(!broken, "programs built against the recorded headers break:\n%sPut it back, or add beside it (docs/reference/abi.md).  "
              "Where a break is meant, raise the ABI number and run make abi.", report);
    CHECK_MSG(broken || !additions, "not in the record yet:\n%sNo program breaks: run make abi and commit docs/abi/.", report);
    free(kept.text);
    free(made.text);
}

TEST(functions) { check_record("functions.txt"); }
TEST(types) { check_record("types.txt"); }
TEST(constants) { check_record("constants.txt"); }
TEST(structs)
{
    if (sizeof(void *) == 8) check_record("structs.txt");
    else kdtest_skip("recorded for pointers of 8 bytes");
}

static int verdict(const char *before, const char *after, int *additions)
{
    static char report[4000], text[2][2000];
    static record r[2];
    snprintf(text[0], sizeof text[0], "%s", before);
    snprintf(text[1], sizeof text[1], "%s", after);
    for (int i = 0; i < 2; i++) read_record(&r[i], text[i]);
    return compare("x", &r[0], &r[1], additions, report, sizeof report);
}

#define SIZED "d size 16\nd.struct_size offset 0 size 8: size_t struct_size\nd.a offset 8 size 4: float a\n"
#define GROWN "d size 24\nd.struct_size offset 0 size 8: size_t struct_size\nd.a offset 8 size 4: float a\n"
TEST(what_breaks_and_what_does_not)
{
    int additions;
    CHECK(verdict(SIZED, SIZED, &additions) == 0 && additions == 0);
    CHECK(verdict(SIZED, SIZED "e size 4\ne.a offset 0 size 4: float a\n", &additions) == 0 && additions == 2);   /* a new struct */
    CHECK(verdict(SIZED, GROWN "d.b offset 16 size 8: double b\n", &additions) == 0 && additions == 2);         /* at the end */
    CHECK(verdict(SIZED, SIZED "d.b offset 12 size 4: float b\n", &additions) == 1);                             /* in padding */
    CHECK(verdict(GROWN, SIZED, &additions) == 1);                                                               /* shrunk */
    CHECK(verdict(SIZED, GROWN "d.b offset 12 size 8: double b\n", &additions) == 1);
    CHECK(verdict("p size 8\np.a offset 0 size 8: double a\n",
                  "p size 16\np.a offset 0 size 8: double a\np.b offset 8 size 8: double b\n", &additions) == 2);   /* no struct_size */
    CHECK(verdict("int32_t f(int32_t a)\n", "int32_t f(int64_t a)\n", &additions) == 1 && additions == 1);
    CHECK(verdict("int32_t f(void)\n", "int32_t f(void)\nint32_t g(void)\n", &additions) == 0 && additions == 1);
    CHECK(verdict("KD_A 1\nKD_B 2\n", "KD_A 1\n", &additions) == 1);
}

/* ---- a program of an earlier version --------------------------------------------------------------------------- */

static void run_frozen(const char *flags)
{
#ifdef KDTEST_SANITIZED
    (void)flags;
    kdtest_skip("a sanitized build");
#else
    int status;
    const char *runner = getenv("KD_RUN");
    char *text = kdtest_run(&status, "%s -std=c11 %s tests/api/frozen_0_1.c -L%s -lkd -lm -o '%s/frozen' && "
                            "LD_LIBRARY_PATH=%s %s '%s/frozen'",
                            kdtest_cc(), flags, kdtest_out(), kdtest_tmp(), kdtest_out(), runner ? runner : "", kdtest_tmp());
    CHECK_MSG(status == 0 && strstr(text, "ok\n"), "%s", text);
    free(text);
#endif
}
TEST(program_of_0_1_runs) { run_frozen(""); }
TEST(program_with_shorter_structs_runs) { run_frozen("-DSHORTER"); }

/* ---- descriptors of every size ------------------------------------------------------------------------------------ */

static kd_status use_context(const void *d)
{
    kd_context *ctx;
    kd_status st = kd_context_create(&ctx, d);
    kd_context_free(ctx);
    return st;
}
static kd_status use_optimizer(const void *d)
{
    kd_optimizer *opt;
    kd_status st = kd_optimizer_create(&opt, NULL, d);
    kd_optimizer_free(opt);
    return st;
}
static kd_status use_schedule(const void *d)
{
    kd_optimizer *opt;
    kd_status st = kd_optimizer_create(&opt, NULL, NULL);
    if (st == KD_OK) st = kd_optimizer_set_schedule(opt, d);
    kd_optimizer_free(opt);
    return st;
}
static kd_status use_loss(const void *d)
{
    kd_loss_distill *loss;
    kd_status st = kd_loss_distill_create(&loss, NULL, d);
    kd_loss_distill_free(loss);
    return st;
}
static kd_status use_loader(const void *d)
{
    kd_dataset *data;
    kd_loader *loader = NULL;
    const float items[4] = { 1, 2, 3, 4 };
    kd_status st = kd_dataset_wrap(&data, NULL, KD_F32, 4, 0, NULL, items, NULL);
    if (st == KD_OK) st = kd_loader_create(&loader, NULL, data, d);
    kd_loader_free(loader);
    kd_dataset_free(data);
    return st;
}
static kd_status use_csv(const void *d)
{
    char path[600];
    kd_dataset *data;
    snprintf(path, sizeof path, "%s/numbers.csv", kdtest_tmp());
    FILE *f = fopen(path, "w");
    if (!CHECK(f != NULL)) return KD_ERR_IO;
    fputs("1,2,0\n3,4,1\n", f);
    fclose(f);
    kd_status st = kd_dataset_open_csv(&data, NULL, path, d);
    kd_dataset_free(data);
    return st;
}
static kd_status use_folder(const void *d)
{
    char path[600];
    kd_dataset *data;
    snprintf(path, sizeof path, "%s/classes", kdtest_tmp());
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/classes/one", kdtest_tmp());
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/classes/one/image.pgm", kdtest_tmp());
    FILE *f = fopen(path, "w");
    if (!CHECK(f != NULL)) return KD_ERR_IO;
    fputs("P5 1 1 255\n.", f);
    fclose(f);
    snprintf(path, sizeof path, "%s/classes", kdtest_tmp());
    kd_status st = kd_dataset_open_folder(&data, NULL, path, d);
    kd_dataset_free(data);
    return st;
}
static kd_status use_conv(const void *d)
{
    static const float zeros[16];
    const size_t x[4] = { 1, 4, 4, 1 }, w[4] = { 2, 2, 1, 1 };
    kd_tape *tape;
    kd_status st = kd_tape_create(&tape, NULL, KD_TAPE_TRAIN);
    if (st != KD_OK) return st;
    kd_conv2d(tape, kd_tape_constant(tape, 4, x, zeros), kd_tape_constant(tape, 4, w, zeros), NULL, d);
    st = kd_tape_status(tape);
    kd_tape_free(tape);
    return st;
}
static kd_status use_rnn(const void *d)
{
    kd_model *model;
    kd_status st = kd_model_create(&model, NULL);
    if (st != KD_OK) return st;
    kd_layer_lstm(kd_model_root(model), "rnn", 2, 3, d);
    st = kd_model_finish(model, 1);
    kd_model_free(model);
    return st;
}
static kd_status use_cnn(const void *d)
{
    kd_model *model;
    kd_status st = kd_zoo_cnn(&model, NULL, d, 1);
    kd_model_free(model);
    return st;
}
static kd_status use_vit(const void *d)
{
    kd_model *model;
    kd_status st = kd_zoo_vit(&model, NULL, d, 1);
    kd_model_free(model);
    return st;
}

typedef struct kind {
    const char *name;
    size_t      size;
    void      (*init)(void *desc, size_t struct_size);
    kd_status (*use)(const void *desc);
} kind;
#define INIT(name) static void init_##name(void *d, size_t n) { kd_##name##_desc_init(d, n); }
INIT(context) INIT(optimizer) INIT(schedule) INIT(loss_distill) INIT(loader) INIT(csv) INIT(folder) INIT(conv) INIT(rnn) INIT(cnn)
INIT(vit)
static const kind kinds[] = {
    { "kd_context_desc", sizeof(kd_context_desc), init_context, use_context },
    { "kd_optimizer_desc", sizeof(kd_optimizer_desc), init_optimizer, use_optimizer },
    { "kd_schedule_desc", sizeof(kd_schedule_desc), init_schedule, use_schedule },
    { "kd_loss_distill_desc", sizeof(kd_loss_distill_desc), init_loss_distill, use_loss },
    { "kd_loader_desc", sizeof(kd_loader_desc), init_loader, use_loader },
    { "kd_csv_desc", sizeof(kd_csv_desc), init_csv, use_csv },
    { "kd_folder_desc", sizeof(kd_folder_desc), init_folder, use_folder },
    { "kd_conv_desc", sizeof(kd_conv_desc), init_conv, use_conv },
    { "kd_rnn_desc", sizeof(kd_rnn_desc), init_rnn, use_rnn },
    { "kd_cnn_desc", sizeof(kd_cnn_desc), init_cnn, use_cnn },
    { "kd_vit_desc", sizeof(kd_vit_desc), init_vit, use_vit },
};

/* Every descriptor of the headers has its row. */
static void find_descriptors(const char *path, void *user)
{
    char *text = kdtest_read(path, NULL), name[100];
    for (const char *p = text; (p = strstr(p, "_desc_init(kd_")) != NULL; p++) {
        size_t i = 0;
        if (sscanf(p + strlen("_desc_init("), "%99[a-z_]", name) != 1) continue;
        while (i < sizeof kinds / sizeof *kinds && strcmp(kinds[i].name, name) != 0) i++;
        CHECK_MSG(i < sizeof kinds / sizeof *kinds, "%s has no row in test_abi.c", name);
        ++*(size_t *)user;
    }
    free(text);
}
TEST(every_descriptor_is_tried)
{
    size_t n = 0;
    kdtest_walk("include/kd", ".h", find_descriptors, &n);
    CHECK(n == sizeof kinds / sizeof *kinds);
}

enum { ROOM = 512 };
TEST(shorter_descriptors_mean_the_defaults)
{
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        _Alignas(16) unsigned char full[ROOM], d[ROOM];
        kinds[k].init(full, kinds[k].size);
        for (size_t size = sizeof(size_t); size <= kinds[k].size; size += 4) {
            memset(d, 0xa5, sizeof d);
            kinds[k].init(d, size);
            int same = memcmp(d, &size, sizeof size) == 0 && memcmp(d + sizeof size, full + sizeof size, size - sizeof size) == 0;
            for (size_t i = size; i < ROOM; i++) same &= d[i] == 0xa5;
            CHECK_MSG(same, "%s_init, %zu bytes", kinds[k].name, size);
            kd_status st = kinds[k].use(d);   /* what lies behind would be no good in any field */
            CHECK_MSG(st == KD_OK, "%s of %zu bytes: %s %s", kinds[k].name, size, kd_status_name(st), kd_last_error());
        }
    }
}

TEST(longer_descriptors_are_taken_unless_they_ask_for_more)
{
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        _Alignas(16) unsigned char d[ROOM];
        size_t size = kinds[k].size + 24;
        char place[40];
        memset(d, 0xa5, sizeof d);
        kinds[k].init(d, size);
        CHECK_MSG(kinds[k].use(d) == KD_OK, "%s and 24 bytes of zeros: %s", kinds[k].name, kd_last_error());
        d[kinds[k].size + 8] = 1;
        CHECK_MSG(kinds[k].use(d) == KD_ERR_VERSION, "%s and a field that this libkd does not know", kinds[k].name);
        snprintf(place, sizeof place, "at byte %zu is set", kinds[k].size + 8);
        CHECK_ERROR_HAS(place);
        static const size_t none[] = { 0, 7, SIZE_MAX };
        for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
            memcpy(d, &none[i], sizeof none[i]);
            CHECK_MSG(kinds[k].use(d) == KD_ERR_ARG, "%s with struct_size %zu", kinds[k].name, none[i]);
            CHECK_ERROR_HAS("struct_size is");
        }
    }
}

/* ---- structs that the library fills ---------------------------------------------------------------------------------- */

static kd_model *model;
static kd_loss_distill *loss;
static kd_status fill_param(void *out) { return kd_model_parameter_at(model, 1, out); }
static kd_status fill_terms(void *out)
{
    const float s[2] = { 0, 0 }, t[2] = { 1, 2 };
    const int32_t y = 1;
    kd_distill_batch b = { .struct_size = sizeof b, .rows = 1, .classes = 2, .student = s, .teacher = t, .labels = &y };
    return kd_loss_distill_eval(loss, &b, out);
}
static kd_status fill_safetensors(void *out)
{
    kd_safetensors *file;
    kd_status st = kd_safetensors_open(&file, NULL, KD_TEST_ROOT "/tests/golden/st_plain.safetensors", 0);
    if (st == KD_OK) st = kd_safetensors_at(file, 0, out);
    /* the addresses in it differ from one opening to the next */
    if (st == KD_OK) {
        size_t size, from = offsetof(kd_safetensors_info, name), to = offsetof(kd_safetensors_info, rank);
        size_t p = offsetof(kd_safetensors_info, shape);
        memcpy(&size, out, sizeof size);
        if (size > from) memset((char *)out + from, 0, (size < to ? size : to) - from);
        if (size >= p + sizeof(void *)) memset((char *)out + p, 0, sizeof(void *));
    }
    kd_safetensors_close(file);
    return st;
}

static void check_filled(const char *name, size_t own, kd_status (*fill)(void *out))
{
    _Alignas(16) unsigned char full[ROOM], out[ROOM];
    memset(full, 0, sizeof full);
    memcpy(full, &own, sizeof own);
    CHECK_OK(fill(full));
    for (size_t size = sizeof(size_t); size <= own + 24; size += 8) {
        memset(out, 0xa5, sizeof out);
        memcpy(out, &size, sizeof size);
        kd_status st = fill(out);
        int same = memcmp(out, &size, sizeof size) == 0 && memcmp(out + sizeof size, full + sizeof size, size - sizeof size) == 0;
        for (size_t i = size; i < ROOM; i++) same &= out[i] == 0xa5;
        CHECK_MSG(st == KD_OK && same, "%s of %zu bytes: %s", name, size, kd_status_name(st));
    }
    static const size_t none[] = { 0, 7, SIZE_MAX };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        memcpy(out, &none[i], sizeof none[i]);
        CHECK_MSG(fill(out) == KD_ERR_ARG, "%s with struct_size %zu", name, none[i]);
        CHECK_ERROR_HAS("struct_size is");
    }
}

TEST(structs_are_filled_as_far_as_the_caller_has_them)
{
    const size_t sizes[] = { 3, 2 };
    CHECK_OK(kd_zoo_mlp(&model, NULL, sizes, 2, KD_ACT_RELU, 1));
    CHECK_OK(kd_loss_distill_create(&loss, NULL, NULL));
    check_filled("kd_param_info", sizeof(kd_param_info), fill_param);
    check_filled("kd_distill_terms", sizeof(kd_distill_terms), fill_terms);
    check_filled("kd_safetensors_info", sizeof(kd_safetensors_info), fill_safetensors);
    kd_loss_distill_free(loss);
    kd_model_free(model);
}
