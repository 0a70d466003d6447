#!/bin/sh
# dist.sh VERSION DIR: DIR/libkd-VERSION.tar.gz.  In a git tree what HEAD holds, dated by SOURCE_DATE_EPOCH or by its commit; elsewhere
# (in an unpacked tarball) the sources that lie here, dated as they are.  Same sources and date, same bytes: names in one order, no
# owner, one mode, nothing of gzip's own.  Needs GNU tar.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
name=libkd-$1
dir=$2
tar=tar
command -v gtar >/dev/null 2>&1 && tar=gtar
$tar --version 2>/dev/null | grep -q GNU || { echo "make dist needs GNU tar" >&2; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
set -e
mkdir -p "$dir" "$work/$name"
top=$(git rev-parse --show-toplevel 2>/dev/null || :)
if [ -n "$top" ] && [ "$(cd "$top" && pwd -P)" = "$(pwd -P)" ]; then
    [ -z "$(git status --porcelain)" ] || echo "note: what is not committed is not in the tarball" >&2
    git archive HEAD | $tar -x -C "$work/$name" -f -
    epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
else
    # everything at the top but lib/, without what Python leaves
    for f in .[!.]* *; do
        case $f in lib | .git | build | dist | *.egg-info) continue ;; esac
        cp -RP "$f" "$work/$name/"
    done
    find "$work/$name" \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
    epoch=${SOURCE_DATE_EPOCH:-$(date -r Makefile +%s)}
fi
$tar -c -C "$work" --sort=name --format=ustar --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' \
    -f "$work/tar" "$name"
gzip -n -9 <"$work/tar" >"$work/gz"
mv "$work/gz" "$dir/$name.tar.gz"
echo "$dir/$name.tar.gz"
