/* kd/model.h - kd_model: a tree of named layers with its parameters in one block; and the zoo.
 * SPDX-License-Identifier: MIT
 *
 * Build: kd_model_create, add layers to kd_model_root(), kd_model_finish.  Builders are sticky: they never return
 * NULL, the first error poisons the model, kd_model_finish reports it.  Names are dotted paths
 * ("layer3.0.conv1.weight"), the same that PyTorch uses for the same architecture.
 *
 * Use: kd_model_forward on any tape.  Train or infer is the tape's mode.  Training one model from two threads at
 * once is not allowed; INFER forwards of one model from several threads, each with its own tape, are. */
#ifndef KD_MODEL_H
#define KD_MODEL_H
#include "tape.h"
KD_BEGIN_DECLS

/* A tree of layers, one block of parameters, one of gradients, one of buffers. */
typedef struct kd_model kd_model;
typedef struct kd_layer kd_layer;   /* a node of a model's tree; the model owns it */

/* An empty model.  KD_ERR_ARG, KD_ERR_NOMEM. */
KD_API KD_MUST_USE kd_status kd_model_create(kd_model **out, kd_context *ctx);
/* The root: a sequence.  Poison layer if model is NULL. */
KD_API kd_layer *kd_model_root(kd_model *model);
/* Allocate one parameter block, one gradient block and the buffers; initialise every parameter as its layer says from
 * streams of `seed` (one per parameter, so adding a layer does not change the others).  After it layers can no longer
 * be added.  Returns the first error of the builders.  A second call is KD_ERR_STATE. */
KD_API KD_MUST_USE kd_status kd_model_finish(kd_model *model, uint64_t seed);
/* Free the model, its layers and its parameters.  NULL is fine. */
KD_API void kd_model_free(kd_model *model);
/* A second model of the same architecture with the same parameters, buffers, taps and input normalisation; not frozen, its
 * gradients zero.  User blocks share their `user`.  KD_ERR_STATE before kd_model_finish. */
KD_API KD_MUST_USE kd_status kd_model_clone(kd_model **out, const kd_model *model);

/* Run the model.  Returns a tensor of `tape`, never NULL (poison on error, naming the layer: "layer1.0.conv1: ...").
 * What layers hand to each other gives its memory back as soon as neither a later layer nor kd_backward reads it; the result
 * and tapped outputs stay until reset. */
KD_API kd_tensor *kd_model_forward(kd_model *model, kd_tape *tape, kd_tensor *x);

/* ---- layers.  `parent` is a container or block; `name` is one path component, unique in its parent, or NULL:
 * the layer's position ("0", "1", ..), as PyTorch's Sequential names them.  Names are 1 to 100 letters, digits, '_' or '-';
 * trees are at most 32 deep. --------------------------------------------------------------------------------- */
/* Activations by number; formulas as the ops of the same name. */
#define KD_ACT_NONE       0u   /* x itself   */
#define KD_ACT_RELU       1u
#define KD_ACT_LEAKY_RELU 2u   /* slope 0.01 */
#define KD_ACT_GELU       3u
#define KD_ACT_GELU_TANH  4u
#define KD_ACT_SILU       5u
#define KD_ACT_SIGMOID    6u
#define KD_ACT_TANH       7u
#define KD_ACT_SOFTPLUS   8u

/* parameters: weight [in, out], bias [out].  PyTorch's default initialisation (uniform, bound 1 / sqrt(in), both). */
KD_API kd_layer *kd_layer_linear(kd_layer *parent, const char *name, size_t in, size_t out, int32_t bias);
/* A kh x kw or k wide convolution: kd_conv2d, kd_conv1d.  weight [kh, kw, in / groups, out] or [k, in / groups, out], bias
 * [out]; desc NULL: stride 1, padding 0.  Default initialisation: uniform, bound 1 / sqrt(kh kw in / groups). */
KD_API kd_layer *kd_layer_conv2d(kd_layer *parent, const char *name, size_t in, size_t out, size_t kh, size_t kw,
                                 int32_t bias, const kd_conv_desc *desc);
KD_API kd_layer *kd_layer_conv1d(kd_layer *parent, const char *name, size_t in, size_t out, size_t k, int32_t bias,
                                 const kd_conv_desc *desc);
