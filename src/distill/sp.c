/* placeholder */
#include "distill/feature.h"
static kd_status check(kd_loss_feature_desc *d) { return kd__feature_pairs(d, 1, ~1u); }
static kd_tensor *apply(const kd_loss_feature *loss, kd_tape *tape, const kd__feature_in *in) { (void)loss; (void)in; return kd__poison(tape); }
const kd__feature_method kd__feature_SP = { "x", 0, NULL, check, NULL, NULL, NULL, apply };
