/* nn.h - the inside of kd_model: the tree, its parameters, and how a layer is written.
 * SPDX-License-Identifier: MIT
 *
 * A layer is a builder and a forward, side by side, plus one line in layers.def:
 *
 *   kd_layer *kd_layer_linear(kd_layer *parent, const char *name, size_t in, size_t out, int32_t bias)
 *   {
 *       kd_layer *self = kd__layer_new(parent, name, KD__LAYER_linear, __func__);
 *       if (kd__layer_is_poison(self)) return self;
 *       if (!in) return kd__layer_fail(self, KD_ERR_ARG, "%s: in is 0", __func__);
 *       kd__layer_param(self, "weight", ...);                    // slot 0
 *       return kd__layer_done(self);
 *   }
 *   kd_tensor *kd__layer_run_linear(kd_layer *self, kd_tape *tape, kd_tensor *x)
 *   {
 *       return kd_linear(tape, x, kd__slot(self, 0), kd__slot(self, 1));
 *   }
 *
 * A forward only reads the model: any number of INFER tapes may run it at once. */
#ifndef KD__NN_H
#define KD__NN_H
#include "autograd/tape_internal.h"
#include "kd/model.h"

#define KD__MAX_DEPTH 32        /* of the tree */
#define KD__MAX_NAME 100        /* bytes of one path component */
#define KD__MAX_PARALLEL 16     /* children of a parallel */

typedef enum kd__layer_type {
#define LAYER(name, takes_children) KD__LAYER_##name,
#include "nn/layers.def"
#undef LAYER
    KD__LAYER_COUNT             /* the type of a poison layer */
} kd__layer_type;

typedef struct kd__init { uint32_t kind; float a, b; } kd__init;   /* KD_INIT_* */

/* A parameter or buffer. */
typedef struct kd__param {
    struct kd__param *next;     /* of the same layer */
    kd_layer   *layer;
    const char *name, *path;    /* "weight", "fc1.weight" */
    uint32_t    kind;           /* KD_PARAM_* */
    kd__init    init;
    size_t      fan_in, fan_out;
    size_t      offset;         /* in its block, floats; from kd_model_finish on, as is tensor.data */
    kd_tensor   tensor;
} kd__param;

/* What all clones of a user-defined block share. */
typedef struct kd__user_block {
    _Atomic uint32_t references;
    kd_block_desc    desc;
    char             type[32];
} kd__user_block;

struct kd_layer {
    kd_model   *model;
    kd_layer   *parent, *first, *last, *next;
    const char *name, *path;
    kd__layer_type type;
    uint32_t    depth;
    size_t      children;          /* without the shortcut */
    size_t      index;             /* order of creation */
    bool        is_shortcut;       /* of its parent, a residual */
    bool        tap_out, tap_pre;  /* asked for; their addresses are the tape's keys for the tensors */
    kd__param  *first_param, *last_param;
    kd__packed  packed;            /* weights of a frozen model, as the kernels read them */
    kd__param  *slot[4];           /* the first parameters, in the order they were added */
    union {
        kd_conv_desc    conv;
        kd_rnn_desc     rnn;
        struct { float momentum, eps; uint32_t groups; } norm;
        struct { uint32_t window[2], stride[2], padding[2]; } pool;
        uint32_t        activation;   /* activation, residual */
        uint32_t        join;
        float           p;
        struct { size_t heads; float drop_path, dropout; } vit;
        kd__user_block *block;
    } u;
};

struct kd_model {
    kd_context *ctx;
    kd__arena   arena;            /* layers, names, parameter records */
    kd_layer   *root;
    kd_layer    poison;
    kd_status   status;           /* sticky, of the builders */
    char        text[512];
    bool        finished, frozen;
    bool        held;             /* an optimizer has it: kd_optimizer_add */
    kd__monitor *lock;            /* of the layers' packed weights */
    uint64_t    version;          /* grows whenever weights were written */
    size_t      layer_count;
    kd__param **entries;          /* parameters in tree order, then buffers */
    size_t      entry_count, parameter_count;
    float      *weights, *grads, *buffers;
    size_t      weight_floats, buffer_floats;   /* padding included */
    size_t      size;             /* elements of all parameters */
    size_t      norm_channels;    /* input normalisation; 0: none */
    float      *norm;             /* mean [channels], std [channels] */
    kd_tensor   norm_mean, norm_std;
};

/* The sum at the end of a residual, which the last op of its branch may do. */
typedef struct kd__join {
    kd_layer  *residual;
    kd_layer  *shortcut;        /* NULL: x itself */
    kd_tensor *x;
    bool       done;            /* it was done, and the residual's activation too */
} kd__join;

/* ---- layer.c ----------------------------------------------------------------------------------------------- */
/* A new layer under `parent`; the poison of its model when that cannot be (the model then has the error, text led by
 * the path and `function`). */