/* weight, bias [channels] (1, 0), buffers running_mean, running_var (0, 1).  PyTorch: momentum 0.1, eps 1e-5. */
KD_API kd_layer *kd_layer_batch_norm(kd_layer *parent, const char *name, size_t channels, float momentum, float eps);
/* weight, bias [features] or [channels] (1, 0): kd_layer_norm, kd_group_norm.  groups divides channels. */
KD_API kd_layer *kd_layer_layer_norm(kd_layer *parent, const char *name, size_t features, float eps);
KD_API kd_layer *kd_layer_group_norm(kd_layer *parent, const char *name, size_t groups, size_t channels, float eps);
/* The activation of that number, KD_ACT_*. */
KD_API kd_layer *kd_layer_activation(kd_layer *parent, const char *name, uint32_t activation);
/* kd_max_pool2d and kd_avg_pool2d with square windows. */
KD_API kd_layer *kd_layer_max_pool2d(kd_layer *parent, const char *name, uint32_t window, uint32_t stride, uint32_t padding);
KD_API kd_layer *kd_layer_avg_pool2d(kd_layer *parent, const char *name, uint32_t window, uint32_t stride, uint32_t padding);
/* [n, h, w, c] -> [n, c], the mean over h and w. */
KD_API kd_layer *kd_layer_global_avg_pool(kd_layer *parent, const char *name);
/* [n, h, w, c] -> [n, h w c], features innermost.  (PyTorch's flatten of an image is in the order c, h, w: the rows of a linear
 * layer trained behind it must be permuted.) */
KD_API kd_layer *kd_layer_flatten(kd_layer *parent, const char *name);
/* kd_dropout: on TRAIN tapes each element is 0 with probability p, in [0, 1). */
KD_API kd_layer *kd_layer_dropout(kd_layer *parent, const char *name, float p);
/* i32 or i64 ids in [0, count) -> their rows of weight [count, width], initialised from the standard normal as PyTorch does. */
KD_API kd_layer *kd_layer_embedding(kd_layer *parent, const char *name, size_t count, size_t width);
/* How many recurrent layers, and which way they run. */
typedef struct kd_rnn_desc {
    size_t   struct_size;
    uint32_t layers;           /* on top of each other; default 1                                                   */
    uint32_t bidirectional;    /* 1: a second run from the last step to the first beside each; default 0            */
    uint32_t bias;             /* default 1                                                                         */
    float    dropout;          /* TRAIN: of what goes from one layer to the next, in [0, 1); default 0              */
} kd_rnn_desc;
/* Fill `desc` with the defaults; struct_size is sizeof *desc. */
KD_API void kd_rnn_desc_init(kd_rnn_desc *desc, size_t struct_size);
/* x [n, t, in] -> [n, t, hidden], or with both directions [n, t, 2 hidden], forward first.  Parameters with the names, order and
 * initialisation of PyTorch's nn.LSTM and nn.GRU (batch_first): weight_ih_l0 [in, gates hidden], weight_hh_l0 [hidden, gates
 * hidden], bias_ih_l0, bias_hh_l0 [gates hidden], then the same with "_reverse", then _l1 ..; uniform, bound 1 / sqrt(hidden).
 * First states are zeros: for others, and for the last ones, kd_lstm and kd_gru in a block.  desc NULL: all defaults. */
KD_API kd_layer *kd_layer_lstm(kd_layer *parent, const char *name, size_t in, size_t hidden, const kd_rnn_desc *desc);
KD_API kd_layer *kd_layer_gru(kd_layer *parent, const char *name, size_t in, size_t hidden, const kd_rnn_desc *desc);
/* [n, t, c] -> [n, c], the last step: what classifies a sequence. */
KD_API kd_layer *kd_layer_last_step(kd_layer *parent, const char *name);

