#!/bin/sh
# gen_map.sh > src/libkd.map: the exports are what the public headers declare with KD_API, by name.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
cat include/kd/*.h | awk '
    /^ *#/ { while (/\\$/ && (getline) > 0) continue; next }
    { text = text " " $0 }
    END {
        while ((i = index(text, "/*")) > 0) {
            rest = substr(text, i + 2)
            text = substr(text, 1, i - 1) " " substr(rest, index(rest, "*/") + 2)
        }
        n = split(text, part, ";")
        for (k = 1; k <= n; k++)
            if (match(part[k], /KD_API[^(]*\(/)) {
                head = substr(part[k], RSTART, RLENGTH - 1)
                m = split(head, word, /[ *\t]+/)
                print word[m] == "" ? word[m - 1] : word[m]
            }
    }' | LC_ALL=C sort -u | awk '
    BEGIN { print "# made by tests/tools/gen_map.sh from include/kd"; print "LIBKD_0 {"; print "global:" }
    { print "    " $0 ";" }
    END { print "local:"; print "    *;"; print "};" }'
