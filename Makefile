# libkd.  `make help` lists the targets.
#   make                     lib/libkd.a, lib/libkd.so
#   make demo                a teacher teaches a student, on real data
#   make check               the tests
#   make install             into PREFIX, below DESTDIR
# CC CFLAGS CPPFLAGS LDFLAGS LDLIBS AR are yours; libkd's own flags are added to them.
# CONFIG=name keeps a build of its own, in lib/obj/name: asan, tsan and msan (clang) are known; any other name is
# for flags of your choice, as in: make CONFIG=mine CFLAGS='-O2 -march=native' check

CONFIG  ?= release
SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread
SAN_msan := -fsanitize=memory -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CC      ?= cc
AR      ?= ar
NM      ?= nm
STRIP   ?= strip
CFLAGS  ?= $(if $(SAN_$(CONFIG)),-O1 -g1,-O2 -g)
INSTALL ?= install
BUILD_SHARED ?= yes
BUILD_STATIC ?= yes
V       ?= 0
ifeq ($(origin CC),default)
CC := cc
endif
space := $() $()
.DEFAULT_GOAL := all
Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-6s %s\n' $(1) $(2);)

version = $(shell sed -n 's/^\#define KD_VERSION_$(1) *\([0-9]*\).*/\1/p' include/kd/base.h)
VERSION := $(call version,MAJOR).$(call version,MINOR).$(call version,PATCH)
ABI     := $(shell sed -n 's/^\#define KD_ABI_VERSION *\([0-9]*\).*/\1/p' include/kd/base.h)