/* ---- containers: add their children with the container as parent ------------------------------------------------ */
/* Its children one after the other. */
KD_API kd_layer *kd_layer_sequence(kd_layer *parent, const char *name);
/* activation(children in sequence (x) + shortcut(x)); shortcut is x itself unless kd_layer_shortcut adds layers to it. */
KD_API kd_layer *kd_layer_residual(kd_layer *parent, const char *name, uint32_t activation);
/* The shortcut of a residual: a sequence named `name` ("downsample", "shortcut"). */
KD_API kd_layer *kd_layer_shortcut(kd_layer *residual, const char *name);
/* How a parallel container joins the results of its children. */
#define KD_JOIN_SUM    1u   /* shapes equal         */
#define KD_JOIN_CONCAT 2u   /* along the last axis */
/* Every child gets x; their results are joined.  1 to 16 children. */
KD_API kd_layer *kd_layer_parallel(kd_layer *parent, const char *name, uint32_t join);

/* ---- a block of your own: a C function over ops, with named parameters and children ------------------------------- */
/* What a block is: a function, and what it works with. */
typedef struct kd_block_desc {
    size_t      struct_size;
    const char *type;   /* for summaries: "attention"; copied */
    /* Return a tensor of `tape`.  self's parameters: kd_layer_parameter; children: kd_layer_child + kd_layer_forward.
     * On an INFER tape everything else made in here goes back when it returns; on others it, and x, stay until reset. */
    kd_tensor *(*forward)(kd_layer *self, kd_tape *tape, kd_tensor *x, void *user);
    void       (*free)(void *user);   /* called once when the last model with this block goes, or at once when the block
                                         cannot be made; NULL is fine */
    void       *user;     /* comes back in both */
} kd_block_desc;
/* Add a block; `desc` is copied.  Parameters and children are added to what it returns. */
KD_API kd_layer *kd_layer_block(kd_layer *parent, const char *name, const kd_block_desc *desc);

/* How a parameter begins.  fan_in = in (kh kw in / groups), fan_out = out (kh kw out / groups: PyTorch's own helper takes kh
 * kw out). A bias has the fans of its weight; a parameter of a block is taken as [.., in, out]. */
#define KD_INIT_ZEROS           1u
#define KD_INIT_ONES            2u
#define KD_INIT_CONSTANT        3u   /* a                                               */
#define KD_INIT_UNIFORM         4u   /* [a, b)                                          */
#define KD_INIT_NORMAL          5u   /* mean a, standard deviation b                    */
#define KD_INIT_TRUNC_NORMAL    6u   /* the same, redrawn outside 2 standard deviations */
#define KD_INIT_KAIMING_UNIFORM 7u   /* bound gain sqrt(3 / fan_in); gain = sqrt(2 / (1 + a^2)) */
#define KD_INIT_KAIMING_NORMAL  8u   /* std gain / sqrt(fan_out) when b is 1, fan_in when 0      */
#define KD_INIT_XAVIER_UNIFORM  9u   /* bound a sqrt(6 / (fan_in + fan_out))             */
#define KD_INIT_XAVIER_NORMAL  10u   /* std a sqrt(2 / (fan_in + fan_out))               */
#define KD_INIT_FAN_IN_UNIFORM 11u   /* bound a / sqrt(fan_in): PyTorch's default for linear and conv with a = 1 */
/* A parameter of a block (rank >= 1), and a buffer: state that is saved but not trained.  Only before kd_model_finish. */
KD_API void kd_layer_add_parameter(kd_layer *layer, const char *name, size_t rank, const size_t *shape, uint32_t init,
                                   float a, float b);
KD_API void kd_layer_add_buffer(kd_layer *layer, const char *name, size_t rank, const size_t *shape, float value);
/* After finish: the tensor of a parameter or buffer of this layer by its own name ("weight"); NULL if there is none. */
KD_API kd_tensor *kd_layer_parameter(kd_layer *layer, const char *name);
/* The layer at `path` below this one, "0.conv1"; NULL if there is none. */
KD_API kd_layer *kd_layer_child(kd_layer *layer, const char *path);
/* Run one layer with what is below it, inside a block's forward.  Never NULL; poison on error. */
KD_API kd_tensor *kd_layer_forward(kd_layer *layer, kd_tape *tape, kd_tensor *x);
/* The full dotted path; "" for the root.  Lives as long as the model. */
KD_API const char *kd_layer_path(const kd_layer *layer);

/* ---- taps: outputs of inner layers ---------------------------------------------------------------------------------- */
/* Ask that the output of the layer at `path` be kept after each forward; "path:pre" for a residual's sum before its
 * activation, where path is a residual or a sequence that ends in one.  KD_ERR_ARG names the nearest existing path. */
