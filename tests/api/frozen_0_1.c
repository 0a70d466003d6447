/* frozen_0_1.c - a program of 0.1.0: it declares what it uses as the headers did then and never includes them.  test_abi.c compiles it
 * and runs it against the library of today.  Not to be changed as long as the soname is libkd.so.0.
 * With -DSHORTER its structs lack their last fields: a program from before these.
 * SPDX-License-Identifier: MIT */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef int32_t kd_status;   /* an enum */
typedef struct kd_context kd_context;
typedef struct kd_tensor kd_tensor;
typedef struct kd_tape kd_tape;
typedef struct kd_model kd_model;
typedef struct kd_optimizer kd_optimizer;
typedef struct kd_dataset kd_dataset;
typedef struct kd_loader kd_loader;
typedef struct kd_loss_distill kd_loss_distill;
typedef struct kd_rng { uint64_t key, index; } kd_rng;

#ifdef SHORTER
#define LAST(...)
#else
#define LAST(...) __VA_ARGS__
#endif

typedef struct kd_context_desc {
    size_t struct_size;
    struct { void *(*alloc)(size_t, size_t, void *); void (*free)(void *, size_t, void *); void *user; } allocator;
    void (*log)(uint32_t level, const char *text, void *user);
    void *log_user;
    uint32_t log_level, isa, threads, reserved;
    LAST(void (*parallel)(size_t, void (*)(size_t, void *), void *, void *); void *parallel_user;)
} kd_context_desc;

typedef struct kd_loss_distill_desc {
    size_t struct_size;
    uint32_t method;
    float temperature, hard_weight, soft_weight;
    uint32_t direction;
    float js_beta;
    uint32_t temperature_squared, reduction, teacher_form;
    float label_smoothing;
    int64_t ignore_index, unlabelled_index;
    LAST(const float *class_weights; size_t class_weight_count; uint32_t check_input, all_masked_nan;)
} kd_loss_distill_desc;

typedef struct kd_distill_terms {
    size_t struct_size;
    double loss, hard, soft;
    LAST(size_t hard_rows, soft_rows, masked_rows;)
} kd_distill_terms;

typedef struct kd_distill_batch {
    size_t struct_size, rows, classes;
    const float *student; size_t student_stride;
    const float *teacher; size_t teacher_stride;
    const int32_t *labels;
    LAST(const int64_t *labels64; const float *soft_labels; size_t soft_label_stride; const float *row_weights;
         float *grad; size_t grad_stride; float *row_loss;)
} kd_distill_batch;

typedef struct kd_optimizer_desc {
    size_t struct_size;
    uint32_t method;
    float lr;
    LAST(float momentum, dampening; uint32_t nesterov; float beta1, beta2, eps, weight_decay, max_grad_norm;)
} kd_optimizer_desc;

typedef struct kd_loader_desc {
    size_t struct_size, batch;
    uint64_t seed;
    uint32_t shuffle, drop_last;
    LAST(float scale; uint32_t shift, crop_padding, flip; float mixup_alpha; uint32_t classes, ahead; const float *mean, *std;
         size_t channels;)
} kd_loader_desc;

typedef struct kd_conv_desc {
    size_t struct_size;
    uint32_t stride[2];
    LAST(uint32_t padding[2], dilation[2], groups, algorithm;)
} kd_conv_desc;

typedef struct kd_cnn_desc {
    size_t struct_size, height, width, channels, conv1, conv2, hidden, classes;
    LAST(uint32_t batch_norm; float dropout;)
} kd_cnn_desc;

typedef struct kd_param_info {
    size_t struct_size;
    const char *name;
    kd_tensor *tensor;
    LAST(float *grad; uint32_t kind, reserved; size_t offset;)
} kd_param_info;

