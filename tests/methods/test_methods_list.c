/* test_methods_list.c - the list of methods against the header and methods.def, its pages in docs/methods/ against the sources.
 * SPDX-License-Identifier: MIT */
#include "kdtest_tools.h"
#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct line { const char *name; uint32_t kind, number; const char *source; } line;
static const line lines[] = {
#define DISTILL(id, name, source) { name, KD_METHOD_DISTILL, KD_DISTILL_##id, source },
#define FEATURE(id, name, source) { name, KD_METHOD_FEATURE, KD_FEATURE_##id, source },
#include "distill/methods.def"
#undef DISTILL
#undef FEATURE
};
enum { LINES = sizeof lines / sizeof *lines };

TEST(listed_in_the_order_of_methods_def)
{
    CHECK(kd_method_count() == LINES);
    for (size_t i = 0; i < LINES; i++) {
        kd_method_info m = { .struct_size = sizeof m }, found = { .struct_size = sizeof found };
        if (!CHECK_OK(kd_method_at(i, &m)) || !CHECK_OK(kd_method_find(lines[i].name, &found))) continue;
        CHECK_STR(m.name, lines[i].name);
        CHECK_STR(m.source, lines[i].source);
        CHECK(m.kind == lines[i].kind && m.method == lines[i].number);
        CHECK_MSG(m.formula && strlen(m.formula) > 5 && strlen(m.formula) < 200 && !strchr(m.formula, '\n'),
                  "%s: formula \"%s\"", m.name, m.formula ? m.formula : "(null)");
        CHECK(found.method == m.method && found.kind == m.kind && found.name == m.name);
        for (size_t j = 0; j < i; j++)
            CHECK_MSG(strcmp(lines[i].name, lines[j].name) != 0, "the name %s stands twice", lines[i].name);
        if (i && lines[i].kind == lines[i - 1].kind)
            CHECK_MSG(lines[i].number > lines[i - 1].number, "methods.def: %s stands behind %s, its number before", lines[i].name,
                      lines[i - 1].name);
    }
}

TEST(errors)
{
    kd_method_info m = { .struct_size = sizeof m };
    CHECK_STATUS(kd_method_at(LINES, &m), KD_ERR_ARG);
    CHECK_ERROR_HAS("kd_method_at");
    CHECK_STATUS(kd_method_find("hardd", &m), KD_ERR_ARG);
    CHECK_ERROR_HAS("\"hard\"");
    CHECK_STATUS(kd_method_find("", &m), KD_ERR_ARG);
    CHECK_STATUS(kd_method_find(NULL, &m), KD_ERR_ARG);
    CHECK_STATUS(kd_method_find("kd", NULL), KD_ERR_ARG);
    CHECK_STATUS(kd_method_at(0, NULL), KD_ERR_ARG);
    m.struct_size = 0;
    CHECK_STATUS(kd_method_at(0, &m), KD_ERR_ARG);
    CHECK_ERROR_HAS("struct_size");
}

/* A caller that was compiled with a shorter struct gets what it knows. */
TEST(shorter_struct)
{
    kd_method_info m;
    memset(&m, 0x5a, sizeof m);
    m.struct_size = offsetof(kd_method_info, source);
    const char *before = m.source;
    CHECK_OK(kd_method_at(0, &m));
    CHECK_STR(m.name, lines[0].name);
    CHECK(m.source == before && m.struct_size == offsetof(kd_method_info, source));
}

/* Each KD_DISTILL_* and KD_FEATURE_* of the header has its line, its files and the same number; the compiler sees to the rest. */
TEST(header_and_methods_def_agree)
{
    char *header = kdtest_read("include/kd/distill.h", NULL), *rest = header;
    size_t count = 0;
    for (char *text; (text = kdtest_line(&rest));) {
        char kind[16], id[64], name[64];
        unsigned number;
        if (sscanf(text, "#define KD_%15[A-Z]_%63[A-Z0-9_] %uu", kind, id, &number) != 3) continue;
        int output = strcmp(kind, "DISTILL") == 0;
        if (!output && strcmp(kind, "FEATURE") != 0) continue;
        count++;
        size_t i = 0, length = strlen(id);
        for (size_t c = 0; c <= length; c++) name[c] = (char)tolower((unsigned char)id[c]);
        uint32_t wanted = output ? KD_METHOD_DISTILL : KD_METHOD_FEATURE;
        while (i < LINES && (strcmp(lines[i].name, name) != 0 || lines[i].kind != wanted)) i++;
        if (!CHECK_MSG(i < LINES, "KD_%s_%s of kd/distill.h has no line in methods.def", kind, id)) continue;
        CHECK_MSG(lines[i].number == number, "%s is %u in the header, %u in methods.def", name, number,
                  (unsigned)lines[i].number);
        for (size_t k = 0; k < 3; k++) {
            char path[1200], full[2400];
            const char *where = k == 0 ? "src/distill/" : k == 1 ? "tests/ref/method_" : "docs/methods/";
            snprintf(path, sizeof path, "%s%s.%s", where, name, k < 2 ? "c" : "md");
            snprintf(full, sizeof full, "%s/%s", kdtest_root(), path);
            CHECK_MSG(access(full, R_OK) == 0, "there is no %s", path);
        }
    }
    CHECK_MSG(count >= LINES, "%zu constants in the header, %d lines in methods.def", count, (int)LINES);
    free(header);
}

TEST(pages_are_made_from_these_sources)
{
    int status;
    char *output = kdtest_run(&status, "sh tests/tools/gen_methods.sh '%s'", kdtest_tmp());
    CHECK_MSG(status == 0, "%s", output);
    free(output);
    output = kdtest_run(&status, "diff -r -x results.md '%s/methods' docs/methods", kdtest_tmp());
    CHECK_MSG(status == 0, "docs/methods is not up to date: make docs\n%.1000s", output);
    free(output);
}

/* A page that lacks a section is refused, by name. */
TEST(sections_are_wanted)
{
    static const char *const words[] = { "Formula", "Gradient", "Divides by", "Detached", "Defaults", "Forms", "Traps",
                                         "Published", "Cost" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        int status;
        char *output = kdtest_run(&status,
                                  "t='%s/bare' && rm -rf $t && mkdir -p $t/tests $t/src && cp -r tests/tools $t/tests/ && "
                                  "cp -r src/distill $t/src/ && "
                                  "sed 's/^ \\* %s:/ * Other:/' src/distill/kd.c > $t/src/distill/kd.c && "
                                  "sh $t/tests/tools/gen_methods.sh $t/out", kdtest_tmp(), words[i]);
        CHECK_MSG(status != 0 && strstr(output, "kd.c") && strstr(output, words[i]), "accepted without %s: %s", words[i], output);
        free(output);
    }
}
