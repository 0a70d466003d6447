/* feature.h - the inside of kd_loss_feature, and how a method between features is written.
 * SPDX-License-Identifier: MIT
 *
 * A method is one file with a kd__feature_method and a FEATURE line in methods.def.  sp.c is one without adapters, fitnet.c one
 * with.  The driver (feature.c, feature_run.c) has checked everything a method sees: counts, shapes and types of what the
 * descriptor and `needs` ask for; weight and warm-up are applied behind it; rows >= 1.  Maps are [n, height, width, channels].
 *
 *   static kd_status core(const kd__core *c, double *value)   // value and gradients at once, hand-written
 *   {
 *       ... c->x[0], c->grad[0] (NULL: nobody wants it; else fill all of it, not cleared) ...
 *       *value = ...;
 *       return KD_OK;
 *   }
 *   static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in)
 *   {
 *       kd_tensor *s = kd__adapter_forward(loss, tape, "reg0", in->student[0]);
 *       return kd__core_run(tape, "fitnet", (kd_tensor *[]){ s, in->teacher[0] }, 2, core, loss);
 *   } */
#ifndef KD__FEATURE_H
#define KD__FEATURE_H
#include "autograd/tape_internal.h"
#include "kd/distill.h"
#include "nn/nn.h"

/* What a method needs beside taps; a mask is always given on if there is one. */
enum { KD__NEEDS_LABELS = 1, KD__NEEDS_INDICES = 2, KD__NEEDS_STUDENT_LOGITS = 4, KD__NEEDS_TEACHER_LOGITS = 8,
       KD__TAKES_LOGITS = 16 };   /* of both sides, each if it is there */

/* A batch as a method sees it.  Teacher tensors and the mask are constants. */
typedef struct kd__feature_in {
    size_t            rows;                                     /* >= 1 */
    kd_tensor *const *student, *const *teacher;                 /* f32, of the descriptor's counts and shapes */
    const int64_t    *labels, *indices;                        /* [rows] or NULL; in [0, classes), [0, samples) if these are set */
    kd_tensor        *mask;                                     /* f32 [rows, tokens] or NULL */
    kd_tensor        *student_logits, *teacher_logits;          /* f32 [rows, classes] or NULL */
} kd__feature_in;

typedef struct kd__feature_method {
    const char *formula;   /* one line */
    uint32_t    needs;     /* KD__NEEDS_* */
    /* The paper's numbers into a descriptor that has method, weight 1 and temperature 1; NULL: these are it. */
    void      (*defaults)(kd_loss_feature_desc *desc);
    /* Refuse counts, shapes and numbers it cannot serve: kd__feature_misfit and its kin below.  May fill in what 0 stands for
     * (width, negatives).  Ranks, sizes >= 1, weight and temperature were checked. */
    kd_status (*check)(kd_loss_feature_desc *desc);
    /* Build the adapters under root (the builders' errors are the model's); NULL: none. */
    void      (*adapters)(const kd_loss_feature_desc *desc, kd_layer *root);
    /* Floats of a state of its own (loss->state, zeroed, in checkpoints, as is loss->counter); NULL: none. */
    size_t    (*state_floats)(const kd_loss_feature_desc *desc);
    /* Once, with adapters and state there: first values, e.g. drawn from desc.seed; NULL: nothing to do. */
    kd_status (*begin)(kd_loss_feature *loss);
    /* The loss of a batch before weight and warm-up: a scalar of the tape, or poison. */
    kd_tensor *(*apply)(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in);
    uint32_t    forms;     /* how many KD_FORM_*; 0: one */
    bool        draws;     /* from the tape's random stream: counter[0] keeps the place of the one that eval on pointers has */
    size_t    (*mask_width)(const kd_loss_feature_desc *desc);   /* columns of the mask; NULL: tokens of the first student tap */
} kd__feature_method;

