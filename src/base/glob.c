/* glob.c - the patterns that pick parameters by name: "*.weight", "layer?.*".
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

bool kd__glob_match(const char *pattern, const char *text)
{
    const char *star = NULL, *retry = NULL;   /* the last '*', and where what follows it was tried */
    while (*text) {
        if (*pattern == '*') {
            star = pattern++;
            retry = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        } else if (star) {
            pattern = star + 1;
            text = ++retry;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return !*pattern;
}
