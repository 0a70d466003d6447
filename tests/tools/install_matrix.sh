#!/bin/sh
# install_matrix.sh: the examples, and a C++ program, built against a staged install on the bare command line, by pkg-config and by CMake,
# shared and static, C11, C17 and C++17, gcc and clang, and run; CMake's answers about versions and components; nothing left behind by
# uninstall.  One that needs a tool which is not here counts as skipped.
# SPDX-License-Identifier: MIT
cd "$(dirname "$0")/../.." || exit 1
MAKE=${MAKE:-make}
unset MAKEFLAGS MFLAGS MAKELEVEL PKG_CONFIG_PATH LD_LIBRARY_PATH
top=$PWD
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0
have() { for t; do command -v "$t" >/dev/null 2>&1 || return 1; done; }
# attempt NAME COMMAND...
attempt() {
    name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok       $name"
    else
        failed=$((failed + 1))
        echo "FAILED   $name"
        tail -n 20 "$work/log"
    fi
}
skip() { skipped=$((skipped + 1)); echo "skipped  $1 ($2)"; }

# needs TOOL NAME COMMAND...
needs() {
    tool=$1
    shift
    if have "$tool"; then attempt "$@"; else skip "$1" "no $tool"; fi
}

install_into() { $MAKE install DESTDIR="$work/$1" PREFIX=/opt/kd "$2" "$3"; }
attempt "install" install_into stage BUILD_SHARED=yes BUILD_STATIC=yes
attempt "install, static only" install_into static BUILD_SHARED=no BUILD_STATIC=yes
attempt "install, shared only" install_into shared BUILD_SHARED=yes BUILD_STATIC=no
prefix=$work/moved/kd   # elsewhere than where it was told
mkdir "$work/moved" && cp -RP "$work/stage/opt/kd" "$prefix"
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"

# run DIR shared|static: what was built there is linked as it should be, and works
run() {
    for program in "$1"/*.bin; do
        if LC_ALL=C readelf -d "$program" | grep -q 'NEEDED.*\[libkd.so.0\]'; then linked=shared; else linked=static; fi
        [ $linked = "$2" ] || { echo "$program is linked $linked"; return 1; }
        case $program in
        */minimal.bin) set -- "$1" "$2" "$top/examples/data/digits-images.idx" "$top/examples/data/digits-labels.idx" ;;
        */logits_only.bin | */consumer.bin) set -- "$1" "$2" ;;
        *) continue ;;   # minutes: once, below
        esac
        dir=$1 kind=$2
        shift 2
        (cd "$dir" && LD_LIBRARY_PATH=$prefix/lib "$program" "$@") || return 1
        set -- "$dir" "$kind"
    done
}