KD_API KD_MUST_USE kd_status kd_model_tap(kd_model *model, const char *path);
/* That output of the last forward on `tape`: a tensor of the tape; poison (KD_ERR_STATE) if not tapped or no forward. */
KD_API kd_tensor *kd_model_tapped(const kd_model *model, kd_tape *tape, const char *path);

/* ---- parameters ---------------------------------------------------------------------------------------------------------- */
/* What a parameter is, which says how files store it. */
#define KD_PARAM_PLAIN  0u   /* stored in files as it is                                   */
#define KD_PARAM_LINEAR 1u   /* [in, out] here, [out, in] in files                          */
#define KD_PARAM_CONV   2u   /* [kh, kw, in, out] here, [out, in, kh, kw] in files; 1-d alike */
#define KD_PARAM_BUFFER 8u   /* or-ed in: not trained                                       */
/* One parameter or buffer of a model. */
typedef struct kd_param_info {
    size_t      struct_size;
    const char *name;        /* "layer1.0.conv1.weight"; lives as long as the model            */
    kd_tensor  *tensor;      /* the model's; write through it, then kd_model_touch             */
    float      *grad;        /* its part of the gradient block; NULL for a buffer              */
    uint32_t    kind;        /* KD_PARAM_*                                                     */
    uint32_t    reserved;
    size_t      offset;      /* of its first float in the parameter block (or buffer block)    */
} kd_param_info;
/* Parameters and buffers together. */
KD_API size_t kd_model_parameter_count(const kd_model *model);
/* Parameters in the tree's order (a layer's own, then its children's), then buffers; _find by name.  out->struct_size,
 * set by the caller, says how it was compiled: sizeof *out.  KD_ERR_ARG: no such entry; _find names the nearest. */
KD_API KD_MUST_USE kd_status kd_model_parameter_at(const kd_model *model, size_t i, kd_param_info *out);
KD_API KD_MUST_USE kd_status kd_model_find(const kd_model *model, const char *name, kd_param_info *out);
/* Numbers to train: elements of all parameters, without buffers or padding. */
KD_API size_t kd_model_size(const kd_model *model);
/* The contiguous blocks, `*count` floats each: every parameter begins at a multiple of 16, the gaps are zeros.  For
 * all-reduce, hashing, your own optimizer.  After writing weights call kd_model_touch. */
KD_API float *kd_model_weights(kd_model *model, size_t *count);
KD_API float *kd_model_grads(kd_model *model, size_t *count);
KD_API float *kd_model_buffers(kd_model *model, size_t *count);
/* A number for the present bits of all parameters, then buffers: FNV-1a (64 bits) over their floats as 32-bit words, in
 * kd_model_parameter_at's order, gaps left out.  The same on every machine; to see that processes which train together still hold
 * one model.  0 if model is NULL or not finished.  Not while another thread writes them. */
KD_API uint64_t kd_model_hash(const kd_model *model);
/* The gradient of the parameter `name`, contiguous, shaped like it; NULL if there is none. */
KD_API const float *kd_model_grad(const kd_model *model, const char *name);
/* All gradients = 0; kd_optimizer_step does it after each step. */
KD_API void kd_model_zero_grads(kd_model *model);
/* Weights were written from outside: whatever was derived from them is stale. */
KD_API void kd_model_touch(kd_model *model);
/* Frozen: no gradients reach the parameters, and batch norm uses and keeps its running statistics on any tape. */
KD_API void kd_model_freeze(kd_model *model, int32_t frozen);
/* 1 if frozen, else 0. */
KD_API int32_t kd_model_frozen(const kd_model *model);
/* Set `algorithm` (KD_CONV_*, kd/tape.h) of every convolution of the model: KD_CONV_WINOGRAD4 makes a frozen teacher's
 * forwards faster and a little less exact; KD_CONV_DEFAULT takes it back.  Not saved with the model.  KD_ERR_ARG, KD_ERR_STATE
 * before kd_model_finish. */
KD_API KD_MUST_USE kd_status kd_model_set_convolution(kd_model *model, uint32_t algorithm);
/* Initialise again every parameter whose name matches the glob ('*' any run, '?' one character), from streams of `seed`.
 * KD_ERR_ARG if none matches. */
