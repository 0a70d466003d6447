/* vision.h - the parts that distill_vision is made of.
 * SPDX-License-Identifier: MIT */
#ifndef VISION_H
#define VISION_H
#include <kd.h>
#include <stddef.h>
#include <stdint.h>

#define TRY(call) do { if ((st = (call)) != KD_OK) goto done; } while (0)
enum { TEXT = 512, MAX_MILESTONES = 16 };

/* A complaint of the program itself; kd_last_error() is the library's.  `complain` returns `st`. */
kd_status complain(kd_status st, const char *format, ...);
const char *complaint(void);   /* what was said last, here or in the library */

/* ---- recipe.c: how a network is trained ------------------------------------------------------------------------------------ */
/* kind, key, default, least, most, what it is.  NUMBER: a double; a default of NAN: not given, the method's own; COUNT: a whole one. */
#define RECIPE(NUMBER, COUNT, WORD) \
    COUNT(epochs, 15, 1, 100000, "passes over the training images") \
    COUNT(batch, 64, 1, 65536, "images a step") \
    WORD(optimizer, "sgd", "sgd adamw", "which one") \
    NUMBER(lr, .1, 0, 1000, "the highest learning rate") \
    COUNT(lr_batch, 0, 0, 65536, "lr is for so many images a step: lr batch / lr_batch is taken; 0: lr as it is") \
    NUMBER(momentum, .9, 0, .9999, "of SGD") \
    COUNT(nesterov, 1, 0, 1, "of SGD") \
    NUMBER(weight_decay, 5e-4, 0, 10, "of all weights") \
    COUNT(decay_vectors, 1, 0, 1, "0: biases, norms and tokens do not decay") \
    NUMBER(clip, 0, 0, 1e9, "largest norm of the gradient; 0: any") \
    WORD(schedule, "cosine", "cosine multi_step constant", "after the warm-up") \
    NUMBER(warmup_epochs, 3, 0, 100000, "of linear warm-up") \
    NUMBER(warmup_start, .04, 0, 1, "first learning rate, as a part of lr") \
    NUMBER(final_factor, 0, 0, 1, "last learning rate, as a part of lr (cosine)") \
    NUMBER(gamma_step, .1, 0, 1, "factor at each milestone") \
    WORD(milestones, "150,180,210", NULL, "epochs, for multi_step") \
    NUMBER(label_smoothing, 0, 0, .99, "of the true labels, after mixing: this much of each goes to all classes") \
    NUMBER(ema, 0, 0, .999999, "decay of averaged weights, which are then tested and saved; 0: none") \
    NUMBER(drop_path, 0, 0, .9, "stochastic depth of transformers") \
    COUNT(crop_padding, 4, 0, 64, "pixels of zeros before a random crop") \
    NUMBER(crop_area, 0, 0, 1, "resized crops: of this to all of an image's area; 0: none") \
    COUNT(flip, 1, 0, 1, "left-right, with probability 1/2") \
    NUMBER(mixup, 0, 0, 10, "alpha of mix-up: pairs of images blended, their labels as well; 0: none") \
    NUMBER(cutmix, 0, 0, 10, "alpha of CutMix: pairs of images exchange a box, labels by its area; 0: none") \
    NUMBER(mix_switch, .5, 0, 1, "with mixup and cutmix: a batch's probability of CutMix") \
    NUMBER(mix_probability, 1, 0, 1, "of a batch to be mixed at all") \
    NUMBER(erase_probability, 0, 0, 1, "of an image to lose a rectangle") \
    COUNT(erase_zeros, 0, 0, 1, "1: the rectangle becomes zeros, 0: noise") \
    COUNT(randaugment_ops, 0, 0, 16, "RandAugment: operations drawn for an image; 0: none") \
    NUMBER(randaugment_magnitude, 9, 0, 10, "how strong they are") \
    NUMBER(randaugment_noise, .5, 0, 10, "deviation of the magnitude") \
    COUNT(repeats, 1, 1, 64, "repeated augmentation: each image so often in a row; an epoch holds 1 of repeats of them") \
    NUMBER(checkpoint_seconds, 120, 0, 1e6, "between checkpoints") \
    NUMBER(protocol_epochs, 240, 1, 100000, "what warm-ups and first stages of methods are counted in: they shrink with epochs") \
    NUMBER(kd_weight, 0, 0, 100, "Hinton's term beside a feature method") \
    NUMBER(temperature, NAN, 1e-3, 1e3, "of the method; not given: its paper's, as are the next") \
    NUMBER(hard_weight, NAN, 0, 1e6, "of the true labels") \
    NUMBER(soft_weight, NAN, 0, 1e6, "of the teacher's outputs") \
    NUMBER(feature_weight, NAN, 0, 1e9, "of a feature method") \
    NUMBER(alpha, NAN, -1e9, 1e9, "of the method, see its page") \
    NUMBER(beta, NAN, -1e9, 1e9, "of the method, see its page") \
    NUMBER(gamma, NAN, -1e9, 1e9, "of the method, see its page")

typedef struct recipe {
#define NUMBER(key, ...) double key;
#define WORD(key, ...)   char key[64];
    RECIPE(NUMBER, NUMBER, WORD)
#undef NUMBER
#undef WORD
} recipe;
void recipe_defaults(recipe *r);
/* "key = value" */
kd_status recipe_set(recipe *r, const char *assignment, const char *where);
/* A file of such lines, '#' begins a comment.  What stands behind a line "[teacher]" is for the teacher only. */
kd_status recipe_read(recipe *student, recipe *teacher, const char *path);
/* All keys and values, a line each; what --keys prints with the explanations. */
void recipe_format(const recipe *r, char *out, size_t cap);
void recipe_explain(void);

