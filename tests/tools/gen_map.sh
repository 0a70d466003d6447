#!/bin/sh
# gen_map.sh > src/libkd.map: the exports are what the public headers declare with KD_API, by name.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
awk -v want=functions -f tests/tools/headers.awk include/kd/*.h | cut -f 1 | LC_ALL=C sort -u | awk '
    BEGIN { print "# made by tests/tools/gen_map.sh from include/kd"; print "LIBKD_0 {"; print "global:" }
    { print "    " $0 ";" }
    END { print "local:"; print "    *;"; print "};" }'