struct kd_loss_feature {
    kd_context               *ctx;
    kd_loss_feature_desc      desc;        /* its arrays are in `memory` */
    const kd__feature_method *method;
    const char               *name;        /* "fitnet" */
    kd__arena                 memory;      /* copies of the descriptor's arrays */
    kd_model                 *adapters;    /* NULL: the method has none */
    size_t                    state_floats;
    float                    *state;       /* the method's own; written by its apply only on TRAIN tapes */
    uint64_t                 *counter;     /* [4], the method's own: drawn numbers, batches seen */
    uint64_t                  advances;
    kd__monitor              *lock;        /* of the private tape: kd_loss_feature_eval, one at a time */
    kd_tape                  *tape;
};

/* ---- feature.c -------------------------------------------------------------------------------------------------- */
/* weight * min((advances + 1) / warmup, 1) */
double kd__feature_factor(const kd_loss_feature *loss);
/* How many elements a tap has for one row. */
size_t kd__feature_size(const kd_feature_shape *shape);
bool   kd__feature_shape_same(const kd_feature_shape *a, const kd_feature_shape *b);
/* For `check`: KD_ERR_SHAPE "student tap i [..] and teacher tap i [..]: text".  The driver puts function and method in front. */
kd_status kd__feature_misfit(const kd_loss_feature_desc *desc, size_t i, const char *text);
/* At least `least` taps on each side, as many on the one as on the other, each of a rank whose bit (1 << rank) is in `ranks`. */
kd_status kd__feature_pairs(const kd_loss_feature_desc *desc, size_t least, uint32_t ranks);
/* As kd__feature_pairs, and each pair with the same shape. */
kd_status kd__feature_equal_pairs(const kd_loss_feature_desc *desc, size_t least, uint32_t ranks);
/* Of a checkpoint: method, advances, counter, state, adapters' weights and buffers.  size and write give them as they are now;
 * check (of as many bytes) says whether a state may be read; read, after it, cannot fail. */
size_t    kd__feature_state_size(const kd_loss_feature *loss);
void      kd__feature_state_write(const kd_loss_feature *loss, uint8_t *out);
kd_status kd__feature_state_check(const kd_loss_feature *loss, const uint8_t *in);
void      kd__feature_state_read(kd_loss_feature *loss, const uint8_t *in);

/* ---- feature_run.c ---------------------------------------------------------------------------------------------- */
/* x through the adapters' child at a dotted path. */
kd_tensor *kd__adapter_forward(const kd_loss_feature *loss, kd_tape *tape, const char *path, kd_tensor *x);
/* A parameter or buffer of the adapters: "var0", "log_scale". */
kd_tensor *kd__adapter_parameter(const kd_loss_feature *loss, const char *path, const char *name);

/* One op with a hand-written value and gradient. */
typedef struct kd__core {
    kd_context       *ctx;        /* threads (kd__parallel), scratch */
    const kd__kernels *kernels;
    size_t            count;      /* inputs, at most 16 */
    kd_tensor *const *in;         /* contiguous; shapes */
    const float      *x[16];      /* their data; NULL where the input was NULL */
    float            *grad[16];   /* d value / d in[i]: fill all of it, it is not cleared; NULL: nobody wants it */
    const void       *user;
} kd__core;
typedef kd_status (*kd__core_fn)(const kd__core *c, double *value);
/* Run it and record it: a scalar.  Inputs are f32 or NULL; any of them that wants a gradient gets it, a trained adapter's output
 * on the teacher's side too.  name is for error texts; `user` is needed during the call only. */
kd_tensor *kd__core_run(kd_tape *tape, const char *name, kd_tensor *const *in, size_t count, kd__core_fn core, const void *user);
/* The sum over pairs of taps of `core` on student[i], teacher[i] and the mask (NULL without one), in this order; user is the
 * descriptor. */
kd_tensor *kd__core_pairs(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in, kd__core_fn core);
/* a + b; b alone if a is NULL: for sums over taps. */
kd_tensor *kd__feature_add(kd_tape *tape, kd_tensor *a, kd_tensor *b);

