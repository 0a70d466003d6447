/* logits_only.c - your own network, libkd's loss: value and gradient on plain pointers, no tensors.
 * SPDX-License-Identifier: MIT
 *
 * The student here is a hand-written linear softmax classifier; whatever produces logits and takes a gradient with
 * respect to them can stand in its place. */
#include <kd.h>
#include <stdio.h>

enum { ROWS = 64, INPUTS = 4, CLASSES = 3, STEPS = 300 };

/* logits[r][c] = sum_i x[r][i] w[i][c] */
static void forward(float x[ROWS][INPUTS], float w[INPUTS][CLASSES], float logits[ROWS][CLASSES])
{
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < CLASSES; c++) {
            logits[r][c] = 0;
            for (int i = 0; i < INPUTS; i++) logits[r][c] += x[r][i] * w[i][c];
        }
}

int main(void)
{
    static float x[ROWS][INPUTS], student[ROWS][CLASSES], teacher[ROWS][CLASSES], grad[ROWS][CLASSES];
    float student_w[INPUTS][CLASSES] = { { 0 } }, teacher_w[INPUTS][CLASSES];
    int32_t labels[ROWS];
    kd_loss_distill *loss = NULL;
    kd_rng rng = kd_rng_make(7);

    /* A teacher that knows, inputs, and a label on every fourth row only: the others are unlabelled. */
    for (int i = 0; i < INPUTS; i++)
        for (int c = 0; c < CLASSES; c++) teacher_w[i][c] = 2 * kd_rng_normal(&rng);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < INPUTS; i++) x[r][i] = kd_rng_normal(&rng);
    forward(x, teacher_w, teacher);
    for (int r = 0; r < ROWS; r++) {
        labels[r] = 0;
        for (int c = 1; c < CLASSES; c++)
            if (teacher[r][c] > teacher[r][labels[r]]) labels[r] = c;
        if (r % 4) labels[r] = -1;
    }

    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.temperature = 2;
    how.unlabelled_index = -1;
    if (kd_loss_distill_create(&loss, NULL, &how) != KD_OK) goto failed;

    kd_distill_batch batch = { .struct_size = sizeof batch };
    batch.rows = ROWS;
    batch.classes = CLASSES;
    batch.student = &student[0][0];
    batch.teacher = &teacher[0][0];
    batch.labels = labels;
    batch.grad = &grad[0][0];
    kd_distill_terms terms = { .struct_size = sizeof terms };
    for (int step = 0; step <= STEPS; step++) {
        forward(x, student_w, student);
        if (kd_loss_distill_eval(loss, &batch, &terms) != KD_OK) goto failed;
        for (int i = 0; i < INPUTS; i++)
            for (int c = 0; c < CLASSES; c++)
                for (int r = 0; r < ROWS; r++) student_w[i][c] -= 0.5f * x[r][i] * grad[r][c];
        if (step % 100 == 0)
            printf("step %3d  loss %.5f  CE %.5f over %zu labelled rows  T^2 KL %.5f over %zu rows\n", step, terms.loss,
                   terms.hard, terms.hard_rows, terms.soft, terms.soft_rows);
    }
    kd_loss_distill_free(loss);
    return 0;
failed:
    fprintf(stderr, "logits_only: %s\n", kd_last_error());
    kd_loss_distill_free(loss);
    return 1;
}