kd_layer *kd__layer_new(kd_layer *parent, const char *name, kd__layer_type type, const char *function);
static inline bool kd__layer_is_poison(const kd_layer *layer) { return layer->type == KD__LAYER_COUNT; }
/* Make the error the model's if it is the first.  Returns the model's poison layer. */
kd_layer *kd__layer_fail(kd_layer *layer, kd_status status, const char *format, ...);
/* The layer, or poison if its model has an error: how a builder ends. */
kd_layer *kd__layer_done(kd_layer *layer);
/* Add a parameter or buffer; fans are what initialisers divide by.  Errors are the model's. */
void kd__layer_param(kd_layer *layer, const char *name, size_t rank, const size_t *shape, uint32_t kind, kd__init init,
                     size_t fan_in, size_t fan_out);
/* Change how a parameter of a layer begins, before kd_model_finish.  A poison layer is left alone. */
void kd__layer_set_init(kd_layer *layer, const char *name, uint32_t kind, float a, float b);
static inline kd_tensor *kd__slot(kd_layer *layer, size_t i) { return layer->slot[i] ? &layer->slot[i]->tensor : NULL; }
/* For summaries: "conv2d", "relu", a block's own word. */
const char *kd__layer_type_name(const kd_layer *layer);
/* Zeroed memory that lives as long as the model; NULL (and the model's sticky error) when out. */
void *kd__model_alloc(kd_model *model, size_t bytes);
/* The layer at a dotted path below `layer`; NULL, without error text, if there is none. */
kd_layer *kd__layer_at(kd_layer *layer, const char *path, size_t length);
/* The tree in order: the layer after `layer` within `top`; NULL after the last. */
kd_layer *kd__layer_next(const kd_layer *top, kd_layer *layer);
/* The layer's packed weights for this forward: NULL unless the model is frozen and nothing is recorded. */
static inline kd__packed *kd__layer_packed(kd_layer *layer, const kd_tape *tape)
{
    return layer->model->frozen && tape->mode == KD_TAPE_INFER ? &layer->packed : NULL;
}
/* May `layer` run on x?  False: the tape is poisoned. */
bool kd__layer_may_run(const kd_layer *layer, kd_tape *tape, const kd_tensor *x);
/* Children one after the other, without the shortcut.  Each result goes back once the next is there. */
kd_tensor *kd__forward_children(kd_layer *self, kd_tape *tape, kd_tensor *x, kd__join *join);

/* ---- layer_chain.c: neighbours that run as one op --------------------------------------------------------------- */
/* The layers from `first` on that one op can do, with the bits of each by itself: a convolution or linear layer, batch norm, ReLU;
 * and, behind the last child of a residual, its sum and ReLU.  Returns the last of them and their result in *y; NULL when
 * `first` must run alone. */
kd_layer *kd__chain_forward(kd_layer *first, kd_tape *tape, kd_tensor *x, kd__join *join, kd_tensor **y);
/* Give x back unless it is one of the two that stay. */
void kd__release_unless(kd_tape *tape, kd_tensor *x, const kd_tensor *stays, const kd_tensor *stays_too);
/* Keep y until reset under `key` (the address of a tap flag), if that flag is set. */
void kd__tap_store(kd_tape *tape, const bool *flag, kd_tensor *y);

#define LAYER(name, takes_children) kd_tensor *kd__layer_run_##name(kd_layer *self, kd_tape *tape, kd_tensor *x);
#include "nn/layers.def"
#undef LAYER

/* ---- layer_activation.c ---------------------------------------------------------------------------------------- */
/* Apply KD_ACT_*; KD_ACT_NONE returns x. */
kd_tensor *kd__activate(kd_tape *tape, uint32_t activation, kd_tensor *x);
/* "relu"; NULL for an unknown value. */
const char *kd__activation_name(uint32_t activation);

/* ---- layer_block.c ------------------------------------------------------------------------------------------------ */
void kd__user_block_release(kd_context *ctx, kd__user_block *block);

/* ---- init.c ---------------------------------------------------------------------------------------------------------- */
/* KD_ERR_ARG if `init` is not a KD_INIT_* or its numbers make no sense. */
kd_status kd__init_check(const char *function, kd__init init);
/* Fill the parameter from its own stream of `seed`. */
void kd__init_fill(kd_context *ctx, const kd__param *param, kd__init init, uint64_t seed);

/* ---- model_params.c --------------------------------------------------------------------------------------------- */
void kd__model_touch(kd_model *model);
/* The input normalisation; false if the model has none. */
bool kd__model_input_norm(const kd_model *model, size_t *channels, const float **mean, const float **std);

/* ---- tap.c ------------------------------------------------------------------------------------------------------------- */
/* Insertions, deletions and changes between two texts: for "did you mean". */
size_t kd__edit_distance(const char *a, const char *b);
#endif
