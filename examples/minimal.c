/* minimal.c - a complete distillation in one page: train a teacher, let it teach a student.
 * SPDX-License-Identifier: MIT
 *     cc minimal.c -lkd -lm -pthread && ./a.out digits-images.idx digits-labels.idx */
#include <kd.h>
#include <stdio.h>
#define TRY(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)

/* Teach `student` for some epochs; with no teacher it learns from the labels alone. */
static kd_status teach(kd_model *student, kd_model *teacher, const kd_dataset *data, int epochs)
{
    kd_loss_distill *loss = NULL;  kd_optimizer *opt = NULL;  kd_loader *batches = NULL;
    kd_tape *look = NULL, *learn = NULL;              /* the teacher looks, the student learns */
    kd_tensor *x, *y, *t = NULL;
    kd_loss_distill_desc how;  kd_optimizer_desc sgd;  kd_loader_desc order;
    kd_status st;
    kd_loss_distill_desc_init(&how, sizeof how);      /* T = 4, 0.1 CE + 0.9 T^2 KL */
    if (!teacher) how.hard_weight = 1, how.soft_weight = 0;
    kd_optimizer_desc_init(&sgd, sizeof sgd);
    sgd.lr = 0.05f;
    kd_loader_desc_init(&order, sizeof order);
    order.scale = 1.0f / 16;                          /* the digits' pixels are 0 to 16 */
    TRY(kd_loss_distill_create(&loss, NULL, &how));
    TRY(kd_optimizer_create(&opt, NULL, &sgd));  TRY(kd_optimizer_add(opt, student));
    TRY(kd_loader_create(&batches, NULL, data, &order));
    TRY(kd_tape_create(&look, NULL, KD_TAPE_INFER));
    TRY(kd_tape_create(&learn, NULL, KD_TAPE_TRAIN));
    for (int epoch = 0; epoch < epochs; epoch++) {
        while ((st = kd_loader_next(batches, &x, &y)) == KD_OK) {
            if (teacher) t = kd_model_forward(teacher, look, x);
            kd_tensor *s = kd_model_forward(student, learn, x);
            kd_tensor *l = kd_loss_distill_apply(loss, learn, s, t, y);
            TRY(kd_backward(learn, l));
            TRY(kd_optimizer_step(opt));
            if (kd_optimizer_steps(opt) % 200 == 0) printf("loss %.4f\n", kd_tensor_item(l));
            kd_tape_reset(learn);  kd_tape_reset(look);   /* a pointer moves; nothing is freed */
        }
        if (st != KD_END) goto done;
    }
    st = KD_OK;
done:
    kd_tape_free(learn);  kd_tape_free(look);  kd_loader_free(batches);  kd_optimizer_free(opt);  kd_loss_distill_free(loss);
    return st;
}

int main(int argc, char **argv)
{
    kd_dataset *data = NULL;  kd_model *teacher = NULL, *student = NULL;  kd_status st = KD_ERR_ARG;
    if (argc != 3) return fprintf(stderr, "usage: minimal IMAGES.idx LABELS.idx\n"), 2;
    TRY(kd_dataset_open_idx(&data, NULL, argv[1], argv[2]));
    TRY(kd_zoo_mlp(&teacher, NULL, (size_t[]){ 64, 256, 256, 10 }, 4, KD_ACT_RELU, 1));
    TRY(kd_zoo_mlp(&student, NULL, (size_t[]){ 64, 16, 10 }, 3, KD_ACT_RELU, 2));
    TRY(teach(teacher, NULL, data, 20));
    TRY(teach(student, teacher, data, 20));
    TRY(kd_model_save(student, "student.safetensors"));
done:
    if (st != KD_OK) fprintf(stderr, "minimal: %s\n", kd_last_error());
    kd_model_free(student);  kd_model_free(teacher);  kd_dataset_free(data);
    return st != KD_OK;
}
