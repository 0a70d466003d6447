# headers.awk: the public headers, one declaration a line, without comments and layout.
#   awk -v want=functions -f tests/tools/headers.awk include/kd/*.h
#   want=functions   name, tab, prototype
#   want=types       opaque handles, enumerators and types of functions
#   want=program     a C program that prints the size of every struct and enum, the place of every field, the value of every constant
# SPDX-License-Identifier: MIT
function trim(s) { gsub(/[ \t]+/, " ", s); sub(/^ /, "", s); sub(/ $/, "", s); return s }
# one way to write a declaration
function tidy(s)
{
    s = trim(s)
    gsub(/ ?\( ?/, "(", s); gsub(/ ?\) ?/, ")", s); gsub(/ ?, ?/, ", ", s); gsub(/ ?\[ ?/, "[", s); gsub(/ ?\] ?/, "]", s)
    gsub(/ ?\* ?/, " *", s); gsub(/\* \*/, "**", s); gsub(/\*const/, "*const ", s)
    gsub(/\( ?\*/, " (*", s); gsub(/\* \(\*/, "*(*", s)
    return trim(s)
}
# the last word in front of an array's bracket or of the end; of a pointer to a function the word in (*name)
function name_of(s,   m)
{
    if (match(s, /\(\*[a-z_0-9]+\)/)) return substr(s, RSTART + 2, RLENGTH - 3)
    sub(/\[.*/, "", s)
    m = match(s, /[A-Za-z_0-9]+$/)
    return substr(s, m)
}
# "float *mean, *std" is two fields
function struct(name, body,   n, field, i, k, m, part, base, f)
{
    structs[++struct_count] = name
    n = split(body, field, ";")
    for (i = 1; i < n; i++) {
        f = tidy(field[i])
        if (index(f, "(*")) { add_field(name, f); continue }
        k = split(f, part, ", ")
        add_field(name, part[1])
        base = part[1]
        sub(/[ *]*[A-Za-z_0-9]+(\[[^]]*\])*$/, "", base)
        while (sub(/ *\*(const)?$/, "", base)) ;   # what points belongs to each name
        for (m = 2; m <= k; m++) add_field(name, tidy(base " " part[m]))
    }
}
function add_field(name, f) { fields[name, ++field_count[name]] = f }
function enumeration(name, body,   n, item, i, v)
{
    structs[++struct_count] = name
    n = split(body, item, ",")
    for (i = 1; i <= n; i++) {
        v = item[i]
        sub(/=.*/, "", v)
        if ((v = trim(v)) == "") continue
        constant(v)
        line["types", ++count["types"]] = "enum " name " " v
    }
}
function constant(name) { if (name !~ /^KD_VERSION/) line["constants", ++count["constants"]] = name }
function declaration(d,   head, body, name)
{
    d = trim(d)
    if (d == "") return
    if (d ~ /^typedef (struct|enum) [a-z_0-9]+ \{/) {
        body = substr(d, index(d, "{") + 1)
        body = substr(body, 1, match(body, /\}[^}]*$/) - 1)
        name = name_of(substr(d, match(d, /\}[^}]*$/)))
        if (d ~ /^typedef struct/) struct(name, body)
        else enumeration(name, body)
    } else if (d ~ /^typedef struct [a-z_0-9]+ [a-z_0-9]+$/) {
        line["types", ++count["types"]] = "handle " name_of(d)
    } else if (d ~ /^typedef/) {
        sub(/^typedef /, "", d)
        line["types", ++count["types"]] = "function " tidy(d)
    } else if (d ~ /KD_API/) {
        sub(/KD_API /, "", d)
        sub(/KD_MUST_USE /, "", d)
        sub(/KD_DEPRECATED ?\("[^"]*"\) /, "", d)
        d = tidy(d)
        head = substr(d, 1, index(d, "(") - 1)
        line["functions", ++count["functions"]] = name_of(head) "\t" d
    } else {
        print "headers.awk: not understood: " d > "/dev/stderr"
        failed = 1
    }
}
{
    while (/\\$/) { sub(/\\$/, ""); if ((getline rest) <= 0) break; $0 = $0 rest }
    if ($0 ~ /^ *#/) {
        if ($0 ~ /^ *# *define +[A-Z0-9_]+ +[^ \/]/ && $2 !~ /_H$|_DECLS$|^KD_API$|^KD_MUST_USE$/) constant($2)
        sub(/^[^\/]*/, "")   # the comment that begins here may go on
        if (!index($0, "/*")) next
    }
    text = text " " $0
}
END {
    while ((i = index(text, "/*")) > 0) {
        rest = substr(text, i + 2)
        text = substr(text, 1, i - 1) " " substr(rest, index(rest, "*/") + 2)
    }
    gsub(/KD_(BEGIN|END)_DECLS/, "", text)
    n = split(text, part, ";")
    d = ""
    for (k = 1; k <= n; k++) {
        d = d (d == "" ? "" : ";") part[k]
        open = gsub(/\{/, "{", d) - gsub(/\}/, "}", d)
        if (open <= 0) { declaration(d); d = "" }
    }
    if (want != "program") {
        for (i = 1; i <= count[want]; i++) print line[want, i]
        exit failed
    }
    print "#include <kd.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void)\n{"
    for (s = 1; s <= struct_count; s++) {
        name = structs[s]
        printf "    printf(\"%s size %%zu\\n\", sizeof(%s));\n", name, name
        for (f = 1; f <= field_count[name]; f++) {
            field = name_of(fields[name, f])
            printf "    printf(\"%s.%s offset %%zu size %%zu: %s\\n\", offsetof(%s, %s), sizeof(((%s *)0)->%s));\n", \
                name, field, fields[name, f], name, field, name, field
        }
    }
    for (i = 1; i <= count["constants"]; i++)
        printf "    printf(\"%s %%lld\\n\", (long long)%s);\n", line["constants", i], line["constants", i]
    print "    return 0;\n}"
    exit failed
}