/* ---- images.c: where images come from -------------------------------------------------------------------------------------- */
typedef struct images {
    kd_dataset *train, *test;
    size_t      classes, height, width;    /* as networks see them */
    float       mean[3], std[3];
} images;
/* cifar10:PATH, cifar100:PATH: the folder of the binary records.  folder:PATH: PATH/train/CLASS/IMAGE and PATH/test, or PATH/val; with
 * a side they become side x side: the middle or crops of what is kept at keep x keep (0: side). */
kd_status images_open(images *out, const char *spec, size_t side, size_t keep);
void      images_close(images *d);
/* A loader of the training images as the recipe says, or of the test images in their order. */
kd_status images_train(kd_loader **out, kd_context *ctx, const images *d, const recipe *r, uint64_t seed);
kd_status images_test(kd_loader **out, kd_context *ctx, const images *d);

/* ---- networks.c: networks by name, and where to tap them ------------------------------------------------------------------- */
/* A name of the zoo, or vit:image=32,patch=4,width=96,depth=6,heads=3,mlp_ratio=4,distilled=1,dropout=0 (image: the data's). */
kd_status network_create(kd_model **out, kd_context *ctx, const char *name, const images *d, double drop_path, uint64_t seed);
/* Where the features of the literature are: stem, the stages, and the pooled vector. */
typedef struct network_taps {
    char   stem[64], stage[4][64], pool[64];
    char   pre[4][64];                         /* the stages before their ReLU; the stages themselves where there is none */
    char   map[64];                            /* the map that pool is the mean of; "" where there is none */
    size_t stages;
    char   classifier[64];                     /* "fc": <classifier>.weight, .bias */
    char   last_norm[4][64];                   /* the batch norm that ends each stage, for its margins; "" without */
    int    tokens;                             /* stages, pool are [n, tokens, width]; pool is the first token of its tap */
    size_t prefix;                             /* tokens in front of the grid's */
    int    distilled;                          /* a second head, "head_dist" */
} network_taps;
/* KD_ERR_ARG: a network of no known family. */
kd_status network_taps_of(network_taps *out, const char *name, kd_model *model);

/* ---- method.c: what one method needs of the networks, and its loss --------------------------------------------------------- */
typedef struct method method;
typedef struct method_setup {
    kd_context   *ctx;
    const char   *name;                    /* a line of methods.def, or "alone" */
    const char   *student_name, *teacher_name;
    kd_model     *student, *teacher, *second_teacher;   /* no teacher: NULL; they stay the caller's */
    const images *data;
    const recipe *recipe;
    uint64_t      seed;
} method_setup;
/* KD_ERR_ARG names what does not fit: a method that has no place in these networks. */
kd_status method_create(method **out, const method_setup *setup);
void      method_free(method *m);
/* Training comes in phases, most methods have one.  Each has epochs of its own; optimizer and loader begin anew. */
size_t    method_phases(const method *m);
size_t    method_epochs(const method *m, size_t phase);
kd_status method_begin(method *m, size_t phase);
/* The models that the phase's optimizer must hold, at most 6 (no method has more than 4); returns how many. */
size_t    method_trains(method *m, kd_model **models);
/* Those that method_logits reads, the student or what stands in its place first: what is averaged and saved (at most 6); what each is
 * in a word, "" of the first; returns how many. */
size_t    method_tested(method *m, kd_model **models, const char **parts);
/* A glob of parameters that must not decay in this phase (no gradient reaches them), for kd_optimizer_group; or NULL. */
const char *method_no_decay(const method *m);
/* Everything but student, optimizer, loader and tapes, the same in every phase. */
kd_status method_checkpoint(method *m, kd_checkpoint *cp);
/* Forward and loss of a batch, the same x for student and teacher; *logits: the student's, NULL where it does not learn (ft's first
 * phase).  y: i32 [batch], or f32 [batch, classes] where images are mixed.  `items`: the images' numbers. */
kd_tensor *method_loss(method *m, kd_tape *learn, kd_tape *look, kd_tensor *x, kd_tensor *y, const uint32_t *items,
                       kd_tensor **logits);
kd_status method_advance(method *m);       /* an epoch has passed */
/* The outputs that are tested, on an INFER tape. */
kd_tensor *method_logits(method *m, kd_tape *tape, kd_tensor *x);
const char *method_note(const method *m);  /* what differs from the paper, or NULL */

/* ---- train.c --------------------------------------------------------------------------------------------------------------- */
typedef struct score { double top1, top5, agreement, loss; } score;   /* percent; agreement with the teacher or NAN */
/* A network's class of each test image, [images]; the caller frees it. */
kd_status answers_of(size_t **out, kd_context *ctx, const images *d, kd_model *model);
/* On the test images; either of m, model: outputs as the method tests them, or the model's own.  teacher: its answers, or NULL. */
kd_status score_of(score *out, kd_context *ctx, const images *d, method *m, kd_model *model, const size_t *teacher);
typedef struct training {
    kd_context   *ctx;
    const images *data;
    const recipe *recipe;
    method       *method;
    kd_model     *student, *teacher;
    const char   *folder;     /* checkpoint, best.safetensors, last.safetensors, curves.csv, curves.svg */
    const char   *settings;   /* what the run consists of: a folder of another run is refused */
    const char   *label;      /* for the progress line */
    uint64_t      seed;
} training;
/* Train to the end, from where the folder left off; already finished: load the weights only. */
kd_status train(const training *t, score *last, double *best, double *spent);
#endif