int32_t kd_version(void);
const char *kd_last_error(void);
void kd_context_desc_init(kd_context_desc *, size_t);
kd_status kd_context_create(kd_context **, const kd_context_desc *);
void kd_context_free(kd_context *);
void kd_loss_distill_desc_init(kd_loss_distill_desc *, size_t);
kd_status kd_loss_distill_create(kd_loss_distill **, kd_context *, const kd_loss_distill_desc *);
kd_tensor *kd_loss_distill_apply(const kd_loss_distill *, kd_tape *, kd_tensor *, kd_tensor *, kd_tensor *);
kd_status kd_loss_distill_terms(kd_tape *, const kd_tensor *, kd_distill_terms *);
kd_status kd_loss_distill_eval(const kd_loss_distill *, const kd_distill_batch *, kd_distill_terms *);
void kd_loss_distill_free(kd_loss_distill *);
void kd_optimizer_desc_init(kd_optimizer_desc *, size_t);
kd_status kd_optimizer_create(kd_optimizer **, kd_context *, const kd_optimizer_desc *);
kd_status kd_optimizer_add(kd_optimizer *, kd_model *);
kd_status kd_optimizer_step(kd_optimizer *);
void kd_optimizer_free(kd_optimizer *);
kd_status kd_dataset_wrap(kd_dataset **, kd_context *, int32_t, size_t, size_t, const size_t *, const void *, const int32_t *);
void kd_dataset_free(kd_dataset *);
void kd_loader_desc_init(kd_loader_desc *, size_t);
kd_status kd_loader_create(kd_loader **, kd_context *, const kd_dataset *, const kd_loader_desc *);
kd_status kd_loader_next(kd_loader *, kd_tensor **, kd_tensor **);
void kd_loader_free(kd_loader *);
void kd_conv_desc_init(kd_conv_desc *, size_t);
kd_tensor *kd_conv2d(kd_tape *, kd_tensor *, kd_tensor *, kd_tensor *, const kd_conv_desc *);
kd_tensor *kd_tape_constant(kd_tape *, size_t, const size_t *, const float *);
size_t kd_tensor_size(const kd_tensor *, size_t);
void kd_cnn_desc_init(kd_cnn_desc *, size_t);
kd_status kd_zoo_cnn(kd_model **, kd_context *, const kd_cnn_desc *, uint64_t);
kd_tensor *kd_model_forward(kd_model *, kd_tape *, kd_tensor *);
kd_status kd_model_find(const kd_model *, const char *, kd_param_info *);
void kd_model_free(kd_model *);
kd_status kd_tape_create(kd_tape **, kd_context *, uint32_t);
void kd_tape_reset(kd_tape *);
kd_status kd_tape_status(const kd_tape *);
void kd_tape_free(kd_tape *);
kd_status kd_backward(kd_tape *, kd_tensor *);
kd_rng kd_rng_make(uint64_t);
float kd_rng_normal(kd_rng *);

enum { KD_OK = 0, KD_TAPE_TRAIN = 1, KD_TAPE_INFER = 2, KD_F32 = 1, N = 32 };

static int failures;
static int good(int ok, const char *what)
{
    if (!ok) printf("%s: %s\n", what, kd_last_error()), failures++;
    return ok;
}
#define GOOD(condition) good(condition, #condition)

