#!/bin/sh
# reproduce.sh: the tarball of `make dist` has the same bytes whoever makes it, from git or from itself; two builds of it in different
# folders have the same bytes; and it passes its tests, the installation among them, without git.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
MAKE=${MAKE:-make}
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
unset MAKEFLAGS MFLAGS MAKELEVEL
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
fail() { echo "reproduce: $*"; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
same() { cmp "$1" "$2" || fail "$3"; echo "same bytes: $3"; }

$MAKE -s dist >"$work/name" || fail "make dist"
tarball=$PWD/$(tail -n 1 "$work/name")
cp "$tarball" "$work/first.tar.gz"
(umask 077 && LC_ALL=C TZ=Asia/Tokyo $MAKE -s dist) || fail "make dist, again"
same "$work/first.tar.gz" "$tarball" "the tarball, made again with another umask, locale and time zone"

mkdir -p "$work/a" "$work/another folder/with a longer name"
for dir in "$work/a" "$work/another folder/with a longer name"; do
    tar -xzf "$tarball" -C "$dir" --strip-components=1 || fail "unpacking"
done
ln -s "another folder/with a longer name" "$work/b"
(cd "$work/a" && $MAKE -s dist >/dev/null) || fail "make dist without git"
same "$tarball" "$work/a/lib/dist/$(basename "$tarball")" "the tarball, made from itself"
for dir in a b; do (cd "$work/$dir" && $MAKE -j"$jobs" >/dev/null) || fail "the tarball does not build"; done
for file in libkd.a libkd.so; do same "$work/a/lib/$file" "$work/b/lib/$file" "$file, built in two folders"; done
cd "$work/a" && $MAKE -j"$jobs" check
