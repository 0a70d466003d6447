/* test_vit.c - vision transformers of the zoo: sizes, published parameter counts, dropped paths, memory, what is refused.
 * SPDX-License-Identifier: MIT */
#include "kdtest_file.h"
#include "../golden/probe.h"

static kd_vit_desc small(void)
{
    kd_vit_desc d;
    kd_vit_desc_init(&d, sizeof d);
    d.image = 8;
    d.patch = 4;
    d.width = 12;
    d.depth = 2;
    d.heads = 2;
    d.classes = 3;
    return d;
}

/* The counts of timm's deit_{tiny,small}_patch16_224 and their distilled forms. */
TEST(published_sizes)
{
    static const struct { size_t width, heads, plain, distilled; } sizes[] = {
        { 192, 3, 5717416, 5910800 }, { 384, 6, 22050664, 22436432 },
    };
    kd_vit_desc d;
    kd_vit_desc_init(&d, sizeof d);
    CHECK(d.image == 224 && d.patch == 16 && d.channels == 3 && d.width == 192 && d.depth == 12 && d.heads == 3 && d.mlp_ratio == 4 &&
          d.classes == 1000 && !d.distilled && d.drop_path == 0.0f && d.dropout == 0.0f);
    for (size_t i = 0; i < 2; i++)
        for (uint32_t token = 0; token < 2; token++) {
            kd_model *m = NULL;
            d.width = sizes[i].width;
            d.heads = sizes[i].heads;
            d.distilled = token;
            CHECK_OK(kd_zoo_vit(&m, NULL, &d, 1));
            CHECK(kd_model_size(m) == (token ? sizes[i].distilled : sizes[i].plain));
            kd_model_free(m);
        }
}

static double forward_loss(kd_model *m, kd_tape *tape, kd_tensor *x)
{
    kd_tensor *loss = kd_sum(tape, kd_square(tape, kd_model_forward(m, tape, x)), 0, 0);
    CHECK_OK(kd_tape_mode(tape) == KD_TAPE_TRAIN ? kd_backward(tape, loss) : kd_tape_status(tape));
    return kd_tensor_item(loss);
}

/* On TRAIN tapes paths and elements drop from the tape's stream: the same seed the same bits, another seed others; nothing drops elsewhere.
 * From the second step on the tape holds what it held. */
TEST(dropping)
{
    kd_vit_desc d = small();
    kd_model *plain = NULL, *m = NULL;
    kd_tape *tape = NULL, *look = NULL;
    kd_tensor *x = NULL;
    kdtest_rand r = { 5 };
    CHECK_OK(kd_zoo_vit(&plain, NULL, &d, 7));
    d.drop_path = 0.5f;
    d.dropout = 0.1f;
    CHECK_OK(kd_zoo_vit(&m, NULL, &d, 7));
    CHECK(kd_model_hash(m) == kd_model_hash(plain));
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tape_create(&look, NULL, KD_TAPE_INFER));
    CHECK_OK(kd_tensor_create(&x, NULL, KD_F32, 4, (size_t[]){ 6, 8, 8, 3 }));
    kdtest_fill(&r, kd_tensor_f32(x), 6 * 8 * 8 * 3, 1.0);

    kd_tape_seed(tape, 3);
    const double first = forward_loss(m, tape, x);
    kd_tape_reset(tape);
    const double second = forward_loss(m, tape, x);
    CHECK(first != second);
    kd_tape_reset(tape);
    kd_tape_seed(tape, 3);
    const size_t held = kd_tape_bytes(tape);
    CHECK(forward_loss(m, tape, x) == first && kd_tape_bytes(tape) == held);
    CHECK(forward_loss(m, look, x) == forward_loss(plain, look, x));
    kd_model *copy = NULL;
    CHECK_OK(kd_model_clone(&copy, m));
    kd_tape_reset(tape);
    kd_tape_seed(tape, 3);
    CHECK(forward_loss(copy, tape, x) == first);
    kd_model_free(copy);

    kd_model_free(plain);
    kd_model_free(m);
    kd_tape_free(tape);
    kd_tape_free(look);
    kd_tensor_free(x);
}

/* drop_path alone, 0.5 at the end of three blocks: the first drops nothing, the second each branch of a quarter of the samples, the
 * third of half.  A branch that stays is divided by how often it does, so that the mean over the draws is what no drop gives: the
 * attention of inference over 1 - p. */
TEST(dropped_samples)
{
    enum { N = 256, EACH = 5 * 12 };
    static const char *const taps[] = { "blocks.0", "blocks.1", "blocks.2", "blocks.1.attn" };
    kd_vit_desc d = small();
    kd_model *m = NULL;
    kd_tape *tape = NULL, *look = NULL;
    d.depth = 3;
    d.drop_path = 0.5f;
    CHECK_OK(kd_zoo_vit(&m, NULL, &d, 7));
    for (size_t i = 0; i < 4; i++) CHECK_OK(kd_model_tap(m, taps[i]));
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_TRAIN));
    CHECK_OK(kd_tape_create(&look, NULL, KD_TAPE_INFER));
    kd_tensor *x = kd_tape_tensor(tape, KD_F32, 4, (size_t[]){ N, 8, 8, 3 });
    for (size_t i = 0; i < N * 192; i++) kd_tensor_f32(x)[i] = (float)(i % 192) / 100;   /* all alike */
    (void)kd_model_forward(m, tape, x);
    (void)kd_model_forward(m, look, x);
    CHECK_OK(kd_tape_status(tape));
    CHECK_OK(kd_tape_status(look));
    const float *out[3], *attention = kd_tensor_f32(kd_model_tapped(m, look, "blocks.1.attn"));
    for (size_t b = 0; b < 3; b++) out[b] = kd_tensor_f32(kd_model_tapped(m, tape, taps[b]));
    size_t none = 0, only_attention = 0, kinds = 0, drawn = 0;
    for (size_t i = 0; i < N; i++) {
        const float *a = out[0] + i * EACH, *b = out[1] + i * EACH;
        double apart = 0, largest = 0;
        size_t j = 0;
        CHECK(memcmp(a, out[0], EACH * sizeof(float)) == 0);
        while (j < i && memcmp(b, out[1] + j * EACH, EACH * sizeof(float)) != 0) j++;
        kinds += j == i;
        none += memcmp(b, a, EACH * sizeof(float)) == 0;
        for (size_t k = 0; k < EACH; k++) {
            const double kept = (double)attention[k] / 0.75;
            apart = fmax(apart, fabs((double)b[k] - (double)a[k] - kept));
            largest = fmax(largest, fabs((double)a[k]) + fabs(kept));
        }
        only_attention += apart <= 8 * 0x1p-24 * largest;   /* the quotient, the sum, what was there, its difference here */
        drawn += memcmp(out[2] + i * EACH, b, EACH * sizeof(float)) == 0;
    }
    CHECK(kinds == 4);
    /* Expected 16 of 256 (deviation 3.9), 48 (6.2), and 64 (6.9): within four of these. */
    CHECK_MSG(none >= 1 && none <= 31, "%zu", none);
    CHECK_MSG(only_attention >= 24 && only_attention <= 72, "%zu", only_attention);
    CHECK_MSG(drawn >= 37 && drawn <= 91, "%zu", drawn);
    kd_model_free(m);
    kd_tape_free(tape);
    kd_tape_free(look);
}

/* Every norm's epsilon is 1e-6, timm's for these: seen on tokens whose variance is as small, which blocks that add nothing pass on. */
TEST(small_tokens)
{
    static const char *const norms[] = { "blocks.0.norm1", "blocks.1.norm2", "norm" };
    kd_vit_desc d = small();
    kd_model *m = NULL;
    kd_tape *look = NULL;
    CHECK_OK(kd_zoo_vit(&m, NULL, &d, 7));
    CHECK_OK(kd_model_initialize(m, "*", KD_INIT_ZEROS, 0, 0, 1));
    CHECK_OK(kd_model_initialize(m, "*norm*.weight", KD_INIT_ONES, 0, 0, 1));
    kd_param_info p = { .struct_size = sizeof p };
    CHECK_OK(kd_model_find(m, "cls_token", &p));
    for (size_t i = 0; i < d.width; i++) kd_tensor_f32(p.tensor)[i] = i % 2 ? 1e-3f : -1e-3f;   /* mean 0, variance 1e-6 */
    kd_model_touch(m);
    for (size_t i = 0; i < 3; i++) CHECK_OK(kd_model_tap(m, norms[i]));
    CHECK_OK(kd_tape_create(&look, NULL, KD_TAPE_INFER));
    kd_tensor *x = kd_tape_tensor(look, KD_F32, 4, (size_t[]){ 1, 8, 8, 3 });
    CHECK_OK(kd_tensor_fill(x, 1));
    (void)kd_model_forward(m, look, x);
    CHECK_OK(kd_tape_status(look));
    for (size_t i = 0; i < 3; i++) {
        const float *y = kd_tensor_f32(kd_model_tapped(m, look, norms[i]));
        for (size_t k = 0; k < d.width; k++) CHECK_NEAR((double)y[k], (k % 2 ? 1 : -1) * sqrt(0.5), 1e-6);
    }
    kd_model_free(m);
    kd_tape_free(look);
}

/* A step as DeiT is trained: the class head learns from labels, the other from a teacher; both get gradients.  Each allocation failing in
 * turn is KD_ERR_NOMEM and leaks nothing. */
static kd_status distil(kd_context *ctx, float *norms)
{
    enum { N = 4 };
    static const char *const heads[] = { "head.weight", "head_dist.weight", "dist_token" };
    static const float teacher[N * 3] = { 1, 0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 1 };
    static int32_t classes[N] = { 2, 0, 1, 1 };
    kd_vit_desc d = small();
    kd_loss_distill_desc how;
    kd_model *m = NULL;
    kd_tape *tape = NULL;
    kd_loss_distill *loss = NULL;
    kd_tensor *labels = NULL;
    d.distilled = 1;
    d.drop_path = 0.1f;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.method = KD_DISTILL_DEIT_HARD;
    kd_status st = kd_zoo_vit(&m, ctx, &d, 1);
    if (st == KD_OK) st = kd_loss_distill_create(&loss, ctx, &how);
    if (st == KD_OK) st = kd_tape_create(&tape, ctx, KD_TAPE_TRAIN);
    if (st == KD_OK) st = kd_tensor_wrap(&labels, ctx, KD_I32, 1, (size_t[]){ N }, NULL, classes);
    if (st == KD_OK) {
        kd_tensor *x = kd_tape_tensor(tape, KD_F32, 4, (size_t[]){ N, 8, 8, 3 });
        for (size_t i = 0; kd_tape_status(tape) == KD_OK && i < N * 192; i++) kd_tensor_f32(x)[i] = (float)(i % 97) / 50 - 1;
        kd_distill_inputs in = { .struct_size = sizeof in, .labels = labels };
        in.student = kd_model_forward(m, tape, x);
        in.student_second = kd_model_tapped(m, tape, "head_dist");
        in.teacher = kd_tape_constant(tape, 2, (size_t[]){ N, 3 }, teacher);
        st = kd_backward(tape, kd_loss_distill_apply_inputs(loss, tape, &in));
        for (size_t k = 0; st == KD_OK && k < 3; k++) {
            const float *g = kd_model_grad(m, heads[k]);
            for (size_t i = 0; i < 12; i++) norms[k] += g[i] * g[i];
        }
    }
    kd_tensor_free(labels);
    kd_tape_free(tape);
    kd_loss_distill_free(loss);
    kd_model_free(m);
    return st;
}

TEST(distillation_token_learns)
{
    float norms[3] = { 0 };
    CHECK_OK(distil(NULL, norms));
    for (size_t k = 0; k < 3; k++) CHECK(norms[k] > 0);
    for (size_t i = 1, done = 0; !done && i < 2000; i++) {
        kdtest_alloc a;
        kdtest_alloc_begin(&a, 1, KD_ISA_AUTO);
        const size_t before = a.calls;
        a.fail_at = before + i;
        const kd_status st = distil(a.ctx, norms);
        done = a.calls < a.fail_at;
        CHECK_MSG(done ? st == KD_OK : st == KD_ERR_NOMEM, "allocation %zu: %s", i, kd_status_name(st));
        kdtest_alloc_end(&a);
    }
}