/* ---- feature_rows.c: losses that are a sum over pairs of taps, and over rows ------------------------------------------- */
typedef struct kd__pair { const kd_loss_feature *loss; size_t i; } kd__pair;   /* the core's `user` */
/* Adapters and pooling of pair i, before its core. */
typedef void (*kd__pair_fn)(const kd_loss_feature *loss, kd_tape *tape, size_t i, kd_tensor **s, kd_tensor **t);
/* The sum over pairs of `core` on what `prepare` makes of student[i], teacher[i]. */
kd_tensor *kd__each_pair(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in, kd__pair_fn prepare,
                         kd__core_fn core);
/* A kd__pair_fn: the larger map pooled to the smaller, height and width each on its own. */
void       kd__match_maps(const kd_loss_feature *loss, kd_tape *tape, size_t i, kd_tensor **s, kd_tensor **t);
/* Pairs of maps of equal height and width; does a pair's student have other channels, so that it needs an adapter; a kd__pair_fn:
 * the student's map through it. */
kd_status  kd__same_size_pairs(const kd_loss_feature_desc *desc);
bool       kd__pair_adapted(const kd_loss_feature_desc *desc, size_t i);
void       kd__adapt_channels(const kd_loss_feature *loss, kd_tape *tape, size_t i, kd_tensor **s, kd_tensor **t);
/* "s0", the adapter of pair 0. */
const char *kd__pair_name(char name[24], size_t i);
/* There: "0", a 1x1 convolution without bias, "1", batch norm. */
void       kd__conv1x1_bn(kd_layer *root, size_t i, size_t in, size_t out);
/* row(core, r, scratch, value) for each r < rows as tasks, with `bytes` of scratch each; *value = the sum of the values in order.
 * A row returns false when out of memory, the one error it can have. */
typedef bool (*kd__core_row_fn)(const kd__core *c, size_t r, void *scratch, double *value);
kd_status  kd__core_rows(const kd__core *c, size_t rows, size_t bytes, kd__core_row_fn row, double *value);
/* Sums of squares d^2 over pairs l, by factor 2^(l - L + 1) / B: a row puts its differences d where its gradient goes (`scratch`
 * without one) and then takes its value from _row_squares, which makes the gradient of them. */
static inline float kd__keep(float x, bool keep)   /* x or 0, without a branch: where signs are a coin's toss */
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0u - (uint32_t)keep;
    memcpy(&x, &bits, sizeof bits);
    return x;
}
kd_status  kd__core_squares(const kd__core *c, kd__core_row_fn row, double *value);
double     kd__row_squares(const kd__core *c, float *d, size_t n, double factor);

/* ---- feature_layers.c: adapters of several methods, and what they draw ----------------------------------------------------- */
/* A block that holds parameters and layers, and is not run itself. */
kd_layer  *kd__holder(kd_layer *parent, const char *name);
/* A 1x1 convolution where `shape` is a map's, else a linear layer; a k x k one that keeps the size. */
void       kd__point_layer(kd_layer *parent, const char *name, const kd_feature_shape *shape, size_t in, size_t out, bool bias);
kd_layer  *kd__same_conv(kd_layer *parent, const char *name, size_t in, size_t out, size_t k, bool bias);
/* "generation": 3x3, ReLU, 3x3. */
void       kd__generator(kd_layer *parent, size_t channels);
/* "0" to "8": 1x1, 3x3, 1x1 without bias, batch norm and ReLU behind each, behind the last one only if norm_last. */
void       kd__projector(kd_layer *sequence, size_t in, size_t width, size_t out, bool norm_last);
/* floor(share n), where a share of .7 is meant and not the float below it. */
size_t     kd__share(float share, size_t n);
/* Constants drawn from the tape's random stream, as kd_dropout does: 0 with probability p, else 1; [rows, tokens] with `masked`
 * zeros in each row, each choice as likely as another. */
kd_tensor *kd__draw_keep(kd_tape *tape, size_t rank, const size_t *shape, float p);
kd_tensor *kd__draw_tokens(kd_tape *tape, size_t rows, size_t tokens, size_t masked);
/* scale sqrt(sum w (a - b)^2), gradient 0 at 0; w a constant for each leading row of a, or NULL. */
kd_tensor *kd__distance(kd_tape *tape, const char *name, kd_tensor *a, kd_tensor *b, kd_tensor *w, float scale);

