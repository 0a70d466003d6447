/* test_schedule.c - learning-rate factors against PyTorch's schedulers and against libm.
 * SPDX-License-Identifier: MIT */
#include "kdtest.h"
#include "../golden/optim_golden.h"
#include "ref_optim.h"
#include <math.h>

static kd_schedule_desc make(uint32_t kind)
{
    kd_schedule_desc d;
    kd_schedule_desc_init(&d, sizeof d);
    d.kind = kind;
    return d;
}

TEST(as_pytorch)
{
    for (size_t s = 0; s < sizeof golden_schedules / sizeof *golden_schedules; s++) {
        const struct golden_schedule *g = &golden_schedules[s];
        kd_schedule_desc d = make(g->kind);
        d.gamma = g->gamma;
        d.period = g->period;
        d.total_steps = g->total;
        d.final_factor = g->final;
        d.warmup_start = g->warmup_start;
        d.warmup_steps = g->warmup_steps;
        d.milestones = g->milestones;
        d.milestone_count = g->milestone_count;
        for (uint64_t t = 0; t < GOLDEN_FACTORS; t++) {
            double got = kd_schedule_factor(&d, t);
            CHECK_MSG(fabs(got - g->factor[t]) <= 1e-12, "schedule %zu, step %llu: %.17g, PyTorch has %.17g", s,
                      (unsigned long long)t, got, g->factor[t]);
        }
    }
}

TEST(cosine_against_libm_and_its_end)
{
    kd_schedule_desc d = make(KD_SCHEDULE_COSINE);
    for (uint64_t total = 1; total < 3000; total = total * 3 + 1) {
        d.total_steps = total;
        d.final_factor = 0.25f;
        for (uint64_t s = 0; s <= total + 5; s++)
            CHECK_NEAR(kd_schedule_factor(&d, s), ref_cosine_factor((double)s, (double)total, 0.25), 1e-15);
        CHECK(kd_schedule_factor(&d, 0) == 1 && kd_schedule_factor(&d, total) == 0.25);
        CHECK(kd_schedule_factor(&d, UINT64_MAX) == 0.25);
    }
}

/* Bits that every machine must compute. */
TEST(recorded_bits)
{
    kd_schedule_desc d = make(KD_SCHEDULE_COSINE);
    d.total_steps = 977;
    d.final_factor = 0.01f;
    d.warmup_steps = 31;
    uint64_t hash = 0;
    for (uint64_t s = 0; s < 1020; s++) {
        double f = kd_schedule_factor(&d, s);
        hash = hash * 31 + kdtest_hash(&f, sizeof f);
    }
    CHECK_MSG(hash == 0x8ae262319a47b4cdull, "0x%016llx", (unsigned long long)hash);
}

TEST(edges)
{
    kd_schedule_desc d = make(KD_SCHEDULE_CONSTANT);
    CHECK(kd_schedule_factor(&d, 0) == 1 && kd_schedule_factor(&d, UINT64_MAX) == 1);
    d.warmup_steps = 4;
    CHECK(kd_schedule_factor(&d, 0) == 0 && kd_schedule_factor(&d, 1) == 0.25 && kd_schedule_factor(&d, 4) == 1);
    d = make(KD_SCHEDULE_STEP);
    d.gamma = 0;
    d.period = 3;
    CHECK(kd_schedule_factor(&d, 2) == 1 && kd_schedule_factor(&d, 3) == 0);
    d = make(KD_SCHEDULE_LINEAR);
    d.total_steps = 4;
    d.final_factor = 2;   /* growing is allowed */
    CHECK(kd_schedule_factor(&d, 1) == 1.25 && kd_schedule_factor(&d, 9) == 2);
}

TEST(errors)
{
    kd_schedule_desc d;
    uint64_t milestones[65] = { 3, 2 };
#define BAD(which, change, part)                   \
    do {                                           \
        d = make(which);                           \
        change;                                    \
        CHECK(isnan(kd_schedule_factor(&d, 1)));   \
        CHECK_ERROR_HAS(part);                     \
    } while (0)
    BAD(0, (void)0, "kind");
    BAD(6, (void)0, "kind");
    BAD(KD_SCHEDULE_STEP, (void)0, "period");
    BAD(KD_SCHEDULE_COSINE, (void)0, "total_steps");
    BAD(KD_SCHEDULE_LINEAR, (void)0, "total_steps");
    BAD(KD_SCHEDULE_CONSTANT, d.gamma = NAN, "gamma");
    BAD(KD_SCHEDULE_CONSTANT, d.final_factor = -1, "final_factor");
    BAD(KD_SCHEDULE_CONSTANT, d.warmup_start = INFINITY, "warmup_start");
    BAD(KD_SCHEDULE_MULTI_STEP, d.milestone_count = 2, "milestones is NULL");
    BAD(KD_SCHEDULE_MULTI_STEP, (d.milestones = milestones, d.milestone_count = 2), "number 1, 2, is before number 0, 3");
    BAD(KD_SCHEDULE_MULTI_STEP, (d.milestones = milestones, d.milestone_count = 65), "at most 64");
    BAD(KD_SCHEDULE_CONSTANT, d.struct_size = 3, "struct_size");
#undef BAD
    CHECK(isnan(kd_schedule_factor(NULL, 0)));
}