int main(void)
{
    /* the library must not write beyond what this program has: what lies behind stays as it is */
    struct { kd_context_desc d; uint64_t mark; } context_desc = { .mark = 42 };
    struct { kd_loss_distill_desc d; uint64_t mark; } loss_desc = { .mark = 42 };
    struct { kd_optimizer_desc d; uint64_t mark; } optimizer_desc = { .mark = 42 };
    struct { kd_loader_desc d; uint64_t mark; } loader_desc = { .mark = 42 };
    struct { kd_conv_desc d; uint64_t mark; } conv_desc = { .mark = 42 };
    struct { kd_cnn_desc d; uint64_t mark; } cnn_desc = { .mark = 42 };
    struct { kd_distill_terms d; uint64_t mark; } terms = { .mark = 42 };
    struct { kd_param_info d; uint64_t mark; } info = { .mark = 42 };

    kd_context *ctx = NULL;
    kd_context_desc_init(&context_desc.d, sizeof context_desc.d);
    context_desc.d.threads = 2;
    GOOD(kd_context_create(&ctx, &context_desc.d) == KD_OK);

    /* noisy images of four classes */
    static float items[N][8][8];
    int32_t labels[N];
    kd_rng rng = kd_rng_make(7);
    for (int i = 0; i < N; i++) {
        labels[i] = i % 4;
        for (int y = 0; y < 8; y++)
            for (int x = 0; x < 8; x++)
                items[i][y][x] = 0.3f * kd_rng_normal(&rng) + (y / 4 == labels[i] / 2 && x / 4 == labels[i] % 2 ? 2.0f : 0.0f);
    }
    const size_t shape[] = { 8, 8, 1 };
    kd_dataset *data = NULL;
    GOOD(kd_dataset_wrap(&data, ctx, KD_F32, N, 3, shape, items, labels) == KD_OK);
    kd_loader *batches = NULL;
    kd_loader_desc_init(&loader_desc.d, sizeof loader_desc.d);
    loader_desc.d.batch = 16;
    GOOD(kd_loader_create(&batches, ctx, data, &loader_desc.d) == KD_OK);

    kd_model *teacher = NULL, *student = NULL;
    kd_cnn_desc_init(&cnn_desc.d, sizeof cnn_desc.d);
    cnn_desc.d.height = cnn_desc.d.width = 8;
    cnn_desc.d.conv1 = cnn_desc.d.conv2 = cnn_desc.d.hidden = 8;
    cnn_desc.d.classes = 4;
    GOOD(kd_zoo_cnn(&teacher, ctx, &cnn_desc.d, 1) == KD_OK);
    GOOD(kd_zoo_cnn(&student, ctx, &cnn_desc.d, 2) == KD_OK);

    kd_loss_distill *loss = NULL;
    kd_loss_distill_desc_init(&loss_desc.d, sizeof loss_desc.d);
    loss_desc.d.hard_weight = 1;
    GOOD(kd_loss_distill_create(&loss, ctx, &loss_desc.d) == KD_OK);
    kd_optimizer *opt = NULL;
    kd_optimizer_desc_init(&optimizer_desc.d, sizeof optimizer_desc.d);
    optimizer_desc.d.lr = 0.05f;
    GOOD(kd_optimizer_create(&opt, ctx, &optimizer_desc.d) == KD_OK);
    GOOD(kd_optimizer_add(opt, student) == KD_OK);

    kd_tape *look = NULL, *learn = NULL;
    GOOD(kd_tape_create(&look, ctx, KD_TAPE_INFER) == KD_OK);
    GOOD(kd_tape_create(&learn, ctx, KD_TAPE_TRAIN) == KD_OK);
    double first = 0, last = 0;
    for (int epoch = 0; epoch < 30 && !failures; epoch++) {
        kd_tensor *x, *y;
        while (kd_loader_next(batches, &x, &y) == KD_OK) {
            kd_tensor *l = kd_loss_distill_apply(loss, learn, kd_model_forward(student, learn, x), kd_model_forward(teacher, look, x), y);
            terms.d.struct_size = sizeof terms.d;
            GOOD(kd_loss_distill_terms(learn, l, &terms.d) == KD_OK);
            GOOD(kd_backward(learn, l) == KD_OK);
            GOOD(kd_optimizer_step(opt) == KD_OK);
            if (!first) first = terms.d.hard;
            last = terms.d.hard;
            kd_tape_reset(learn);
            kd_tape_reset(look);
        }
    }
    if (!(last < first / 2)) printf("the student learned nothing: cross-entropy %g, then %g\n", first, last), failures++;

    /* the loss on plain pointers: KL of [0, log 3] against [0, 0] at T = 4 by hand, the defaults for what this program does not know */
    const float s[2] = { 0, 0 }, t[2] = { 0, 1.0986123f };
    kd_distill_batch batch = { .struct_size = sizeof batch, .rows = 1, .classes = 2, .student = s, .teacher = t, .labels = labels };
    GOOD(kd_loss_distill_eval(loss, &batch, &terms.d) == KD_OK);
    double p = exp(t[1] / 4) / (1 + exp(t[1] / 4)), kl = (1 - p) * log(2 * (1 - p)) + p * log(2 * p);
    if (fabs(terms.d.soft - 16 * kl) > 1e-6 || fabs(terms.d.hard - log(2)) > 1e-6 || fabs(terms.d.loss - log(2) - 0.9 * 16 * kl) > 1e-6)
        printf("terms %g %g %g\n", terms.d.loss, terms.d.hard, terms.d.soft), failures++;

    kd_conv_desc_init(&conv_desc.d, sizeof conv_desc.d);
    conv_desc.d.stride[0] = conv_desc.d.stride[1] = 2;
    const size_t image[] = { 1, 8, 8, 1 }, weight[] = { 3, 3, 1, 1 };
    kd_tensor *c = kd_conv2d(look, kd_tape_constant(look, 4, image, items[0][0]), kd_tape_constant(look, 4, weight, items[1][0]), NULL,
                             &conv_desc.d);
    GOOD(kd_tape_status(look) == KD_OK && kd_tensor_size(c, 1) == 3 && kd_tensor_size(c, 2) == 3);

    info.d.struct_size = sizeof info.d;
    GOOD(kd_model_find(student, "fc2.weight", &info.d) == KD_OK && kd_tensor_size(info.d.tensor, 1) == 4);

    if (context_desc.mark != 42 || loss_desc.mark != 42 || optimizer_desc.mark != 42 || loader_desc.mark != 42 || conv_desc.mark != 42 ||
        cnn_desc.mark != 42 || terms.mark != 42 || info.mark != 42)
        printf("the library wrote beyond a struct\n"), failures++;
    kd_tape_free(look);
    kd_tape_free(learn);
    kd_optimizer_free(opt);
    kd_loss_distill_free(loss);
    kd_loader_free(batches);
    kd_dataset_free(data);
    kd_model_free(student);
    kd_model_free(teacher);
    kd_context_free(ctx);
    printf("%s\n", failures ? "FAILED" : "ok");
    return failures != 0;
}