KD_API KD_MUST_USE kd_status kd_model_initialize(kd_model *model, const char *pattern, uint32_t init, float a, float b,
                                                 uint64_t seed);
/* Parameters and buffers of src into dst: names and shapes must agree (KD_ERR_SHAPE names the first that does not;
 * dst is then unchanged). */
KD_API KD_MUST_USE kd_status kd_model_copy(kd_model *dst, const kd_model *src);

/* The input normalisation the model was trained with: forward computes (x - mean[c]) / std[c] over the last axis first, so
 * that teacher and student each see raw images their own way.  Saved with the model.  channels 0 removes it. */
KD_API KD_MUST_USE kd_status kd_model_set_input_norm(kd_model *model, size_t channels, const float *mean, const float *std);

/* A table: layer, type, output shape, parameters, multiply-adds, and totals, for an input of this shape (its first size
 * is the batch).  Runs one INFER forward on zeros.  Writes and returns as kd_tensor_format; 0 on error. */
KD_API size_t kd_model_summary(kd_model *model, size_t rank, const size_t *input_shape, char *out, size_t cap);

/* ---- files: safetensors, tensors in PyTorch's layout under their dotted names, buffers included ------------------------- */
/* Write the model.  Atomic: the old file or the new one, never a part.  KD_ERR_IO. */
KD_API KD_MUST_USE kd_status kd_model_save(const kd_model *model, const char *path);
/* Flags of kd_model_load. */
#define KD_LOAD_STRICT     0u   /* the file holds exactly the model's names              */
#define KD_LOAD_MISSING_OK 1u   /* parameters the file lacks keep their values          */
#define KD_LOAD_EXTRA_OK   2u   /* tensors the model lacks are passed over               */
#define KD_LOAD_RESIZE_POSITIONS 4u   /* "pos_embed" of another grid is interpolated (bicubic, as timm does) */
/* Read weights and buffers into a finished model, all or nothing.  KD_ERR_SHAPE / KD_ERR_FORMAT list the names that are
 * missing, unexpected or of another shape, as many as there is room for and the number of the others; the context's log has all
 * at KD_LOG_INFO.  "num_batches_tracked" entries are always passed over.  f16, bf16, f64 tensors are converted; KD_ERR_DTYPE for
 * other types. */
KD_API KD_MUST_USE kd_status kd_model_load(kd_model *model, const char *path, uint32_t flags);

/* ---- the zoo: finished models ----------------------------------------------------------------------------------------------- */
/* A perceptron: linear layers fc1, fc2, .. of sizes[0] -> .. -> sizes[count - 1] with `activation` between them (not after the
 * last). Inputs of higher rank are flattened first. */
KD_API KD_MUST_USE kd_status kd_zoo_mlp(kd_model **out, kd_context *ctx, const size_t *sizes, size_t count,
                                        uint32_t activation, uint64_t seed);
/* The sizes of a small convolutional network. */
typedef struct kd_cnn_desc {
    size_t   struct_size;
    size_t   height, width, channels;   /* of the image; defaults 28, 28, 1           */
    size_t   conv1, conv2, hidden;      /* 3x3 convolutions, then a linear; defaults 32, 64, 128 */
    size_t   classes;                   /* default 10                                 */
    uint32_t batch_norm;                /* 1: after each convolution; default 0       */
    float    dropout;                   /* before the last linear; default 0          */
} kd_cnn_desc;
/* Fill `desc` with the defaults; struct_size is sizeof *desc. */
KD_API void kd_cnn_desc_init(kd_cnn_desc *desc, size_t struct_size);
/* conv1 3x3 pad 1, relu, max pool 2, conv2 3x3 pad 1, relu, max pool 2, fc1, relu, fc2. */
KD_API KD_MUST_USE kd_status kd_zoo_cnn(kd_model **out, kd_context *ctx, const kd_cnn_desc *desc, uint64_t seed);
/* ResNet for 32x32 images (He et al. 2016, section 4.2): depth 6n + 2; widths 16, 32, 64 times `widen` (1; 4 for "32x4", with
 * stem 32).  conv1, bn1, layer1..3.i.{conv1,bn1,conv2,bn2,downsample.0,downsample.1}, avgpool, fc: the names usual
 * for CIFAR distillation, 1x1 projections where the shape changes, Kaiming normal (fan out) initialisation. */
KD_API KD_MUST_USE kd_status kd_zoo_resnet_cifar(kd_model **out, kd_context *ctx, size_t depth, size_t widen, size_t classes,
                                                 uint64_t seed);
/* Wide residual network for 32x32 images (Zagoruyko, Komodakis 2016): depth 6n + 4; widths 16, 32, 64 times `widen`.  conv1,
 * block1..3.layer.i.{bn1,conv1,bn2,conv2,convShortcut}, bn1, fc. */
KD_API KD_MUST_USE kd_status kd_zoo_wrn(kd_model **out, kd_context *ctx, size_t depth, size_t widen, size_t classes,
                                        uint64_t seed);
/* An architecture by its name, one of kd_zoo_name, for colour images.  For 32x32 images, with the names and arithmetic usual for
 * CIFAR distillation: "resnet8" .. "resnet110", "resnet8x4", "resnet32x4" (kd_zoo_resnet_cifar), "resnet20_a" .. "resnet110_a"
 * (shortcuts without parameters: every second pixel, zeros for new channels; the classifier is `linear`), "wrn_16_2" ..
 * (kd_zoo_wrn), "vgg8" .. "vgg19" (batch norm), "mobilenetv2", "mobilenetv2_half" (half as wide), "shufflenetv1" (groups 3),
 * "shufflenetv2" (1x).  For ImageNet, with torchvision's names: "resnet18" .. "resnet152"; with timm's: "regnety_002" ..
 * "regnety_008".  All these end in a mean over what is left of height and width, so other sizes may go in.
 * Vision transformers, not in kd_zoo_name's list: MODEL_SIZE_patchP_IMAGE, where MODEL is vit or deit, SIZE tiny, small, base, or for
 * deit tiny_distilled .., P and IMAGE any sizes that kd_zoo_vit takes: "deit_small_distilled_patch16_224", "vit_tiny_patch4_32".
 * KD_ERR_ARG names the nearest. */
KD_API KD_MUST_USE kd_status kd_zoo_create(kd_model **out, kd_context *ctx, const char *name, size_t classes, uint64_t seed);
/* How many names there are, and the i-th; NULL beyond the last. */
KD_API size_t kd_zoo_count(void);
KD_API const char *kd_zoo_name(size_t i);
/* The sizes of a vision transformer. */
typedef struct kd_vit_desc {
    size_t   struct_size;
    size_t   image, patch, channels;    /* square images, cut into image / patch squares a side; defaults 224, 16, 3 */
    size_t   width, depth, heads;       /* defaults 192, 12, 3: Ti; S is 384, 12, 6; B is 768, 12, 12               */
    size_t   mlp_ratio;                 /* of the hidden width to width; default 4                                  */
    size_t   classes;                   /* default 1000                                                             */
    uint32_t distilled;                 /* 1: DeiT's distillation token and its head; default 0                     */
    float    drop_path;                 /* TRAIN: a sample's branch left out, up to this in the last block; default 0 */
    float    dropout;                   /* TRAIN: behind positions and linear layers; default 0                     */
} kd_vit_desc;
/* Fill `desc` with the defaults; struct_size is sizeof *desc. */
KD_API void kd_vit_desc_init(kd_vit_desc *desc, size_t struct_size);
/* ViT (Dosovitskiy et al. 2021) and DeiT (Touvron et al. 2021): pre-norm blocks, eps 1e-6, GELU; x [n, image, image, channels].
 * Names and initialisation of timm: cls_token, dist_token, pos_embed, patch_embed.proj, blocks.0.{norm1, attn.qkv, attn.proj, norm2,
 * mlp.fc1, mlp.fc2} .., norm, head, head_dist.  A distilled model gives the mean of both heads; on TRAIN tapes the logits of
 * `head`, and kd_model_tapped(.., "head_dist") those of the other, for student_second of kd_loss_distill. */
KD_API KD_MUST_USE kd_status kd_zoo_vit(kd_model **out, kd_context *ctx, const kd_vit_desc *desc, uint64_t seed);

KD_END_DECLS
#endif
