# gen_reference.awk - the reference and the man pages out of the headers; see gen_reference.sh.
# SPDX-License-Identifier: MIT
#
# Reading fills these; an entry is a comment with the declarations it stands for.
#   page[1..pages]; title[p], intro[p]; first[p], last[p]: its entries
#   section[e] (text or ""), doc[e], items[e]; kind[e, i] function, macro, type, struct, enum; name[e, i]; code[e, i]; note[e, i]
#   rows[e, i] of a struct or enum; field[e, i, r], meaning[e, i, r]
#   home[symbol]: its page

BEGIN {
    made = "made by tests/tools/gen_reference.sh from include/kd"
    man_date = "2026-11-28"
}

# ---- reading ----------------------------------------------------------------------------------------------------

FNR == 1 {
    page[++pages] = p = substr(FILENAME, 12, length(FILENAME) - 13)
    first[p] = entries + 1
    seen_intro = open = 0
    pending = ""
}
/^\/\*/ { read_comment(); next }
/^#define KD_[A-Z]*_H$/ || /^#include/ { next }
/^$/ { open = 0; next }
/^#define / { read_macro(); next }
/^typedef (struct|enum) [a-z0-9_]* \{/ { read_struct(); next }
/^typedef / { read_declaration("type"); next }
/^KD_API / { read_declaration("function"); next }
/^#define KD_VERSION_MAJOR / { major = $3 }

# The text of the comment that begins in s, lines without their stars; reads on to its end.
function comment(s,   text, end) {
    sub(/^.*\/\* ?/, "", s)
    while ((end = index(s, "*/")) == 0) {
        text = text s "\n"
        if ((getline s) <= 0) break
        if (!sub(/^ \* ?/, "", s)) sub(/^ +/, "", s)
    }
    text = text substr(s, 1, end - 1)
    gsub(/ +\n/, "\n", text)
    sub(/[ \n]+$/, "", text)
    return text
}
function one_line(s) { gsub(/[ \n]+/, " ", s); sub(/^ /, "", s); sub(/ $/, "", s); return s }

function read_comment(   text) {
    text = comment($0)
    open = 0
    if (!seen_intro) {
        seen_intro = 1
        gsub(/\n?SPDX-License-Identifier: MIT\n?/, "\n", text)
        sub(/^kd\/[a-z]*\.h - /, "", text)
        match(text, /\.\n/)
        title[p] = one_line(substr(text, 1, RSTART - 1))
        intro[p] = substr(text, RSTART + 2)
    } else if (text ~ /^----/) {
        gsub(/-----*/, "", text)
        gsub(/ +\n/, "\n", text)
        pending = text
        sub(/^[ \n]+/, "", pending)
        sub(/[ \n]+$/, "", pending)
    } else begin_entry(text)
}
function begin_entry(text) {
    doc[++entries] = text
    last[p] = entries
    section[entries] = pending
    pending = ""
    open = 1
}
# One more declaration of the entry that is open; s is where a comment on its last line may be.
function add(k, symbol, text, s,   i) {
    if (!open) begin_entry("")
    i = ++items[entries]
    kind[entries, i] = k
    name[entries, i] = symbol
    code[entries, i] = text
    if (s ~ /\/\*/) note[entries, i] = one_line(comment(s))
    home[symbol] = p
    return i
}
function read_macro(   s, symbol, value) {
    s = $0
    symbol = $2
    sub(/\(.*/, "", symbol)
    if (symbol in home) return
    value = s
    sub(/ *\/\*.*/, "", value)
    sub(/^#define [A-Za-z0-9_]+ */, "", value)
    if (symbol ~ /^KD_VERSION_M|^KD_VERSION_P/) version = version (version == "" ? "" : ".") value
    add("macro", symbol, value, s)
}
function read_declaration(k,   s, text, symbol) {
    s = $0
    text = ""
    while (s !~ /;/) {
        text = text s "\n"
        if ((getline s) <= 0) break
    }
    text = text substr(s, 1, index(s, ";"))
    gsub(/KD_API |KD_MUST_USE /, "", text)
    symbol = text
    if (symbol ~ /\(\*kd_/) sub(/^[^(]*\(\*/, "", symbol)
    else if (k == "type") sub(/^.*[ *]/, "", symbol)
    sub(/[();].*/, "", symbol)
    sub(/^.*[ *]/, "", symbol)
    add(k, symbol, align(text), s)
}
# Lines after the first under the opening parenthesis.
function align(text,   n, line, i, result) {
    n = split(text, line, "\n")
    result = line[1]
    for (i = 2; i <= n; i++) {
        sub(/^ +/, "", line[i])
        result = result "\n" blanks(index(line[1], "(")) line[i]
    }
    return result
}
function blanks(n,   s) { while (length(s) < n) s = s " "; return s }
function read_struct(   k, symbol, i, s, r, text, above) {
    k = $2
    symbol = $3
    i = add(k, symbol, "", "")
    above = ""
    while ((getline s) > 0 && s !~ /^\}/) {
        sub(/^ +/, "", s)
        if (s ~ /^\/\*/) { above = one_line(comment(s)); continue }
        text = ""
        while (k == "struct" && s !~ /;/) {
            text = text s " "
            if ((getline s) <= 0) break
        }
        r = ++rows[entries, i]
        text = text s
        sub(/ *\/\*.*/, "", text)
        if (k == "enum") sub(/,$/, "", text)
        else sub(/;$/, "", text)
        field[entries, i, r] = one_line(text)
        meaning[entries, i, r] = s ~ /\/\*/ ? one_line(comment(s)) : above
        if (text ~ /struct_size/ && meaning[entries, i, r] == "") meaning[entries, i, r] = "sizeof the struct, as the caller was compiled"
        if (text ~ /reserved/ && meaning[entries, i, r] == "") meaning[entries, i, r] = "0"
        if (k == "enum") { text = field[entries, i, r]; sub(/ .*/, "", text); home[text] = p }
    }
}

# ---- common -------------------------------------------------------------------------------------------------------

function section_title(s) { sub(/[.:,(\n].*/, "", s); sub(/ +$/, "", s); return toupper(substr(s, 1, 1)) substr(s, 2) }
function section_text(s,   t) {
    t = section_title(s)
    s = substr(s, length(t) + 1)
    sub(/^[.:,] */, "", s)
    return s
}
# "kd_add, kd_sub", "KD_ACT_*"
function heading(e,   i, s, same) {
    if (items[e] > 1 && name[e, 1] ~ /^KD_/ && name[e, items[e]] ~ /^KD_/) {
        same = name[e, 1]
        for (i = 2; i <= items[e]; i++) while (substr(name[e, i], 1, length(same)) != same) same = substr(same, 1, length(same) - 1)
        sub(/[^_]*$/, "", same)
        if (length(same) > 3) return same "*"
    }
    for (i = 1; i <= items[e]; i++) s = s (i > 1 ? ", " : "") name[e, i]
    return s
}
function missing(what) { print "gen_reference: no comment: " what > "/dev/stderr"; bad = 1 }
function check_entry(e,   i, r) {
    for (i = 1; i <= items[e]; i++) {
        if (doc[e] == "" && note[e, i] == "" && !rows[e, i]) missing(name[e, i])
        for (r = 1; r <= rows[e, i]; r++) if (meaning[e, i, r] == "") missing(name[e, i] ": " field[e, i, r])
    }
}

# ---- Markdown -----------------------------------------------------------------------------------------------------

function md_word(w) {
    if (w in home) return "[`" w "`](" home[w] ".md#" w ")"
    return w ~ /_/ ? "`" w "`" : w
}
# Running text: names become links, `code` stays, the rest is escaped.
function md(s,   n, part, i, result, t) {
    gsub(/  /, " ", s)
    n = split(s, part, "`")
    for (i = 1; i <= n; i++) {
        if (i % 2 == 0) { result = result (part[i] in home ? md_word(part[i]) : "`" part[i] "`"); continue }
        t = part[i]
        while (match(t, /docs\/[a-z\/_-]+\.md|kd\/[a-z]+\.h|[A-Za-z_][A-Za-z0-9_]*|[*<]/)) {
            result = result substr(t, 1, RSTART - 1)
            result = result md_token(substr(t, RSTART, RLENGTH))
            t = substr(t, RSTART + RLENGTH)
        }
        result = result t
    }
    return result
}
function md_token(w,   file) {
    if (w == "*" || w == "<") return "\\" w
    if (w ~ /^docs\//) return "[" w "](../" substr(w, 6) ")"
    if (w ~ /^kd\//) { file = w; sub(/^kd\//, "", file); sub(/\.h$/, ".md", file); return "[" w "](" file ")" }
    return md_word(w)
}
function md_cell(s) { s = md(s); gsub(/\|/, "\\|", s); return s }
function md_code(s) { gsub(/\|/, "\\|", s); return "`" s "`" }
# A comment: paragraphs, items ("name: text") and what is indented, as it stands.
function md_text(s, file,   n, line, i, pre, before, indent) {
    n = split(s, line, "\n")
    pre = 0
    indent = "^" blanks(depth(s))
    before = ""
    for (i = 1; i <= n; i++) {
        if (line[i] ~ /^  /) {
            if (!pre) print (before == "" ? "" : "\n") "```text" > file
            pre = 1
            sub(indent, "", line[i])
            print line[i] > file
        } else {
            if (pre) print "```" > file
            if (pre && line[i] != "") print "" > file
            pre = 0
            if (item(line[i], before)) print (before ~ /^- / ? "" : "\n") "- " md(line[i]) > file
            else print md(line[i]) > file
        }
        before = item(line[i], before) ? "- " line[i] : (before ~ /^- / && line[i] != "" ? "- " : "") line[i]
    }
    if (pre) print "```" > file
    print "" > file
}
# The least indentation of what is indented.
function depth(s,   n, line, i, least) {
    n = split(s, line, "\n")
    least = 10
    for (i = 1; i <= n; i++) if (match(line[i], /^   */) && RLENGTH < least) least = RLENGTH
    return least
}
function item(s, before) { return s ~ /^[a-z_][a-z_, ]*: / && before ~ /[.:;)]$/ && s !~ /^note/ }

function write_page(q,   file, e, i, r, k, n, here, was) {
    file = out "/reference/" q ".md"
    print "<!-- " made "/" q ".h -->" > file
    print "# kd/" q ".h\n" > file
    print md(title[q]) ".\n" > file
    if (intro[q] ~ /[^ \n]/) { sub(/^\n+/, "", intro[q]); md_text(intro[q], file) }
    here = ""
    for (e = first[q]; e <= last[q]; e++) {
        if (section[e] != "") {
            here = section_title(section[e])
            print "## " here "\n" > file
            was = section_text(section[e])
            if (was != "") md_text(was, file)
        }
        for (i = 1; i <= items[e]; i++) {
            printf "<a id=\"%s\"></a>", name[e, i] > file
            if (kind[e, i] == "enum")
                for (r = 1; r <= rows[e, i]; r++) { k = field[e, i, r]; sub(/ .*/, "", k); printf "<a id=\"%s\"></a>", k > file }
        }
        print "\n### " heading(e) "\n" > file
        write_items(e, file)
        if (doc[e] != "") md_text(doc[e], file)
        if (here != "" && was != "" && doc[e] !~ /^$/ && items[e])
            print "See also: [" here "](#" anchor(here) ").\n" > file
    }
    print "[All symbols](README.md)" > file
    close(file)
}
function anchor(s) { s = tolower(s); gsub(/[^a-z0-9 -]/, "", s); gsub(/ /, "-", s); return s }
function write_items(e, file,   i, r, block, table) {
    for (i = 1; i <= items[e]; i++) {
        block = kind[e, i] == "function" || kind[e, i] == "type"
        if (block) {
            if (i == 1 || !was_block[e, i - 1]) print "```c" > file
            print code[e, i] > file
            was_block[e, i] = 1
            if (i == items[e] || (kind[e, i + 1] != "function" && kind[e, i + 1] != "type")) {
                print "```\n" > file
                write_notes(e, i, file)
            }
        } else if (kind[e, i] == "macro") {
            if (i == 1 || kind[e, i - 1] != "macro") print "| macro | value | |\n|---|---|---|" > file
            print "| `" name[e, i] "` | " (code[e, i] == "" ? "" : md_code(code[e, i])) " | " md_cell(note[e, i]) " |" > file
            if (i == items[e] || kind[e, i + 1] != "macro") print "" > file
        } else {
            print (kind[e, i] == "enum" ? "| value | |" : "| field of `" name[e, i] "` | |") "\n|---|---|" > file
            for (r = 1; r <= rows[e, i]; r++) print "| " md_code(field[e, i, r]) " | " md_cell(meaning[e, i, r]) " |" > file
            print "" > file
        }
    }
}
function write_notes(e, i, file,   k, any) {
    for (k = i; k >= 1 && was_block[e, k]; k--) ;
    for (k++; k <= i; k++) if (note[e, k] != "") { print "- `" name[e, k] "`: " md(note[e, k]) > file; any = 1 }
    if (any) print "" > file
}
function write_index(   file, i, n, sorted, q) {
    file = out "/reference/README.md"
    print "<!-- " made " -->\n# Reference\n" > file
    print "Made from the comments in [include/kd/](../../include/kd/) by `make docs`, as are the man pages in [docs/man/](../man/):" > file
    print "`man libkd`, `man kd_matmul`. One page a header; `#include <kd.h>` brings them all.\n" > file
    print "| header | what is in it |\n|---|---|" > file
    for (i = 1; i <= pages; i++) print "| [kd/" page[i] ".h](" page[i] ".md) | " md_cell(title[page[i]]) " |" > file
    if ((getline q < "docs/reference/abi.md") > 0) print "| [abi.md](abi.md) | " substr(q, 3) " |" > file
    print "\n## All symbols\n" > file
    n = 0
    for (q in home) sorted[++n] = q
    sort(sorted, n)
    print "| symbol | header |\n|---|---|" > file
    for (i = 1; i <= n; i++) print "| " md_word(sorted[i]) " | kd/" home[sorted[i]] ".h |" > file
    close(file)
}
function sort(a, n,   i, k, t) {
    for (i = 2; i <= n; i++) { t = a[i]; for (k = i - 1; k > 0 && a[k] > t; k--) a[k + 1] = a[k]; a[k + 1] = t }
}

# ---- man ----------------------------------------------------------------------------------------------------------

function man(s,   n, part, i, result, t, w) {
    gsub(/\\/, "\\e", s)
    gsub(/-/, "\\-", s)
    n = split(s, part, "`")
    for (i = 1; i <= n; i++) {
        if (i % 2 == 0) { result = result (part[i] in home ? "\\fB" : "\\fI") part[i] "\\fR"; continue }
        t = part[i]
        while (match(t, /[A-Za-z_][A-Za-z0-9_]*/)) {
            w = substr(t, RSTART, RLENGTH)
            result = result substr(t, 1, RSTART - 1) (w in home ? "\\fB" w "\\fR" : w)
            t = substr(t, RSTART + RLENGTH)
        }
        result = result t
    }
    return result
}
# Text in lines of at most 78; none begins as a request would.
function fold(s, file,   n, word, i, line) {
    n = split(s, word, / +/)
    line = ""
    for (i = 1; i <= n; i++) {
        if (word[i] == "") continue
        if (line != "" && length(line) + 1 + length(word[i]) > 78) { print line > file; line = "" }
        if (line == "" && word[i] ~ /^[.']/) word[i] = "\\&" word[i]
        line = line (line == "" ? "" : " ") word[i]
    }
    if (line != "") print line > file
}
function man_pre(s) { gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s); return (s ~ /^[.']/ ? "\\&" : "") s }
# A new paragraph, but for the first thing below a heading.
function paragraph(file) { if (!fresh) print ".PP" > file; fresh = 0 }
function man_text(s, file,   n, line, i, para, before) {
    n = split(s, line, "\n")
    para = before = ""
    for (i = 1; i <= n + 1; i++) {
        if (i > n || line[i] == "" || line[i] ~ /^  / || item(line[i], before)) {
            if (para != "") { paragraph(file); fold(man(para), file) }
            para = ""
        }
        if (i > n) break
        if (line[i] ~ /^  /) {
            paragraph(file)
            print ".nf" > file
            while (i <= n && line[i] ~ /^  /) { print man_pre(line[i]) > file; i++ }
            print ".fi" > file
            i--
        } else if (line[i] != "") para = para (para == "" ? "" : " ") line[i]
        before = line[i]
    }
}
function man_head(upper, file) {
    print ".\\\" " made > file
    print ".TH " upper " 3 " man_date " \"libkd " version "\" \"libkd manual\"" > file
}
# Up to the SYNOPSIS, which stays open.
function man_begin(symbol, what, file) {
    man_head(toupper(symbol), file)
    print ".SH NAME" > file
    fold(symbol " \\- " man(what), file)
    print ".SH SYNOPSIS\n.nf\n.B #include <kd.h>" > file
}
function man_row(left, text, file) { fresh = 0; print ".TP\n\\fB" man_pre(left) "\\fR" > file; fold(man(text), file) }
function write_man(q,   file, e, i) {
    file = out "/man/libkd_" q ".3"
    man_begin("libkd_" q, title[q], file)
    print ".PP\ncc ... \\-lkd \\-lm \\-pthread\n.fi\n.SH DESCRIPTION" > file
    fresh = 1
    if (intro[q] ~ /[^ \n]/) { sub(/^\n+/, "", intro[q]); man_text(intro[q], file) }
    for (e = first[q]; e <= last[q]; e++) {
        if (section[e] != "") {
            here = section[e]
            print ".SS " man(section_title(here)) > file
            fresh = 1
            man_text(section_text(here), file)
        } else if (e == first[q]) here = ""
        man_entry(e, file)
        for (i = 1; i <= items[e]; i++) if (kind[e, i] != "macro") write_symbol(q, e, name[e, i])
    }
    print ".SH SEE ALSO\n.BR libkd (3)" > file
    close(file)
}
# A page for one function or type: its entry, and what its section says of all.
function write_symbol(q, e, symbol,   file, was) {
    was = fresh
    file = out "/man/" symbol ".3"
    man_begin(symbol, here == "" ? title[q] : "libkd, " tolower(section_title(here)), file)
    print ".fi\n.SH DESCRIPTION" > file
    fresh = 1
    man_entry(e, file)
    if (here != "" && section_text(here) != "") man_text(section_text(here), file)
    print ".SH SEE ALSO\n.BR libkd_" q " (3),\n.BR libkd (3)" > file
    close(file)
    fresh = was
}
function man_entry(e, file,   i, r, n, line, k) {
    for (i = 1; i <= items[e]; i++) {
        if (kind[e, i] == "macro") {
            line[1] = name[e, i] (code[e, i] == "" ? "" : " " code[e, i])
            if (note[e, i] != "") man_row(line[1], note[e, i], file)
            else { paragraph(file); print "\\fB" man_pre(line[1]) "\\fR" > file }
            continue
        }
        if (rows[e, i]) {
            paragraph(file)
            print "\\fB" kind[e, i] " " name[e, i] "\\fR" > file
            for (r = 1; r <= rows[e, i]; r++) man_row(field[e, i, r], meaning[e, i, r], file)
            continue
        }
        paragraph(file)
        print ".nf" > file
        n = split(code[e, i], line, "\n")
        for (k = 1; k <= n; k++) print "\\fB" man_pre(line[k]) "\\fR" > file
        print ".fi" > file
        if (note[e, i] != "") { print ".RS 4" > file; fold(man(note[e, i]), file); print ".RE" > file }
    }
    if (doc[e] != "") { print ".RS 4" > file; fresh = 1; man_text(doc[e], file); print ".RE" > file; fresh = 0 }
}
function write_overview(   file, i) {
    file = out "/man/libkd.3"
    man_head("LIBKD", file)
    print ".SH NAME\nlibkd \\- knowledge distillation in C\n.SH SYNOPSIS\n.nf\n.B #include <kd.h>\n.PP" > file
    print "cc app.c $(pkg\\-config \\-\\-cflags \\-\\-libs libkd)\ncc app.c \\-lkd \\-lm \\-pthread\n.fi\n.SH DESCRIPTION" > file
    fold("A trained network, the teacher, teaches a smaller one, the student. Objects are opaque, made by a _create function and" \
         " released by _free. The first argument of _create is where the object goes, the second a context (allocator, threads, log)," \
         " where NULL is the process default. Options sit in a descriptor that its _init function fills with the defaults.", file)
    print ".PP" > file
    fold("What can fail returns a " man("kd_status") ": zero and above are not errors, and " man("kd_last_error") "(3) has the text" \
         " of an error. Operations on a tape return a tensor and never NULL: the first error stays with the tape and" \
         " " man("kd_backward") "(3) returns it.", file)
    print ".PP\nThe pages, one a header:" > file
    for (i = 1; i <= pages; i++) { print ".TP\n.BR libkd_" page[i] " (3)" > file; fold(man(title[page[i]]), file) }
    print ".SH EXAMPLES\n.nf" > file
    print "kd_tensor *t = kd_model_forward(teacher, look, x);\nkd_tensor *s = kd_model_forward(student, learn, x);" > file
    print "kd_tensor *l = kd_loss_distill_apply(loss, learn, s, t, y);" > file
    print "if (kd_backward(learn, l) != KD_OK || kd_optimizer_step(opt) != KD_OK)\n    fputs(kd_last_error(), stderr);\n.fi" > file
    print ".SH ENVIRONMENT\n.TP\n.B KD_NUM_THREADS\nThreads of a context that does not say." > file
    print ".TP\n.B KD_ISA\nThe best instruction set to use: scalar, neon, avx2 or avx512." > file
    print ".SH SEE ALSO\n.BR pkg\\-config (1)" > file
    close(file)
}

END {
    for (e = 1; e <= entries; e++) check_entry(e)
    if (bad) exit 1
    for (i = 1; i <= pages; i++) { write_page(page[i]); write_man(page[i]) }
    write_index()
    write_overview()
}
