/* kd.h - libkd: knowledge distillation in C.  Includes everything public.
 * SPDX-License-Identifier: MIT */
#ifndef KD_H
#define KD_H
#include "kd/base.h"
#include "kd/kernels.h"
#include "kd/tensor.h"
#include "kd/tape.h"
#include "kd/model.h"
#include "kd/distill.h"
#include "kd/optimizer.h"
#include "kd/data.h"
#include "kd/io.h"
#endif
