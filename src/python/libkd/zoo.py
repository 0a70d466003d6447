"""zoo - finished models, by name.  Made by src/python/gen_api.py; do not edit.

SPDX-License-Identifier: MIT
"""
from __future__ import annotations

from ctypes import byref, c_void_p
from typing import Sequence

from ._native import check, constant, describe, encode, lib, size_array
from .context import Context
from .model import Model


def mlp(sizes: Sequence[int], activation: str | int = "relu", seed: int = 0, *, context: Context | None = None) -> Model:
    """A perceptron: linear layers fc1, fc2, .. of sizes[0] -> .. -> sizes[count - 1] with `activation` between them (not
    after the last). Inputs of higher rank are flattened first.

    C: kd_zoo_mlp
    """
    model = c_void_p()
    check(lib.kd_zoo_mlp(byref(model), Context._of(context), size_array(sizes), len(sizes), constant("KD_ACT_", activation),
            seed))
    return Model._adopt(model.value, context)


def cnn(seed: int = 0, *, height: int | None = None, width: int | None = None, channels: int | None = None,
        conv1: int | None = None, conv2: int | None = None, hidden: int | None = None, classes: int | None = None,
        batch_norm: int | None = None, dropout: float | None = None, context: Context | None = None) -> Model:
    """conv1 3x3 pad 1, relu, max pool 2, conv2 3x3 pad 1, relu, max pool 2, fc1, relu, fc2.

        height: of the image; defaults 28, 28, 1
        width: of the image; defaults 28, 28, 1
        channels: of the image; defaults 28, 28, 1
        conv1: 3x3 convolutions, then a linear; defaults 32, 64, 128
        conv2: 3x3 convolutions, then a linear; defaults 32, 64, 128
        hidden: 3x3 convolutions, then a linear; defaults 32, 64, 128
        classes: default 10
        batch_norm: 1: after each convolution; default 0
        dropout: before the last linear; default 0

    C: kd_zoo_cnn
    """
    desc, keep = describe("kd_cnn_desc", height=height, width=width, channels=channels, conv1=conv1, conv2=conv2, hidden=hidden,
            classes=classes, batch_norm=batch_norm, dropout=dropout)
    model = c_void_p()
    check(lib.kd_zoo_cnn(byref(model), Context._of(context), byref(desc), seed))
    return Model._adopt(model.value, context)


def resnet_cifar(depth: int, widen: int = 1, classes: int = 10, seed: int = 0, *, context: Context | None = None) -> Model:
    """ResNet for 32x32 images (He et al. 2016, section 4.2): depth 6n + 2; widths 16, 32, 64 times `widen` (1; 4 for "32x4",
    with stem 32).  conv1, bn1, layer1..3.i.{conv1,bn1,conv2,bn2,downsample.0,downsample.1}, avgpool, fc: the names usual
    for CIFAR distillation, 1x1 projections where the shape changes, Kaiming normal (fan out) initialisation.

    C: kd_zoo_resnet_cifar
    """
    model = c_void_p()
    check(lib.kd_zoo_resnet_cifar(byref(model), Context._of(context), depth, widen, classes, seed))
    return Model._adopt(model.value, context)


def wrn(depth: int, widen: int, classes: int = 10, seed: int = 0, *, context: Context | None = None) -> Model:
    """Wide residual network for 32x32 images (Zagoruyko, Komodakis 2016): depth 6n + 4; widths 16, 32, 64 times `widen`.
    conv1, block1..3.layer.i.{bn1,conv1,bn2,conv2,convShortcut}, bn1, fc.

    C: kd_zoo_wrn
    """
    model = c_void_p()
    check(lib.kd_zoo_wrn(byref(model), Context._of(context), depth, widen, classes, seed))
    return Model._adopt(model.value, context)


def create(name: str, classes: int = 10, seed: int = 0, *, context: Context | None = None) -> Model:
    """An architecture by its name, one of kd_zoo_name, for colour images.  For 32x32 images, with the names and arithmetic
    usual for CIFAR distillation: "resnet8" .. "resnet110", "resnet8x4", "resnet32x4" (kd_zoo_resnet_cifar), "resnet20_a"
    .. "resnet110_a" (shortcuts without parameters: every second pixel, zeros for new channels; the classifier is
    `linear`), "wrn_16_2" .. (kd_zoo_wrn), "vgg8" .. "vgg19" (batch norm), "mobilenetv2", "mobilenetv2_half" (half as
    wide), "shufflenetv1" (groups 3), "shufflenetv2" (1x).  For ImageNet, with torchvision's names: "resnet18" ..
    "resnet152"; with timm's: "regnety_002" .. "regnety_008".  All these end in a mean over what is left of height and
    width, so other sizes may go in. Vision transformers, not in kd_zoo_name's list: MODEL_SIZE_patchP_IMAGE, where MODEL
    is vit or deit, SIZE tiny, small, base, or for deit tiny_distilled .., P and IMAGE any sizes that kd_zoo_vit takes:
    "deit_small_distilled_patch16_224", "vit_tiny_patch4_32". KD_ERR_ARG names the nearest.

    C: kd_zoo_create
    """
    model = c_void_p()
    check(lib.kd_zoo_create(byref(model), Context._of(context), encode(name), classes, seed))
    return Model._adopt(model.value, context)


def vit(seed: int = 0, *, image: int | None = None, patch: int | None = None, channels: int | None = None,
        width: int | None = None, depth: int | None = None, heads: int | None = None, mlp_ratio: int | None = None,
        classes: int | None = None, distilled: int | None = None, drop_path: float | None = None,
        dropout: float | None = None, context: Context | None = None) -> Model:
    """ViT (Dosovitskiy et al. 2021) and DeiT (Touvron et al. 2021): pre-norm blocks, eps 1e-6, GELU; x [n, image, image,
    channels]. Names and initialisation of timm: cls_token, dist_token, pos_embed, patch_embed.proj, blocks.0.{norm1,
    attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2} .., norm, head, head_dist.  A distilled model gives the mean of both
    heads; on TRAIN tapes the logits of `head`, and kd_model_tapped(.., "head_dist") those of the other, for
    student_second of kd_loss_distill.

        image: square images, cut into image / patch squares a side; defaults 224, 16, 3
        patch: square images, cut into image / patch squares a side; defaults 224, 16, 3
        channels: square images, cut into image / patch squares a side; defaults 224, 16, 3
        width: defaults 192, 12, 3: Ti; S is 384, 12, 6; B is 768, 12, 12
        depth: defaults 192, 12, 3: Ti; S is 384, 12, 6; B is 768, 12, 12
        heads: defaults 192, 12, 3: Ti; S is 384, 12, 6; B is 768, 12, 12
        mlp_ratio: of the hidden width to width; default 4
        classes: default 1000
        distilled: 1: DeiT's distillation token and its head; default 0
        drop_path: TRAIN: a sample's branch left out, up to this in the last block; default 0
        dropout: TRAIN: behind positions and linear layers; default 0

    C: kd_zoo_vit
    """
    desc, keep = describe("kd_vit_desc", image=image, patch=patch, channels=channels, width=width, depth=depth, heads=heads,
            mlp_ratio=mlp_ratio, classes=classes, distilled=distilled, drop_path=drop_path, dropout=dropout)
    model = c_void_p()
    check(lib.kd_zoo_vit(byref(model), Context._of(context), byref(desc), seed))
    return Model._adopt(model.value, context)


def names() -> list[str]:
    """What `create` makes."""
    return [lib.kd_zoo_name(i).decode() for i in range(lib.kd_zoo_count())]