# ---- what is built ---------------------------------------------------------------------------------
TARGET  := $(shell $(CC) -dumpmachine)
MACHINE := $(firstword $(subst -, ,$(TARGET)))
WINDOWS := $(findstring mingw,$(TARGET))
ISAS    := scalar
ifneq (,$(filter x86_64 amd64,$(MACHINE)))
ISAS    += avx2 avx512
endif
ifneq (,$(filter aarch64 arm64,$(MACHINE)))
ISAS    += neon
endif
# The plain-C level is there to be right, on CPUs that have nothing better: small.  Its vectors are arrays, of fixed size and
# never indexed by data, each of which would have a canary.  Sanitized, it takes minutes with debugging symbols, and proves no more.
FLAGS_scalar  = $(if $(SAN),-O1 -g0,-Os $(LEAN_scalar))
# Nothing of C throws, and a callback may not: tables to unwind by would be a tenth of the library.  -g keeps them for debuggers, where
# strip takes them.  Windows walks stacks by such tables.
TABLES        = $(if $(SAN)$(WINDOWS),,-fno-asynchronous-unwind-tables)
# Kernels call nobody.
LEAN          = $(if $(SAN),,-fno-asynchronous-unwind-tables $(DENSE))
FLAGS_neon   :=
FLAGS_avx2   := -mavx2 -mfma -mf16c -mbmi2
# Windows aligns the stack to 16 bytes only, which gcc forgets when it spills a ymm register.
ifneq (,$(and $(WINDOWS),$(findstring gcc,$(notdir $(CC)))))
FLAGS_avx2   += -Wa,-muse-unaligned-vector-move
endif
FLAGS_avx512 := $(FLAGS_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd -mprefer-vector-width=512

LIB     := lib
OBJ     := $(LIB)/obj/$(CONFIG)
OUT     := $(if $(filter release,$(CONFIG)),$(LIB),$(OBJ))

WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wvla -Wstrict-prototypes -Wmissing-prototypes \
        -Wundef -Wcast-qual -Wwrite-strings $(if $(SAN),,-Wframe-larger-than=16384)
BASE = -std=c11 $(WARN) -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math \
        '-ffile-prefix-map=$(CURDIR)=.' $(PTHREAD) -Iinclude -Isrc -MMD -MP \
        -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE -D_FILE_OFFSET_BITS=64
# compilers write down the folder as PWD names it, which is not CURDIR below a symbolic link
export PWD := $(CURDIR)
SAN  := $(SAN_$(CONFIG))

# Hardening, as far as the compiler has it: asked once, kept beside the objects.  HARDEN= turns it off; CFLAGS come later and win.
# Fortifying needs an optimizer, and is yours where you name it.  Sanitizers have checks of their own, and for
# Windows it would need a library of the compiler's.
# LEAN_*: what keeps kernels small (docs/design/simd.md), where the compiler knows it.
PROBED := $(OBJ)/hardening$(subst /,_,$(subst $(space),_,$(addprefix -,$(CC)))).mk
$(PROBED):
	@mkdir -p $(@D)
	@has() { echo '#include <stdio.h>' | $(CC) -O2 -Werror "$$@" -x c -fsyntax-only - 2>/dev/null; }; \
	  harden=; for f in -fstack-protector-strong -fstack-clash-protection -fcf-protection -mbranch-protection=standard; do \
	    if has $$f; then harden="$$harden $$f"; fi; done; \
	  lean=; dense=; for f in -fno-inline-functions-called-once -fno-stack-protector; do if has $$f; then lean="$$lean $$f"; fi; done; \
	  gcse=; if has -fno-gcse; then gcse=-fno-gcse; fi; oz=-Os; if has -Oz; then oz=-Oz; fi; \
	  small="$$oz"; if has -fno-move-loop-invariants; then small="$$small -fno-move-loop-invariants"; fi; \
	  for f in -fno-tree-sra -fno-inline -fno-tree-loop-distribute-patterns; do if has $$f; then lean="$$lean $$f"; fi; done; \
	  for f in -fno-align-jumps -fno-align-labels; do if has $$f; then dense="$$dense $$f"; fi; done; ivopts=; if has -fno-ivopts; then ivopts=-fno-ivopts; fi; \
	  loops=-ftree-vectorize; if has -fvect-cost-model=cheap; then loops="$$loops -fvect-cost-model=cheap"; fi; \
	  if has -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3; then level=3; else level=2; fi; \
	  { echo "HARDEN ?=$$harden"; echo "FORTIFY ?= -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=$$level"; \
	    echo "SMALLEST ?= $$small"; echo "LEAN_scalar ?= $$small$$lean"; echo "DENSE ?=$$dense"; echo "LEAN_vector ?= $$gcse"; echo "LEAN_gemm ?= $$ivopts"; \
	    echo "LOOP_FLAGS ?= $$loops"; } > $@
ifneq (,$(if $(MAKECMDGOALS),$(filter-out clean help info dist uninstall,$(MAKECMDGOALS)),all))
ifeq (,$(SAN))
include $(PROBED)
endif
ifeq (,$(SAN)$(WINDOWS))
BASE += $(HARDEN) $(if $(findstring _FORTIFY_SOURCE,$(CPPFLAGS) $(CFLAGS)),,$(if $(filter-out -O0,$(filter -O%,$(CFLAGS))),$(FORTIFY)))
endif
endif
ISA_DEFS := $(patsubst %,-DKD_BUILD_%=1,$(ISAS))

ifeq ($(BLIS),1)
BASE   += -DKD_BLIS=1
override LDLIBS += -lblis
endif
# POSIX threads, where it is those that the library uses
PTHREAD := $(if $(WINDOWS)$(findstring KD_NO_THREADS,$(CPPFLAGS)),,-pthread)
override LDLIBS += -lm $(PTHREAD)

SRC  := $(sort $(filter-out src/kernels/kern_%,$(wildcard src/*/*.c)))
KERN := $(sort $(wildcard src/kernels/kern_*.c))
OBJS := $(SRC:src/%.c=$(OBJ)/%.o)
define ISA_RULE
$(OBJ)/kernels/%.$(1).o: src/kernels/%.c
	@mkdir -p $$(@D)
	$$(call say,CC,'$$< ($(1))')$$(CC) $$(BASE) $$(LEAN) -Wno-missing-prototypes -DKD_ONE_MATH=1 $$(CPPFLAGS) $$(CFLAGS) $$(SAN) $$(FLAGS_$(1)) -DKD_ISA=$(1) -DKD_ISA_$(1)=1 -fno-lto -c $$< -o $$@
KOBJS += $(KERN:src/%.c=$(OBJ)/%.$(1).o)
endef
$(foreach isa,$(ISAS),$(eval $(call ISA_RULE,$(isa))))
# Where constants are many, moving what branches share before them makes more than there are registers; so do pointers of their own
# for each row of a tile.
vector_objs = $(foreach kern,$(1),$(foreach isa,$(filter-out scalar,$(ISAS)),$(OBJ)/kernels/kern_$(kern).$(isa).o))
$(call vector_objs,depthwise distill eltwise gemm rnn softmax): LEAN += $(if $(SAN),,$(LEAN_vector))
$(call vector_objs,gemm): LEAN += $(if $(SAN),,$(LEAN_gemm))
$(call vector_objs,gemm conv): DENSE =

# The shared library, the name that programs record (SONAME), the name that -lkd finds, and how it is linked.
# -Bsymbolic-functions: libkd calls its own functions, not by a table that a program could fill with others.
ifneq (,$(findstring darwin,$(TARGET)))
SO      := $(OUT)/libkd.$(VERSION).dylib
SONAME  := libkd.$(ABI).dylib
SOLINK  := libkd.dylib
EXPORTS := $(OBJ)/libkd.exp
SOFLAGS := -dynamiclib -install_name @rpath/$(SONAME) -compatibility_version $(ABI) -current_version $(VERSION) \
           -exported_symbols_list $(EXPORTS)
ARFLAGS := rcs
else ifneq (,$(WINDOWS))
SO      := $(OUT)/libkd-$(ABI).dll
SONAME  :=
SOLINK  := libkd.dll.a
EXPORTS := $(OBJ)/libkd.def
SOFLAGS := -shared $(EXPORTS) -Wl,--out-implib,$(OUT)/$(SOLINK)
ARFLAGS := Drcs
else
SO      := $(OUT)/libkd.so.$(VERSION)
SONAME  := libkd.so.$(ABI)
SOLINK  := libkd.so
EXPORTS := src/libkd.map
SOFLAGS := -shared -Wl,-soname,$(SONAME) -Wl,--version-script=$(EXPORTS) -Wl,-z,relro,-z,now,-z,noexecstack,-z,nodelete,--as-needed \
           -Wl,-Bsymbolic-functions $(if $(SAN),,-Wl,-z,defs)
ARFLAGS := Drcs
endif
A  := $(OUT)/libkd.a
PC := $(OUT)/libkd-uninstalled.pc
ifneq (,$(filter-out yes no,$(BUILD_SHARED) $(BUILD_STATIC)))
$(error BUILD_SHARED and BUILD_STATIC are yes or no)
endif
SHARED := $(filter yes,$(BUILD_SHARED))
STATIC := $(filter yes,$(BUILD_STATIC))
ifeq (,$(SHARED)$(STATIC))
$(error BUILD_SHARED=no and BUILD_STATIC=no leave nothing to build)
endif

all: $(if $(STATIC),$(A)) $(if $(SHARED),$(SO)) $(PC) ## the library, static and shared (BUILD_STATIC=no, BUILD_SHARED=no)

# Rooms leave the loops over numbers to kernels, and are compiled small, but for the files that go over numbers, rows or tiles themselves.
FAST := $(addprefix $(OBJ)/,tensor/convert.o tensor/copy.o tensor/conv_direct.o tensor/conv_weight.o tensor/gemm.o)
# Methods whose rows are loops of their own: four numbers at a time.
LOOPS := $(addprefix $(OBJ)/distill/,akl.o binary.o ctkd.o row_ops.o skew_kl.o skew_reverse_kl.o tvd.o uld.o uskd.o)
$(LOOPS): SMALL = $(if $(filter -O2,$(CFLAGS)),$(LOOP_FLAGS))
$(filter-out $(FAST) $(LOOPS),$(filter $(foreach room,base cpu tensor autograd nn distill optim zoo data io,$(OBJ)/$(room)/%),$(OBJS))): \
  SMALL = $(if $(filter -O2,$(CFLAGS)),$(or $(SMALLEST),-Os))
$(OBJ)/%.o: src/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(BASE) $(TABLES) $(ISA_DEFS) $(CPPFLAGS) $(CFLAGS) $(SMALL) $(SAN) -c $< -o $@

$(A): $(OBJS) $(KOBJS)
	$(call say,AR,$@)rm -f $@ && $(AR) $(ARFLAGS) $@ $^

$(SO): $(OBJS) $(KOBJS) $(EXPORTS)
	$(call say,LD,$@)$(CC) $(CFLAGS) $(SAN) $(LDFLAGS) $(SOFLAGS) $(OBJS) $(KOBJS) $(LDLIBS) -o $@
	$(if $(SONAME),@ln -sf $(@F) $(OUT)/$(SONAME) && ln -sf $(SONAME) $(OUT)/$(SOLINK))
$(OBJ)/libkd.exp: src/libkd.map
	@mkdir -p $(@D)
	$(call say,EXP,$@)sed -n 's/^ *\(kd_[a-z0-9_]*\);$$/_\1/p' $< > $@
$(OBJ)/libkd.def: src/libkd.map
	@mkdir -p $(@D)
	$(call say,DEF,$@)sed -n 's/^LIBKD.*/EXPORTS/p; s/^ *\(kd_[a-z0-9_]*\);$$/    \1/p' $< > $@

# ---- one file --------------------------------------------------------------------------------------
# The generator runs here, whatever the library is compiled for: HOSTCC.
HOSTCC ?= cc
AMALGAMATION := $(LIB)/amalgamation
amalgamation: $(AMALGAMATION)/kd.c ## the library as one file: kd.c + kd.h, or kd_single.h, in lib/amalgamation
$(LIB)/obj/amalgamate: tests/tools/amalgamate.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(HOSTCC) -std=c11 -Wall -Wextra -D_POSIX_C_SOURCE=200809L -O1 $< -o $@
$(AMALGAMATION)/kd.c: $(LIB)/obj/amalgamate LICENSE include/kd.h $(wildcard include/kd/*.h src/*/*.[ch] src/*/*.def)
	@mkdir -p $(@D)
	$(call say,JOIN,$@)$< $(@D)
# compiled as a stranger would, without a flag of ours; fast, but with the pass of gcc that contracts
$(OBJ)/tests/amalgamation/kd.o: $(AMALGAMATION)/kd.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) -O1 -fexpensive-optimizations -Wno-ignored-optimization-argument -c $< -o $@

# ---- tests -----------------------------------------------------------------------------------------
# compiling it once more takes a while: sanitized builds leave it out
TESTS := $(sort $(filter-out $(if $(SAN),%/test_amalgamation.c),$(wildcard tests/*/test_*.c)) tests/kernels/checkkd.c)
TBIN  := $(TESTS:tests/%.c=$(OBJ)/tests/%)
TKIT  := $(patsubst tests/%.c,$(OBJ)/tests/%.o,$(sort $(wildcard tests/kit/*.c tests/ref/*.c)))
TINC  := -Itests/kit -Itests/ref -Wno-missing-prototypes -DKD_TEST_ROOT='"$(CURDIR)"'

# test code that runs on every instruction set, compiled as kernels are
TKERN := $(sort $(wildcard tests/kernels/kern_*.c))
define TEST_ISA_RULE
$(OBJ)/tests/%.$(1).o: tests/%.c
	@mkdir -p $$(@D)
	$$(call say,CC,'$$< ($(1))')$$(CC) $$(BASE) $$(TINC) $$(CPPFLAGS) $$(CFLAGS) $$(SAN) $$(FLAGS_$(1)) -DKD_ISA=$(1) -DKD_ISA_$(1)=1 -fno-lto -c $$< -o $$@
TKIT += $(TKERN:tests/%.c=$(OBJ)/tests/%.$(1).o)
endef
$(foreach isa,$(ISAS),$(eval $(call TEST_ISA_RULE,$(isa))))

$(OBJ)/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(BASE) $(TINC) $(ISA_DEFS) $(CPPFLAGS) $(CFLAGS) -fno-tree-vectorize $(SAN) -c $< -o $@
$(OBJ)/tests/%: $(OBJ)/tests/%.o $(TKIT) $(A)
	$(call say,LD,$@)$(CC) $(CFLAGS) $(SAN) $(LDFLAGS) $(filter %.o,$^) $(A) $(LDLIBS) -o $@
$(OBJ)/tests/api/test_amalgamation: $(OBJ)/tests/api/test_amalgamation.o $(OBJ)/tests/golden/test_hashes.o $(TKIT) $(OBJ)/tests/amalgamation/kd.o
	$(call say,LD,$@)$(CC) $(CFLAGS) $(LDFLAGS) $^ -lm -pthread -o $@
FUZZ  := $(patsubst tests/%.c,$(OBJ)/tests/%.o,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FAULT := $(OBJ)/tests/faults/scenario.o $(OBJ)/tests/faults/fault_io.o
METHODS := $(OBJ)/tests/methods/methods_check.o
$(OBJ)/tests/methods/test_methods_outputs $(OBJ)/tests/methods/test_methods_features: $(METHODS)
CHECKS := $(patsubst tests/%.c,$(OBJ)/tests/%.o,$(sort $(wildcard tests/kernels/check_*.c tests/kernels/checkkd_*.c)))
CHECKKD := $(OBJ)/tests/kernels/checkkd
$(CHECKKD): $(CHECKS)
$(OBJ)/tests/fuzz/test_replay: $(FUZZ)
$(patsubst tests/%.c,$(OBJ)/tests/%,$(wildcard tests/faults/test_*.c)): $(FAULT)
# the parts of an example, as it has them
PARTS := $(patsubst %.c,$(OBJ)/%.o,$(sort $(wildcard examples/vision/*.c examples/support/*.c)))
$(OBJ)/examples/%.o: examples/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) -std=c11 -Wall -Wextra -MMD -MP $(CPPFLAGS) $(CFLAGS) $(SAN) -Iinclude -c $< -o $@
$(OBJ)/tests/golden/test_golden_deit: $(PARTS)
.SECONDARY: $(TBIN:%=%.o) $(TKIT) $(FUZZ) $(FAULT) $(METHODS) $(CHECKS) $(PARTS)

tests: $(TBIN) ## build the tests
check: $(A) $(SO) $(PC) $(TBIN) $(OUT)/examples/distill_vision ## run the tests (under 90 s on two cores)
	@KD_OBJ=$(OBJ) KD_OUT=$(OUT) KD_CC='$(CC)' KD_NM='$(NM)' KD_HARDEN='$(HARDEN) $(CFLAGS)' sh tests/tools/run.sh $(TBIN)
checkkd: $(CHECKKD) ## every kernel on every instruction set in full (ARGS='--kernel GLOB --isa NAME --seed N --bench')
	@$< $(if $(filter --bench,$(ARGS)),,--full) $(ARGS)
check-all: ## the long tests: sanitizers, every instruction set, other compilers, valgrind, NEON
	@MAKE='$(MAKE)' sh tests/tools/check_all.sh
check-embed: ## one file by each compiler, builds without threads and without files
	@MAKE='$(MAKE)' sh tests/tools/embed.sh
check-cross: ## aarch64, arm, Windows and musl: built, and run where an emulator is there
	@MAKE='$(MAKE)' sh tests/tools/cross.sh
ready: ## everything a reviewer would ask, one line each
	@MAKE='$(MAKE)' sh tests/tools/ready.sh
abi: ## record the present headers in docs/abi and src/libkd.map: after an addition, or a break that is meant
	@KD_CC='$(CC)' sh tests/tools/gen_abi.sh && sh tests/tools/gen_map.sh > src/libkd.map
lint: $(OBJ)/tests/api/test_source ## the rules of the source tree
	@$< -v

docs: ## docs/reference and docs/man from the headers, docs/methods from the methods' files
	$(Q)sh tests/tools/gen_reference.sh
	$(Q)sh tests/tools/gen_methods.sh
.PHONY: docs

# ---- examples --------------------------------------------------------------------------------------
EXAMPLES := $(patsubst examples/%.c,$(OUT)/examples/%,$(sort $(wildcard examples/*.c)))
SUPPORT  := $(sort $(wildcard examples/support/*.c))
examples: $(EXAMPLES) ## build the examples, in lib/examples (IMAGES=1: distill_vision reads PNG and JPEG)
$(OUT)/examples/%: examples/%.c $(SUPPORT) $(wildcard examples/support/*.h) $(A)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) -std=c11 -Wall -Wextra $(PICTURES) $(CPPFLAGS) $(CFLAGS) $(SAN) -Iinclude $< $(SUPPORT) \
	  $(LDFLAGS) $(A) $(PICTURE_LIBS) $(LDLIBS) -o $@
# Several files; with IMAGES=1 it reads PNG and JPEG by libpng and libjpeg-turbo, which libkd itself never needs.
VISION   := $(sort $(wildcard examples/vision/*.c))
$(OUT)/examples/distill_vision: $(VISION) $(wildcard examples/vision/*.h) $(OBJ)/images-$(or $(IMAGES),0)
$(OUT)/examples/distill_vision: SUPPORT += $(VISION)
$(OUT)/examples/distill_vision: PICTURES := $(if $(filter 1,$(IMAGES)),-DKD_IMAGES=1)
$(OUT)/examples/distill_vision: PICTURE_LIBS := $(if $(filter 1,$(IMAGES)),-lpng -ljpeg)
$(OBJ)/images-%:
	@mkdir -p $(@D) && rm -f $(OBJ)/images-* && touch $@
check-images: $(A) ## PNG and JPEG in distill_vision (PEERS_PYTHON=python with numpy and Pillow)
	@MAKE='$(MAKE)' CC='$(CC)' PEERS_PYTHON='$(PEERS_PYTHON)' KD_OUT=$(OUT) sh tests/tools/check_images.sh
.PHONY: check-images
MPICC ?= mpicc
examples-mpi: $(OUT)/examples/mpi/distill_mpi ## build the MPI example (MPICC=mpicc)
$(OUT)/examples/mpi/%: examples/mpi/%.c $(A)
	@mkdir -p $(@D)
	$(call say,MPICC,$<)$(MPICC) -std=c11 -Wall -Wextra $(CPPFLAGS) $(CFLAGS) $(SAN) -Iinclude $< $(LDFLAGS) $(A) $(LDLIBS) -o $@
check-mpi: all ## the distributed examples on 1, 2, 4 ranks (MPICC=mpicc MPIRUN=mpirun PEERS_PYTHON=python with torch)
	@MAKE='$(MAKE)' MPICC='$(MPICC)' CC='$(CC)' PEERS_PYTHON='$(PEERS_PYTHON)' KD_OUT=$(OUT) sh tests/tools/check_mpi.sh
.PHONY: examples-mpi check-mpi
demo: $(OUT)/examples/distill_digits $(if $(filter fashion,$(DATA)),fashion) ## a teacher teaches a student, on real data (DATA=fashion LABELS=all)
	$(Q)$< $(if $(DATA),--data $(DATA)) $(if $(LABELS),--labels $(LABELS)) $(if $(SEEDS),--seeds $(SEEDS)) --out $(OUT)/demo \
	  $(if $(filter fashion,$(DATA)),--images $(OUT)/demo/fashion)

methods: $(OUT)/examples/methods ## every method on few labels: docs/methods/results.md (SEEDS=5 STEPS=690 ONLY=name,name); some 15 minutes
	$(Q)$< $(if $(SEEDS),--seeds $(SEEDS)) $(if $(STEPS),--steps $(STEPS)) $(if $(ONLY),--only $(ONLY),--out docs/methods/results.md)

# Debian's dataset-fashion-mnist, unpacked: the library reads IDX and refuses gzip by name.
FASHION_FROM ?= /usr/share/datasets/fashion-mnist
fashion: $(patsubst %,$(OUT)/demo/fashion/%,train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte)
$(OUT)/demo/fashion/%: $(FASHION_FROM)/%.gz
	@mkdir -p $(@D)
	$(call say,GUNZIP,$@)gzip -dc $< > $@
$(FASHION_FROM)/%.gz:
	@echo "$@ is missing: apt-get install dataset-fashion-mnist, or FASHION_FROM=folder with the four .gz files"; false

# ---- Python --------------------------------------------------------------------------------------------
PYTHON ?= python3
wheel: $(SO) ## a wheel of the Python package, in lib/dist
	@MAKE='$(MAKE)' $(PYTHON) src/python/kd_build.py wheel $(LIB)/dist
check-python: $(SO) ## the tests of the Python package on every Python that is here (PYTHONS="more interpreters" FILES="tests/python/..")
	@KD_OUT=$(OUT) MAKE='$(MAKE)' PYTHONS='$(PYTHONS)' sh tests/tools/check_python.sh $(FILES)
python-api: ## write the tables of the Python package again, from include/kd and the .def files
	@$(PYTHON) src/python/gen_api.py
.PHONY: wheel check-python python-api

# ---- measuring -------------------------------------------------------------------------------------
PEERS_PYTHON ?= python3
BENCH := $(OBJ)/tests/bench
$(OBJ)/bench/bench: $(patsubst tests/%.c,$(OBJ)/tests/%.o,$(filter-out %/bench_peers.c,$(wildcard tests/bench/*.c))) \
  $(ISAS:%=$(OBJ)/tests/kernels/kern_limits.%.o)
$(OBJ)/bench/bench_peers: $(BENCH)/bench_peers.o $(BENCH)/bench_cases.o $(BENCH)/bench_features.o
$(OBJ)/bench/%: $(A)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(CFLAGS) $(SAN) $(LDFLAGS) $(filter %.o,$^) $(A) $(LDLIBS) -o $@
bench: $(OBJ)/bench/bench $(SO) ## limits of this machine, and how near kernels, ops and steps come (PART="kernels ops steps loader start")
	@mkdir -p $(OUT)/bench
	@$(STRIP) -o $(OUT)/bench/libkd.so $(SO)
	@$< $(OUT)/bench/libkd.so $(PART)
# ISA=avx2 caps both sides
PEERS_CAP := $(if $(filter avx2,$(ISA)),KD_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 \
  MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell)
bench-peers: $(OBJ)/bench/bench_peers ## the same work in PyTorch and others beside it (PEERS_PYTHON=python CASES=globs THREADS=1,2 QUICK=1 ISA=avx2 COMPILE=1)
	@mkdir -p $(OUT)/bench
	@env $(PEERS_CAP) $(PEERS_PYTHON) tests/tools/bench_peers.py $< $(OUT)/bench $(if $(QUICK),--quick) \
	  $(if $(THREADS),--threads $(THREADS)) $(if $(COMPILE),--compile) $(CASES)
parity: $(SO) ## the zoo beside PyTorch, weights there and back: docs/results/parity.md (PEERS_PYTHON=python MODELS="globs")
	@mkdir -p docs/results
	@LIBKD_PATH=$(OUT) $(PEERS_PYTHON) tests/tools/parity.py $(if $(MODELS),$(MODELS),--out docs/results/parity.md)
.PHONY: parity

# ---- installing ------------------------------------------------------------------------------------
# Where to, in upper or lower case.  pkg-config looks in libdata on the BSDs.
PREFIX ?= $(or $(prefix),/usr/local)
override PREFIX := $(patsubst %/,%,$(abspath $(PREFIX)))
EXEC_PREFIX  ?= $(or $(exec_prefix),$(PREFIX))
LIBDIR       ?= $(or $(libdir),$(EXEC_PREFIX)/lib)
INCLUDEDIR   ?= $(or $(includedir),$(PREFIX)/include)
MANDIR       ?= $(or $(mandir),$(PREFIX)/share/man)
DOCDIR       ?= $(or $(docdir),$(PREFIX)/share/doc/libkd)
PKGCONFIGDIR ?= $(or $(pkgconfigdir),$(if $(findstring bsd,$(TARGET)),$(PREFIX)/libdata,$(LIBDIR))/pkgconfig)
CMAKEDIR      = $(LIBDIR)/cmake/libkd
URL          ?= file://$(DOCDIR)/README.md

HEADERS  := $(sort $(wildcard include/kd/*.h))
MANPAGES := $(sort $(wildcard docs/man/*.3))
# BLIS by its own .pc file where it has one (Debian's has none)
blis_pc  = $(if $(filter 1,$(BLIS)),$(shell pkg-config --exists blis 2>/dev/null && echo blis))
own_libs = $(if $(filter 1,$(BLIS)),$(if $(blis_pc),,-lblis )-lm -pthread,-lm -pthread)
# a path by ${prefix} or ${exec_prefix} where it lies below, and the way from LIBDIR up to PREFIX
pc_path  = $(patsubst $(PREFIX)/%,$${prefix}/%,$(patsubst $(2)/%,$${$(3)}/%,$(1)))
up       = $(subst $(space),/,$(patsubst %,..,$(subst /, ,$(patsubst $(PREFIX)/%,%,$(LIBDIR)))))
below    = $(filter $(PREFIX)/%,$(1))
# The templates in pkgconfig/, filled in.  Without a shared library what it would have linked is the user's to link.
FILL = sed -e '/^\# /d; s|^\#\#|\#|; s|@PREFIX@|$(PREFIX)|; s|@EXEC_PREFIX@|$(if $(filter $(PREFIX),$(EXEC_PREFIX)),$${prefix},$(EXEC_PREFIX))|' \
  -e 's|@LIBDIR@|$(call pc_path,$(LIBDIR),$(EXEC_PREFIX),exec_prefix)|; s|@INCLUDEDIR@|$(call pc_path,$(INCLUDEDIR),$(PREFIX),prefix)|' \
  -e 's|@URL@|$(subst file://$(PREFIX)/,file://$${prefix}/,$(URL))|; s|@VERSION@|$(VERSION)|; s|@MINOR@|$(basename $(VERSION))|; s|@ABI@|$(ABI)|' \
  -e 's|@REQUIRES@|$(if $(SHARED),,$(blis_pc))|; s|@REQUIRES_PRIVATE@|$(if $(SHARED),$(blis_pc))|' \
  -e 's|@LIBS@|$(if $(SHARED),,$(own_libs))|; s|@LIBS_PRIVATE@|$(if $(SHARED),$(own_libs))|' \
  -e 's|@SO@|$(notdir $(SO))|; s|@SONAME@|$(SONAME)|; s|@LINK@|$(subst $(space),;,$(strip $(patsubst -l%,%,$(blis_pc) $(own_libs))))|' \
  -e 's|@CMAKE_INCLUDEDIR@|$(if $(and $(call below,$(LIBDIR)),$(call below,$(INCLUDEDIR))),$${_libkd_libdir}/$(up)/$(patsubst \
     $(PREFIX)/%,%,$(INCLUDEDIR)),$(INCLUDEDIR))|; s|@TO_INCLUDE@|$(if $(filter release,$(CONFIG)),..,../../..)/include|' \
  -e 's| *$$||; /^[LR][a-z.]*:$$/d'

$(PC): pkgconfig/libkd-uninstalled.pc.in include/kd/base.h Makefile
	@mkdir -p $(@D)
	$(call say,PC,$@)$(FILL) $< > $@
install: all ## into PREFIX, EXEC_PREFIX, LIBDIR, INCLUDEDIR, MANDIR, DOCDIR, PKGCONFIGDIR, below DESTDIR
	@$(INSTALL) -d -m 755 $(INTO:%="$(DESTDIR)%")
	$(if $(STATIC),$(INSTALL) -m 644 $(A) "$(DESTDIR)$(LIBDIR)/libkd.a")
	$(if $(SHARED),$(INSTALL) -m 755 $(SO) "$(DESTDIR)$(LIBDIR)/$(notdir $(SO))")
	$(if $(SHARED),ln -sf $(notdir $(SO)) "$(DESTDIR)$(LIBDIR)/$(SONAME)")
	$(if $(SHARED),ln -sf $(SONAME) "$(DESTDIR)$(LIBDIR)/$(SOLINK)")
	$(INSTALL) -m 644 include/kd.h "$(DESTDIR)$(INCLUDEDIR)/kd.h"
	$(INSTALL) -m 644 $(HEADERS) "$(DESTDIR)$(INCLUDEDIR)/kd"
	$(INSTALL) -m 644 LICENSE README.md docs/CHANGELOG.md "$(DESTDIR)$(DOCDIR)"
	$(if $(MANPAGES),$(INSTALL) -m 644 $(MANPAGES) "$(DESTDIR)$(MANDIR)/man3")
	$(FILL) pkgconfig/libkd.pc.in > "$(DESTDIR)$(PKGCONFIGDIR)/libkd.pc"
	$(FILL) pkgconfig/libkdConfig.cmake.in > "$(DESTDIR)$(CMAKEDIR)/libkdConfig.cmake"
	bytes=$$(echo __SIZEOF_POINTER__ | $(CC) $(CFLAGS) -E -P -x c -) && $(FILL) -e "s|@POINTER@|$$bytes|" pkgconfig/libkdConfigVersion.cmake.in \
	  > "$(DESTDIR)$(CMAKEDIR)/libkdConfigVersion.cmake"
	@chmod 644 "$(DESTDIR)$(PKGCONFIGDIR)/libkd.pc" "$(DESTDIR)$(CMAKEDIR)"/libkdConfig*.cmake
# Directories, children first.  LIBDIR, INCLUDEDIR and MANDIR themselves stay; the rest goes if nothing of others is in it.
INTO = $(CMAKEDIR) $(PKGCONFIGDIR) $(INCLUDEDIR)/kd $(DOCDIR) $(if $(MANPAGES),$(MANDIR)/man3)
INSTALLED = $(LIBDIR)/libkd.a $(addprefix $(LIBDIR)/,$(notdir $(SO)) $(SONAME) $(SOLINK)) $(PKGCONFIGDIR)/libkd.pc \
  $(CMAKEDIR)/libkdConfig.cmake $(CMAKEDIR)/libkdConfigVersion.cmake $(INCLUDEDIR)/kd.h $(HEADERS:include/%=$(INCLUDEDIR)/%) \
  $(addprefix $(DOCDIR)/,LICENSE README.md CHANGELOG.md) $(MANPAGES:docs/man/%=$(MANDIR)/man3/%)
uninstall: ## what install put there
	rm -f $(INSTALLED:%="$(DESTDIR)%")
	@rmdir $(INTO:%="$(DESTDIR)%") "$(DESTDIR)$(LIBDIR)/cmake" 2>/dev/null || :
dist: ## lib/dist/libkd-VERSION.tar.gz, the same bytes from the same commit
	@sh tests/tools/dist.sh $(VERSION) $(LIB)/dist

info: ## what would be built, and how
	@echo "version   $(VERSION), ABI $(ABI)"
	@echo "compiler  $(CC) ($(TARGET) $(shell $(CC) -dumpversion))"
	@echo "flags     $(CPPFLAGS) $(CFLAGS) $(SAN)"
	@echo "sets      $(ISAS)"
	@echo "blis      $(if $(filter 1,$(BLIS)),yes,no)"
	@echo "into      $(OUT), objects in $(OBJ)"
	@echo "install   $(DESTDIR)$(LIBDIR), $(DESTDIR)$(INCLUDEDIR)"

# F=npy: only that one; S=600: seconds each.  New inputs gather in lib/obj/fuzz/corpus, findings in lib/obj/fuzz.
FUZZERS := json safetensors npy idx csv model checkpoint ppm randaugment
fuzz: ## run the fuzzers (clang; F=target S=seconds)
	@$(MAKE) --no-print-directory CONFIG=fuzz CC=clang CFLAGS='-O1 -g' ISAS=scalar run-fuzz
run-fuzz: $(FUZZERS:%=$(OBJ)/fuzz_%)
	@for t in $(or $(F),$(FUZZERS)); do mkdir -p $(OBJ)/corpus/$$t; echo "fuzzing $$t"; \
	  $(OBJ)/fuzz_$$t -max_total_time=$(or $(S),60) -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
	    -artifact_prefix=$(OBJ)/$$t- $(OBJ)/corpus/$$t tests/fuzz/corpus/$$t || exit 1; done
$(OBJ)/fuzz_%: tests/fuzz/fuzz_main.c $(FUZZ) $(A)
	$(call say,LD,$@)$(CC) $(BASE) $(TINC) $(CFLAGS) -fsanitize=fuzzer,address,undefined -DKD_FUZZ_TARGET=kdfuzz_$* $< \
	  $(filter-out %/fuzz_main.o,$(FUZZ)) $(A) $(LDLIBS) -o $@

clean: ## remove what the build made
	rm -rf $(LIB)
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

-include $(wildcard $(OBJ)/tests/bench/*.d) $(OBJS:.o=.d) $(KOBJS:.o=.d) $(TBIN:%=%.d) $(TKIT:.o=.d) $(FUZZ:.o=.d) $(FAULT:.o=.d) \
  $(CHECKS:.o=.d) $(METHODS:.o=.d) $(PARTS:.o=.d)
.PHONY: all tests check checkkd check-all ready abi lint fuzz run-fuzz examples demo methods fashion bench bench-peers install uninstall dist info clean help amalgamation check-embed check-cross
.DELETE_ON_ERROR:
