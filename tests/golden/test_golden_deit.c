/* test_golden_deit.c - DeiT's step as distill_vision does it, from the loader's mixed batch to the gradients of the student,
 * against timm and PyTorch in double precision: mix-up and CutMix, smoothed labels, both heads, soft and hard labels of a teacher
 * that sees the same batch; and what is tested, the mean of the heads.
 * SPDX-License-Identifier: MIT
 *
 * Tolerance: 1e-4 of a term, of the largest logit, of a gradient's sum of absolute terms: what parity of models is held to. */
#include "golden_deit.h"
#include "../../examples/vision/vision.h"

enum { PIXELS = IMAGE * IMAGE * 3 };
#define BOUND 1e-4
#define STUDENT "vit:patch=4,width=24,depth=2,heads=3,distilled=1"
#define TEACHER "vit:patch=6,width=16,depth=1,heads=2"

static uint8_t items[COUNT][PIXELS];

static void fill(kd_model *m, uint32_t stream)
{
    for (uint32_t s = 0; s < kd_model_parameter_count(m); s++) {
        kd_param_info info = { .struct_size = sizeof info };
        CHECK_OK(kd_model_parameter_at(m, s, &info));
        const char *weight = strstr(info.name, ".weight");
        const int norm = strstr(info.name, "norm") && weight && !weight[strlen(".weight")];
        float *w = kd_tensor_f32(info.tensor);
        for (uint32_t i = 0; i < kd_tensor_count(info.tensor); i++) w[i] = (float)(number(stream + s, i) * 0.5 + norm);
    }
    kd_model_touch(m);
}

static images make_images(void)
{
    images d = { .classes = CLASSES, .height = IMAGE, .width = IMAGE, .mean = { .5f, .45f, .4f }, .std = { .25f, .3f, .2f } };
    int32_t labels[COUNT];
    const size_t shape[] = { IMAGE, IMAGE, 3 };
    for (uint32_t i = 0; i < COUNT; i++) {
        labels[i] = (int32_t)(i % CLASSES);
        for (uint32_t k = 0; k < PIXELS; k++) items[i][k] = (uint8_t)((number(2000 + i, k) + .5) * 256);
    }
    CHECK_OK(kd_dataset_wrap(&d.train, NULL, KD_U8, COUNT, 3, shape, items, labels));
    return d;
}

/* What a recipe of mixing alone makes of a method, on the loader's two first batches: the one is mix-up, the other CutMix. */
static void check_method(kd_context *ctx, const images *d, const deit_step *steps)
{
    recipe r;
    method *m = NULL;
    kd_loader *loader = NULL;
    kd_tape *learn = NULL, *look = NULL;
    kd_tensor *x, *y, *logits;
    kd_model *student = NULL, *teacher = NULL;
    recipe_defaults(&r);
    r.batch = BATCH, r.crop_padding = 0, r.flip = 0, r.mixup = .8, r.cutmix = 1, r.label_smoothing = .1;
    r.hard_weight = .5, r.soft_weight = .5;
    r.temperature = 3;
    if (!CHECK_OK(network_create(&student, ctx, STUDENT, d, 0, 1))) goto done;
    if (!CHECK_OK(network_create(&teacher, ctx, TEACHER, d, 0, 2))) goto done;
    fill(student, 0);
    fill(teacher, 500);
    kd_model_freeze(teacher, 1);
    const method_setup setup = { .ctx = ctx, .name = steps->method, .student_name = STUDENT, .teacher_name = TEACHER,
                                 .student = student, .teacher = teacher, .data = d, .recipe = &r };
    if (!CHECK_MSG(method_create(&m, &setup) == KD_OK, "%s", complaint())) goto done;
    CHECK_OK(method_begin(m, 0));
    CHECK_OK(images_train(&loader, ctx, d, &r, 2));
    CHECK_OK(kd_tape_create(&learn, ctx, KD_TAPE_TRAIN));
    CHECK_OK(kd_tape_create(&look, ctx, KD_TAPE_INFER));
    for (const deit_step *s = steps; s < steps + 2; s++) {
        kd_distill_terms terms = { .struct_size = sizeof terms };
        double largest = 0;
        CHECK_OK(kd_loader_next(loader, &x, &y));
        kd_tensor *mean = method_logits(m, look, x);
        CHECK_OK(kd_tape_status(look));
        for (size_t i = 0; i < BATCH * CLASSES; i++) largest = fmax(largest, fabs(s->mean[i]));
        for (size_t i = 0; i < BATCH * CLASSES; i++) CHECK_NEAR((double)kd_tensor_f32(mean)[i], s->mean[i], BOUND * largest);
        kd_tape_reset(look);

        kd_tensor *loss = method_loss(m, learn, look, x, y, kd_loader_indices(loader), &logits);
        if (!CHECK_OK(kd_loss_distill_terms(learn, loss, &terms))) break;
        CHECK_NEAR(terms.hard, s->hard, BOUND * s->hard);
        CHECK_NEAR(terms.soft, s->soft, BOUND * s->soft);
        CHECK_NEAR((double)kd_tensor_f32(loss)[0], .5 * s->hard + .5 * s->soft, BOUND * s->hard);
        CHECK_OK(kd_backward(learn, loss));
        const size_t count = kd_model_parameter_count(student);
        for (uint32_t i = 0; i < count; i++) {
            kd_param_info info = { .struct_size = sizeof info };
            CHECK_OK(kd_model_parameter_at(student, i, &info));
            if (!CHECK(s->grads[i].name != NULL)) break;
            CHECK_STR(info.name, s->grads[i].name);
            check_probe(&s->grads[i], info.grad, kd_tensor_count(info.tensor), 3000 + i, (int)(BOUND / U));
        }
        CHECK(count == sizeof s->grads / sizeof *s->grads || !s->grads[count].name);
        kd_model_zero_grads(student);
        kd_tape_reset(learn);
        kd_tape_reset(look);
    }
done:
    kd_tape_free(learn);
    kd_tape_free(look);
    kd_loader_free(loader);
    method_free(m);
    kd_model_free(student);
    kd_model_free(teacher);
}

TEST(deit_step)
{
    uint32_t isas[5];
    images d = make_images();
    for (size_t i = 0, count = kdtest_isas(isas); i < count; i++) {
        kd_context *ctx = kdtest_context(1 + (uint32_t)i % 2, isas[i]);
        for (size_t k = 0; k < sizeof deit_steps / sizeof *deit_steps; k += 2) check_method(ctx, &d, &deit_steps[k]);
        kd_context_free(ctx);
    }
    kd_dataset_free(d.train);
}

/* Each recipe is read; that of DeiT comes to the numbers of its paper and code. */
TEST(recipes)
{
    static const char *const names[] = { "cifar_full", "cifar_short", "vit_short", "deit_cifar", "deit" };
    recipe r, teacher;
    char path[1024];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        recipe_defaults(&r);
        recipe_defaults(&teacher);
        snprintf(path, sizeof path, "%s/examples/recipes/%s.recipe", KD_TEST_ROOT, names[i]);
        CHECK_MSG(recipe_read(&r, &teacher, path) == KD_OK, "%s", complaint());
    }
    const double lr = r.lr * r.batch / r.lr_batch;
    const struct { double is, paper; } values[] = {
        { lr, 5e-4 * 1024 / 512 }, { lr * r.warmup_start, 1e-6 }, { lr * r.final_factor, 1e-5 }, { r.epochs, 300 },
        { r.warmup_epochs, 5 }, { r.weight_decay, .05 }, { r.label_smoothing, .1 }, { r.drop_path, .1 }, { r.ema, .99996 },
        { r.repeats, 3 }, { r.randaugment_ops, 2 }, { r.randaugment_magnitude, 9 }, { r.randaugment_noise, .5 }, { r.mixup, .8 },
        { r.cutmix, 1 }, { r.mix_switch, .5 }, { r.mix_probability, 1 }, { r.erase_probability, .25 }, { r.erase_zeros, 0 }, { r.clip, 0 },
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        CHECK_MSG(fabs(values[i].is - values[i].paper) <= 1e-12 * values[i].paper, "value %zu: %.17g, not %g", i, values[i].is,
                  values[i].paper);
    CHECK_STR(r.optimizer, "adamw");
    CHECK_STR(r.schedule, "cosine");
}