/* Positions of a 3x3 grid for models of 5x5 and 2x2: PyTorch's F.interpolate(mode="bicubic", antialias=True). */
TEST(positions_of_another_grid)
{
    static const double five[] = {
        0.4504367, 0.273088486, 0.127414417, 0.131580422, -0.317262978, -0.129053743, -0.0769615893, -0.404825853, 0.133734746,
        -0.558129029, 0.287134128, 0.279756301, 0.0520055758, 0.0864413349, -0.262597223, -0.213636078, -0.035132689, -0.266372993,
        0.152104291, -0.266966328, 0.0119800107, 0.313652645, -0.0908579141, 0.0302178126, -0.204387724, -0.348376632, 0.0344043187,
        -0.0704625445, 0.206086916, 0.157637922, -0.157963411, 0.451758686, -0.260811577, 0.0980377629, -0.343708027, -0.391395365,
        0.0724821626, -0.142701083, 0.358510029, 0.0787087145, -0.239288397, 0.539624135, -0.357328415, 0.149550298, -0.442952635,
        -0.404510314, 0.0897988564, -0.213183319, 0.453581982, -0.0224694685
    };
    static const double two[] = { 0.0532458887, 0.0871790129, -0.0322812524, -0.265152057, -0.256891474, 0.101228509, 0.0733965135,
                                  -0.140257811 };
    const char *path = kdtest_path("vit.safetensors");
    kd_vit_desc d = small();
    kd_model *m = NULL;
    kd_param_info p = { .struct_size = sizeof p };
    d.width = 2;
    d.heads = 1;
    for (uint32_t token = 0; token < 2; token++) {
        d.distilled = token;
        d.image = 12;
        CHECK_OK(kd_zoo_vit(&m, NULL, &d, 1));
        CHECK_OK(kd_model_find(m, "pos_embed", &p));
        const size_t special = 2 + 2 * token;   /* numbers of the tokens in front, which stay */
        float *v = kd_tensor_f32(p.tensor);
        for (size_t i = 0; i < special; i++) v[i] = (float)(3 + i);
        for (uint32_t i = 0; i < 18; i++) v[special + i] = (float)number(5, i);
        CHECK_OK(kd_model_save(m, path));
        kd_model_free(m);
        for (size_t side = 2; side <= 5; side += 3) {
            d.image = 4 * side;
            CHECK_OK(kd_zoo_vit(&m, NULL, &d, 2));
            CHECK_STATUS(kd_model_load(m, path, 0), KD_ERR_SHAPE);
            CHECK_ERROR_HAS(token ? "pos_embed is [1, 11, 2] in the file" : "pos_embed is [1, 10, 2] in the file");
            CHECK_OK(kd_model_load(m, path, KD_LOAD_RESIZE_POSITIONS));
            CHECK_OK(kd_model_find(m, "pos_embed", &p));
            v = kd_tensor_f32(p.tensor);
            for (size_t i = 0; i < special; i++) CHECK((double)v[i] == 3 + (double)i);
            for (size_t i = 0; i < 2 * side * side; i++)
                CHECK_NEAR((double)v[special + i], (side == 5 ? five : two)[i], 1e-7);   /* 9 digits */
            kd_model_free(m);
        }
        d.distilled = !token;   /* another number of special tokens is another model */
        for (d.image = 12; d.image <= 16; d.image += 4) {
            CHECK_OK(kd_zoo_vit(&m, NULL, &d, 2));
            const uint64_t before = kd_model_hash(m);
            CHECK_STATUS(kd_model_load(m, path, KD_LOAD_RESIZE_POSITIONS | KD_LOAD_MISSING_OK | KD_LOAD_EXTRA_OK), KD_ERR_SHAPE);
            CHECK_ERROR_HAS("pos_embed is [1, 1");
            CHECK(kd_model_hash(m) == before);
            kd_model_free(m);
        }
    }
}

TEST(bad_input)
{
    kd_vit_desc d = small();
    kd_model *m = NULL;
    CHECK_STATUS(kd_zoo_vit(NULL, NULL, &d, 1), KD_ERR_ARG);
#define REFUSED(field, value, text)                                    \
    do {                                                               \
        d = small();                                                   \
        d.field = value;                                               \
        CHECK_STATUS(kd_zoo_vit(&m, NULL, &d, 1), KD_ERR_ARG);         \
        CHECK(m == NULL);                                              \
        CHECK_ERROR_HAS(text);                                         \
    } while (0)
    REFUSED(patch, 3, "kd_zoo_vit: image 8 is not 1 to 4096 times patch 3");
    REFUSED(patch, 0, "patch 0");
    REFUSED(image, 0, "image 0");
    REFUSED(heads, 5, "heads 5 do not divide width 12");
    REFUSED(heads, 0, "heads 0");
    REFUSED(width, 0, "width 0");
    REFUSED(depth, 0, "depth 0");
    REFUSED(channels, 0, "channels 0");
    REFUSED(classes, 0, "classes 0");
    REFUSED(mlp_ratio, 0, "mlp_ratio 0");
    REFUSED(drop_path, 1.0f, "drop_path 1");
    REFUSED(dropout, -0.5f, "dropout -0.5");
    d = small();
    d.width = SIZE_MAX / 2 * 2;
    CHECK_STATUS(kd_zoo_vit(&m, NULL, &d, 1), KD_ERR_OVERFLOW);

    d = small();
    CHECK_OK(kd_zoo_vit(&m, NULL, &d, 1));
    kd_tape *tape = NULL;
    CHECK_OK(kd_tape_create(&tape, NULL, KD_TAPE_INFER));
    kd_tensor *x = kd_tape_tensor(tape, KD_F32, 4, (size_t[]){ 1, 12, 8, 3 });
    CHECK_OK(kd_tensor_fill(x, 0));
    (void)kd_model_forward(m, tape, x);
    CHECK(kd_tape_status(tape) == KD_ERR_SHAPE);
    CHECK_ERROR_HAS("x [1, 12, 8, 3] gives 6 patches: the model has positions for 4");
    kd_tape_free(tape);
    kd_model_free(m);
}