/* CC, CRD: "s0.linear" and "t0.linear", the flattened taps 0 to `width`; run them. */
void       kd__embed_pair(const kd_loss_feature_desc *desc, kd_layer *root);
void       kd__embed_pair_forward(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in, kd_tensor *e[2]);
/* In place: g, the gradient of rows [n, w] divided by their lengths `norm`, becomes that of the rows; 0 for zero rows. */
void       kd__unit_backward(const kd__kernels *k, size_t n, size_t w, const float *unit, const float *norm, float *g);

/* minilm.c: weight times the mean over heads and valid tokens of KL(softmax t || softmax s), over rows of scores
 * {heads, tokens, tokens} as they are, or of X X^T / sqrt(d) of each head's d columns X of tokens {tokens, width}; does such
 * a pair fit? */
typedef struct kd__relation { size_t heads; double weight; } kd__relation;
kd_tensor *kd__relation_kl(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in, size_t tap, size_t heads,
                           float weight);
kd_status  kd__relation_fits(const kd_loss_feature_desc *desc, size_t tap, size_t heads, size_t tokens);

/* ---- feature_ops.c: pieces of several methods ------------------------------------------------------------------------ */
/* RepDistiller's ConvReg below root, from a student map [s, s, c] to a teacher's [t, t, d]: 3x3 of stride 2 (s = 2t), transposed
 * 4x4 of stride 2 (2s = t), else k = 1 + s - t, without padding; + batch norm, + ReLU if wanted.  False: there is none for these
 * shapes. */
bool       kd__conv_reg_fits(const kd_feature_shape *student, const kd_feature_shape *teacher);
void       kd__conv_reg(kd_layer *root, const char *name, const kd_feature_shape *student, const kd_feature_shape *teacher,
                        bool relu);
/* Run it: as kd__adapter_forward, the spreading in front of a transposed convolution included. */
kd_tensor *kd__conv_reg_forward(const kd_loss_feature *loss, kd_tape *tape, const char *name, kd_tensor *x, size_t tap);
/* Maps [n, h, w, c] to [n, oh, ow, c]: means over PyTorch's adaptive windows; nearest neighbours, floor(i h / oh); zeros between
 * the pixels, (h - 1) step + 1. */
kd_tensor *kd__adaptive_avg_pool(kd_tape *tape, kd_tensor *x, size_t oh, size_t ow);
kd_tensor *kd__upsample_nearest(kd_tape *tape, kd_tensor *x, size_t oh, size_t ow);
kd_tensor *kd__spread(kd_tape *tape, kd_tensor *x, size_t step);
/* out [n, n] = X X^T of X [n, d] on ctx's threads. */
kd_status  kd__gram(kd_context *ctx, const float *x, size_t n, size_t d, float *out);
/* dx [n, d] (=) (G + G^T) X, where G is d / d (X X^T); G becomes G + G^T. */
kd_status  kd__gram_backward(kd_context *ctx, float *g, const float *x, size_t n, size_t d, float *dx);
/* Where differences of rows are what counts, so that nothing cancels: X minus its mean row (mean [d] is an output; out may be x),
 * its Gram matrix in double (rows `stride` apart), and |x_i - x_j|^2 from that; equal rows are exactly 0. */
void       kd__centre(const kd__kernels *k, const float *x, size_t n, size_t d, float *mean, float *out);
void       kd__gram_f64(kd_context *ctx, const float *x, size_t n, size_t d, double *out, size_t stride);
double     kd__gram_distance(const double *gram, size_t stride, size_t i, size_t j);

/* A method by its number; NULL if there is none.  name may be NULL. */
const kd__feature_method *kd__feature_find(uint32_t method, const char **name);
#define DISTILL(id, name, source)
#define FEATURE(id, name, source) extern const kd__feature_method kd__feature_##id;
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE
#endif
