/* version.c - which libkd this is and how it was built.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define VERSION_TEXT TEXT(KD_VERSION_MAJOR) "." TEXT(KD_VERSION_MINOR) "." TEXT(KD_VERSION_PATCH)

#if defined __clang__
#define COMPILER "clang " __clang_version__
#elif defined __GNUC__
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown compiler"
#endif
#ifdef KD_BUILD_avx2
#define WITH_AVX2 " avx2"
#else
#define WITH_AVX2
#endif
#ifdef KD_BUILD_avx512
#define WITH_AVX512 " avx512"
#else
#define WITH_AVX512
#endif
#ifdef KD_BUILD_neon
#define WITH_NEON " neon"
#else
#define WITH_NEON
#endif
#ifdef KD_BLIS
#define WITH_BLIS "with BLIS"
#else
#define WITH_BLIS "no BLIS"
#endif

int32_t kd_version(void) { return KD_VERSION; }

int32_t kd_abi_version(void) { return KD_ABI_VERSION; }

const char *kd_version_string(void) { return VERSION_TEXT; }

const char *kd_build_info(void)
{
    return "libkd " VERSION_TEXT ", " COMPILER ", scalar" WITH_AVX2 WITH_AVX512 WITH_NEON ", " WITH_BLIS;
}