# by_hand COMPILER STANDARD shared|static FLAGS-BEFORE FLAGS-BEHIND
by_hand() {
    dir=$work/build
    rm -rf "$dir" && mkdir "$dir" || return 1
    case $2 in
    c++*) $1 -std="$2" -Wall -Wextra -Werror $4 tests/api/consumer.cpp $5 -o "$dir/consumer.bin" || return 1 ;;
    *)  for source in examples/*.c; do
            case $source in */distill_vision.c) parts=examples/vision/*.c ;; *) parts= ;; esac
            $1 -std="$2" -Wall -Wextra -Werror $4 "$source" $parts examples/support/*.c $5 -lm \
                -o "$dir/$(basename "$source" .c).bin" || return 1
        done ;;
    esac
    run "$dir" "$3"
}
bare() {
    case $3 in
    shared) by_hand "$1" "$2" shared "-I$prefix/include" "-L$prefix/lib -lkd" ;;
    static) by_hand "$1" "$2" static "-I$prefix/include" "$prefix/lib/libkd.a -lm -pthread" ;;
    esac
}
# prefix is defined anew, as pkg-config does for a tree that was moved
with_pkg_config() {
    config="pkg-config --define-variable=prefix=$prefix"
    case $3 in
    shared) by_hand "$1" "$2" shared "$($config --cflags libkd)" "$($config --libs libkd)" ;;
    static) by_hand "$1" "$2" static "$($config --cflags libkd)" "-Wl,-Bstatic $($config --libs libkd) -Wl,-Bdynamic $($config --libs \
        --static libkd | sed 's/.*-lkd//')" ;;
    esac
}

mkdir "$work/project" "$work/questions"
cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.13)
project(consumer LANGUAGES ${LANGUAGE})
if(KIND STREQUAL "static")
    find_package(libkd 0.1 REQUIRED COMPONENTS static)
    set(kd libkd::kd_static)
else()
    find_package(libkd 0.1 REQUIRED)
    set(kd libkd::kd)
endif()
if(LANGUAGE STREQUAL "C")
    file(GLOB programs ${TOP}/examples/*.c)
    file(GLOB support ${TOP}/examples/support/*.c)
    file(GLOB vision ${TOP}/examples/vision/*.c)
    set(CMAKE_C_EXTENSIONS OFF)
else()
    set(programs ${TOP}/tests/api/consumer.cpp)
    set(CMAKE_CXX_EXTENSIONS OFF)
endif()
foreach(source ${programs})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source} ${support})
    set_target_properties(${name} PROPERTIES SUFFIX .bin)
    target_link_libraries(${name} ${kd})
    if(name STREQUAL "distill_vision")
        target_sources(${name} PRIVATE ${vision})
    endif()
    if(LANGUAGE STREQUAL "C")
        target_link_libraries(${name} m)
    endif()
endforeach()
END
with_cmake() {
    dir=$work/build
    rm -rf "$dir"
    case $2 in
    c++*) language=CXX ;;
    *) language=C ;;
    esac
    cmake -S "$work/project" -B "$dir" -DCMAKE_PREFIX_PATH="$prefix" -DTOP="$top" -DKIND="$3" -DLANGUAGE=$language \
        -DCMAKE_${language}_COMPILER="$1" -DCMAKE_${language}_STANDARD="${2##*[c+]}" -DCMAKE_BUILD_TYPE=Release || return 1
    cmake --build "$dir" && run "$dir" "$3"
}

for compiler in gcc clang; do
    for standard in c11 c17 c++17; do
        case $compiler/$standard in
        gcc/c++17) cc=g++ ;;
        clang/c++17) cc=clang++ ;;
        *) cc=$compiler ;;
        esac
        for kind in shared static; do
            what="$cc $standard $kind"
            if ! have $cc; then
                skip "$what, all three ways" "no $cc"
                continue
            fi
            attempt "$what, bare" bare $cc $standard $kind
            needs pkg-config "$what, pkg-config" with_pkg_config $cc $standard $kind
            needs cmake "$what, CMake" with_cmake $cc $standard $kind
        done
    done
done

# the examples that take longer, once
long_examples() {
    by_hand "${CC:-cc}" c11 shared "-I$prefix/include" "-L$prefix/lib -lkd" || return 1
    (cd "$work/build" && export LD_LIBRARY_PATH="$prefix/lib" &&
        ./distill_digits.bin --seeds 1 --images "$top/examples/data" --out out && ./missing_digit.bin "$top/examples/data" &&
        ./explain.bin --data "$top/examples/data" && ./stages.bin "$top/examples/data")
}
attempt "all examples, run" long_examples

# ---- what CMake answers -----------------------------------------------------------------------------------------------
cat >"$work/questions/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.13)
project(questions LANGUAGES C)
find_package(libkd ${ASK})
if(NOT libkd_FOUND)
    message(FATAL_ERROR "no: ${libkd_NOT_FOUND_MESSAGE} ${libkd_CONSIDERED_VERSIONS}")
endif()
if(WANT AND NOT TARGET ${WANT})
    message(FATAL_ERROR "no target ${WANT}")
endif()
END
# ask yes|no PREFIX QUESTION [TARGET]
ask() {
    rm -rf "$work/answer"
    if cmake -S "$work/questions" -B "$work/answer" -DCMAKE_PREFIX_PATH="$2" "-DASK=$3" "-DWANT=$4"; then answer=yes; else answer=no; fi
    [ $answer = "$1" ]
}
if have cmake; then
    version=$(sed -n 's/^Version: //p' "$prefix/lib/pkgconfig/libkd.pc")
    minor=${version%.*}
    next=${version%%.*}.$((${minor#*.} + 1))
    for question in "" "$version" "$version;EXACT" "$minor" "$minor;COMPONENTS;shared;static" "0.0.1...$version" "$minor...$next"; do
        attempt "find_package(libkd $question)" ask yes "$prefix" "$question" libkd::kd_static
    done
    for question in "$next" "99" "$version.1" "$minor;EXACT;COMPONENTS;none" "0.0.1...<$version" "COMPONENTS;frob"; do
        attempt "find_package(libkd $question): no" ask no "$prefix" "$question"
    done
    attempt "libkd::kd of a static install" ask yes "$work/static/opt/kd" "COMPONENTS;static" libkd::kd
    attempt "no shared component in a static install" ask no "$work/static/opt/kd" "COMPONENTS;shared"
    attempt "libkd::kd of a shared install" ask yes "$work/shared/opt/kd" "COMPONENTS;shared" libkd::kd
    attempt "no static component in a shared install" ask no "$work/shared/opt/kd" "COMPONENTS;static"
    mkdir -p "$work/link" && ln -s "$prefix/lib" "$work/link/lib"
    attempt "through a linked lib folder" ask yes "$work/link" "" libkd::kd
    static_as_kd() {
        keep=$prefix prefix=$work/static/opt/kd
        sed 's/COMPONENTS static//; s/libkd::kd_static/libkd::kd/' "$work/project/CMakeLists.txt" >"$work/lists" &&
            mv "$work/lists" "$work/project/CMakeLists.txt" && with_cmake "${CC:-cc}" c11 static
        code=$?
        prefix=$keep
        return $code
    }
    attempt "libkd::kd of a static install, linked" static_as_kd
else
    skip "what find_package answers" "no cmake"
fi
if have pkg-config; then
    static_pc() {
        PKG_CONFIG_PATH=$work/static/opt/kd/lib/pkgconfig
        config="pkg-config --define-variable=prefix=$work/static/opt/kd"
        by_hand "${CC:-cc}" c11 static "$($config --cflags libkd)" "$($config --libs libkd)"
    }
    attempt "pkg-config of a static install, without --static" static_pc
    PKG_CONFIG_PATH=lib
    uninstalled() { by_hand "${CC:-cc}" c11 shared "$(pkg-config --cflags libkd)" "$(pkg-config --libs libkd)"; }
    attempt "pkg-config of the tree itself" uninstalled
else
    skip "pkg-config of other installs" "no pkg-config"
fi

# ---- what cannot be built here: the names and flags only ----------------------------------------------------------------
# a build with BLIS, where that has a .pc file and where it has none
with_blis() {
    PKG_CONFIG_LIBDIR=$work/$1 PKG_CONFIG_PATH='' $MAKE -o lib/libkd.a -o "$(echo lib/libkd.so.*.*.*)" install DESTDIR="$work/$1" \
        PREFIX=/opt/kd BLIS=1 &&
        grep -q -x "$2" "$work/$1/opt/kd/lib/pkgconfig/libkd.pc"
}
if have pkg-config; then
    mkdir "$work/blis" "$work/no-blis"
    printf 'Name: blis\nDescription: BLAS\nVersion: 1\nLibs: -lblis\n' >"$work/blis/blis.pc"
    attempt "Requires.private: blis" with_blis blis 'Requires.private: blis'
    attempt "-lblis where BLIS has no .pc" with_blis no-blis 'Libs.private: -lblis -lm -pthread'
else
    skip "BLIS in libkd.pc" "no pkg-config"
fi
# TRIPLE PART-OF-THE-COMMANDS...: make -n, with a compiler that only knows what it compiles for
commands_for() {
    printf '#!/bin/sh\ncase "$*" in *-dumpmachine*) echo %s ;; *) exit 1 ;; esac\n' "$1" >"$work/cc" && chmod +x "$work/cc"
    $MAKE -n CONFIG=dry CC="$work/cc" PREFIX=/opt/kd install >"$work/commands"
    rm -rf lib/obj/dry
    shift
    for part; do grep -q -F -e "$part" "$work/commands" || { echo "no $part in"; cat "$work/commands"; return 1; }; done
}
attempt "macOS, commands" commands_for arm64-apple-darwin22 '-dynamiclib -install_name @rpath/libkd.0.dylib -compatibility_version 0' \
    '-exported_symbols_list' '"/opt/kd/lib/libkd.dylib"' 'ar rcs'
attempt "FreeBSD, commands" commands_for x86_64-unknown-freebsd14 '-soname,libkd.so.0' '"/opt/kd/libdata/pkgconfig/libkd.pc"'

# ---- and away ------------------------------------------------------------------------------------------------------------
gone() {
    $MAKE uninstall DESTDIR="$work/$1" PREFIX=/opt/kd && [ -z "$(find "$work/$1" ! -type d)" ] &&
        [ -z "$(find "$work/$1" -type d \( -name cmake -o -name pkgconfig -o -name man3 -o -name '*libkd*' \))" ]
}
for stage in stage static shared; do attempt "uninstall, $stage" gone $stage; done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
