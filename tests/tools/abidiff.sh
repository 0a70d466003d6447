#!/bin/sh
# abidiff.sh [LIBRARY]: libabigail's abidiff between what docs/abi records and what the compiler made (lib/libkd.so, with its debugging
# information).  The record is that of the last release's tag (v1.2.3) where git knows one of the same soname, else as it lies here.  It
# is made into a library of empty functions, so nothing old needs to be built or kept.  Functions may be added, and structs that begin
# with struct_size may have grown at the end.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
library=${1:-lib/libkd.so}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
set -e
from=docs/abi
soname=$(LC_ALL=C readelf -d "$library" | sed -n 's/.*soname: \[\(.*\)\]/\1/p')
tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || :)
if [ -n "$tag" ] && git show "$tag:docs/reference/abi.md" 2>/dev/null | grep -q -F "$soname"; then
    from=$work
    for f in constants types structs functions; do git show "$tag:docs/abi/$f.txt" >"$work/$f.txt"; done
    echo "the record of $tag"
fi

# C again: values, enums, handles, types of functions, structs in their order (with what they have grown by), functions that do nothing
awk '
    FNR == 1 { file++ }
    file == 1 && $2 == "offset" {
        s = $1
        sub(/[.].*/, "", s)
        place[s, ++fields[s]] = $3
        sub(/^[^:]*: /, "")
        now[s, fields[s]] = $0
    }
    file == 1 { next }
    file == 2 { value[$1] = $2; next }
    file == 3 && $1 == "enum" { if (!($2 in enums)) order[++n] = $2; enums[$2] = enums[$2] "    " $3 " = " value[$3] ",\n"; next }
    file == 3 && $1 == "handle" { declarations = declarations "typedef struct " $2 " " $2 ";\n"; next }
    file == 3 { sub(/^function /, ""); late = late "typedef " $0 ";\n"; next }
    file == 4 && FNR == 1 {
        print "#include <stddef.h>\n#include <stdint.h>"
        for (i = 1; i <= n; i++) print "typedef enum " order[i] " {\n" enums[order[i]] "} " order[i] ";"
        printf "%s%s", declarations, late
    }
    file == 4 && $2 == "size" { end(); if (!($1 in enums)) { open = $1; bytes = $3; sized = 0; print "typedef struct " open " {" }; next }
    file == 4 { if ($1 ~ /[.]struct_size$/) sized = 1; sub(/^[^:]*: /, ""); print "    " $0 ";"; next }
    {
        end()
        result = substr($0, 1, index($0, "(") - 1)
        sub(/[a-z_0-9]+$/, "", result)
        print $0 ";\n" $0 " {" (result ~ /^void ?$/ ? "" : " static " result " none; return none;") " }"
    }
    function end(   i)
    {
        if (open == "") return
        for (i = 1; sized && i <= fields[open]; i++) if (place[open, i] + 0 >= bytes + 0) print "    " now[open, i] ";"
        print "} " open ";"
        open = ""
    }
' docs/abi/structs.txt "$from/constants.txt" "$from/types.txt" "$from/structs.txt" "$from/functions.txt" >"$work/record.c"
echo 'LIBKD_0 { global: kd_*; };' >"$work/map"
${CC:-cc} -w -g -fPIC -shared -Wl,-soname,"$soname" -Wl,--version-script="$work/map" "$work/record.c" -o "$work/record.so"
abidiff --no-added-syms "$work/record.so" "$library"
echo "as recorded"
