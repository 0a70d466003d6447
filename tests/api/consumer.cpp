// consumer.cpp - a C++ program on libkd: a teacher's logits teach a linear student for a few steps.  Built by install_matrix.sh.
// SPDX-License-Identifier: MIT
#include <kd.h>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

namespace {
void must(kd_status status)
{
    if (status != KD_OK) throw std::runtime_error(kd_last_error());
}
template <auto release> struct releaser {
    template <typename T> void operator()(T *object) const { release(object); }
};
template <typename T, auto release> using handle = std::unique_ptr<T, releaser<release>>;
}

int main()
try {
    constexpr std::size_t rows = 64, inputs = 8, classes = 4;
    kd_rng rng = kd_rng_make(1);
    std::vector<float> x(rows * inputs), teacher(rows * classes);
    for (float &v : x) v = kd_rng_normal(&rng);
    for (std::size_t r = 0; r < rows; r++)
        for (std::size_t c = 0; c < classes; c++) teacher[r * classes + c] = 3 * x[r * inputs + c] - x[r * inputs + c + classes];

    kd_model *m = nullptr;
    const std::size_t sizes[] = { inputs, classes };
    must(kd_zoo_mlp(&m, nullptr, sizes, 2, KD_ACT_NONE, 1));
    handle<kd_model, kd_model_free> student(m);
    kd_loss_distill_desc how;
    kd_loss_distill_desc_init(&how, sizeof how);
    how.hard_weight = 0;
    kd_loss_distill *l = nullptr;
    must(kd_loss_distill_create(&l, nullptr, &how));
    handle<kd_loss_distill, kd_loss_distill_free> loss(l);
    kd_optimizer_desc adam;
    kd_optimizer_desc_init(&adam, sizeof adam);
    adam.method = KD_OPT_ADAM;
    adam.lr = 0.05f;
    kd_optimizer *o = nullptr;
    must(kd_optimizer_create(&o, nullptr, &adam));
    handle<kd_optimizer, kd_optimizer_free> optimizer(o);
    must(kd_optimizer_add(o, m));
    kd_tape *t = nullptr;
    must(kd_tape_create(&t, nullptr, KD_TAPE_TRAIN));
    handle<kd_tape, kd_tape_free> tape(t);

    double first = 0, last = 0;
    for (int step = 0; step < 100; step++) {
        const std::size_t in[] = { rows, inputs }, out[] = { rows, classes };
        kd_tensor *y = kd_model_forward(m, t, kd_tape_constant(t, 2, in, x.data()));
        kd_tensor *value = kd_loss_distill_apply(l, t, y, kd_tape_constant(t, 2, out, teacher.data()), nullptr);
        must(kd_backward(t, value));
        last = kd_tensor_item(value);
        if (step == 0) first = last;
        must(kd_optimizer_step(o));
        kd_tape_reset(t);
    }
    std::printf("libkd %s: loss %g, then %g\n", kd_version_string(), first, last);
    return last < first / 20 ? 0 : 1;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
