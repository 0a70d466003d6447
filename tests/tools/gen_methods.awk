# gen_methods.awk - the pages of the methods; see gen_methods.sh.
# SPDX-License-Identifier: MIT

BEGIN {
    wanted = split("Formula Gradient Divides_by Detached Defaults Forms Traps Published Cost", word, " ")
    for (i = 1; i <= wanted; i++) {
        gsub(/_/, " ", word[i])
        is_word[word[i]] = 1
    }
    # these only where there is something to say
    can = split("Taps Mask Adapters State Stages", extra, " ")
    for (i = 1; i <= can; i++) is_word[extra[i]] = 1
    index_page = out "/README.md"
    printf "# Methods\n\n" \
        "Every method of `kd_loss_distill` (outputs) and of `kd_loss_feature` (features and relations), made by " \
        "`tests/tools/gen_methods.sh` from the comments in `src/distill/`.\nA page says what is computed, what it divides by, " \
        "what is held constant, where paper and public code differ and what was decided.\n" \
        "`kd_method_find(\"dkd\", &info)` gives the same list to a program.\n" \
        "What each is worth on few labels of handwritten digits, and what it costs: [results](results.md) (`make methods`).\n\n" \
        "| method | constant | for | source | formula | divides by | defaults |\n|---|---|---|---|---|---|---|\n" > index_page
}

/^(DISTILL|FEATURE)\(/ {
    line = $0
    kind = line ~ /^DISTILL/ ? "DISTILL" : "FEATURE"
    match(line, /\([A-Z0-9_]+,/)
    id = substr(line, RSTART + 1, RLENGTH - 2)
    match(line, /"[a-z0-9_]+"/)
    name = substr(line, RSTART + 1, RLENGTH - 2)
    rest = substr(line, RSTART + RLENGTH)
    sub(/^, *"/, "", rest)
    sub(/"\)[ \t]*$/, "", rest)
    read_page("src/distill/" name ".c")
    write_page()
    methods++
}

END {
    if (!methods) complain("src/distill/methods.def", "no methods")
    close(index_page)
    exit failed
}

function complain(file, what) {
    print file ": " what | "cat 1>&2"
    failed = 1
}

# title, and section[word] with the lines of each, their indent kept.
function read_page(file,   text, now, done, got, w) {
    title = now = ""
    split("", section)
    split("", seen)
    while (!done && (got = (getline text < file)) > 0) {
        if (sub(/[ \t]*\*\/.*$/, "", text)) done = 1
        sub(/^\/\* ?/, "", text)
        sub(/^ \* ?/, "", text)
        sub(/^ \*$/, "", text)
        sub(/[ \t]+$/, "", text)
        if (text ~ /^SPDX-License-Identifier/) continue
        w = text
        if (match(text, /^[A-Z][a-z]+( [a-z]+)?:/) && (substr(text, 1, RLENGTH - 1) in is_word)) {
            now = substr(text, 1, RLENGTH - 1)
            if (seen[now]++) complain(file, "the section " now " stands there twice")
            text = substr(text, RLENGTH + 1)
            sub(/^ /, "", text)
            section[now] = text
        } else if (now != "") {
            section[now] = section[now] "\n" text
        } else {
            title = title (title == "" ? "" : " ") text
        }
    }
    if (got < 0) complain(file, "there is no such file")
    close(file)
    sub(/^[a-z0-9_]+\.c - /, "", title)
    gsub(/  +/, " ", title)
    sub(/ $/, "", title)
    for (i = 1; i <= wanted; i++)
        if (!(word[i] in section) || section[word[i]] ~ /^[ \n]*$/)
            complain(file, "the comment at its head has no section \"" word[i] ":\"")
}

# Characters that Markdown takes for its own, but not between backticks.
function escaped(s,   n, piece, i) {
    n = split(s, piece, "`")
    if (n % 2 == 0) {
        gsub(/[\\*_<`]/, "\\\\&", s)
        return s
    }
    s = ""
    for (i = 1; i <= n; i++) {
        if (i % 2) gsub(/[\\*_<]/, "\\\\&", piece[i])
        s = s (i > 1 ? "`" : "") piece[i]
    }
    return s
}
# In a cell of a table: one line, as code or not.
function cell(s, code) {
    gsub(/[ \n]+/, " ", s)
    sub(/^ /, "", s)
    sub(/ $/, "", s)
    if (!code) s = escaped(s)
    gsub(/\|/, "\\|", s)
    return code ? "`" s "`" : s
}

# The first formula: up to the first line that ends one, that is whose next is empty, less indented or itself a new "a = ..".
function first_formula(s,   n, lines, i, formula, depth) {
    n = split(s, lines, "\n")
    for (i = 1; i <= n; i++) {
        if (lines[i] ~ /^ *$/) continue
        match(lines[i], /[^ ]/)
        if (formula == "") {
            formula = lines[i]
            depth = RSTART
        } else if (lines[i] !~ /^    / || RSTART <= depth) {
            break
        } else {
            formula = formula " " lines[i]
        }
    }
    return formula
}

# Lines indented by four in the formula, by eight elsewhere, are code.
function markdown(s, is_formula,   n, lines, i, code, paragraph, result, deep) {
    n = split(s, lines, "\n")
    deep = is_formula ? "^    " : "^        "
    for (i = 1; i <= n + 1; i++) {
        if (i <= n && lines[i] ~ deep) {
            if (paragraph != "") result = result paragraph "\n\n"
            paragraph = ""
            if (!code) result = result "```text\n"
            code = 1
            result = result substr(lines[i], is_formula ? 5 : 9) "\n"
            continue
        }
        if (code) result = result "```\n\n"
        code = 0
        if (i > n || lines[i] ~ /^ *$/) {
            if (paragraph != "") result = result paragraph "\n\n"
            paragraph = ""
        } else {
            sub(/^ +/, "", lines[i])
            paragraph = paragraph (paragraph == "" ? "" : "\n") escaped(lines[i])
        }
    }
    return result
}

function write_section(page, w,   text) {
    text = markdown(section[w], w == "Formula")
    sub(/\n+$/, "\n", text)
    printf "\n## %s\n\n%s", w, text > page
}

function write_page(   page, i, j) {
    page = out "/" name ".md"
    printf "# %s\n\n%s\n\n", name, escaped(title) > page
    printf "`KD_%s_%s` of `%s`, made by `tests/tools/gen_methods.sh` from [%s.c](../../src/distill/%s.c). [All methods](README.md)\n",
        kind, id, kind == "DISTILL" ? "kd_loss_distill" : "kd_loss_feature", name, name > page
    for (i = 1; i <= wanted; i++) {
        write_section(page, word[i])
        if (i == 3)   # behind what it divides by
            for (j = 1; j <= can; j++)
                if (extra[j] in section) write_section(page, extra[j])
    }
    close(page)
    printf "| [%s](%s.md) | `KD_%s_%s` | %s | %s | %s | %s | %s |\n", name, name, kind, id,
        kind == "DISTILL" ? "outputs" : "features", cell(rest), cell(first_formula(section["Formula"]), 1),
        cell(section["Divides by"]), cell(section["Defaults"]) > index_page
}
