# libkd.  `make help` lists the targets.
#   make                     lib/libkd.a, lib/libkd.so
#   make demo                a teacher teaches a student, on real data
#   make check               the tests
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
PREFIX  ?= $(or $(prefix),/usr/local)
LIBDIR  ?= $(or $(libdir),$(PREFIX)/lib)
INCLUDEDIR ?= $(or $(includedir),$(PREFIX)/include)
INSTALL ?= install
V       ?= 0
ifeq ($(origin CC),default)
CC := cc
endif
Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-6s %s\n' $(1) $(2);)

version = $(shell sed -n 's/^\#define KD_VERSION_$(1) *\([0-9]*\).*/\1/p' include/kd/base.h)
VERSION := $(call version,MAJOR).$(call version,MINOR).$(call version,PATCH)
ABI     := 0

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
# The plain-C level is there to be right, on CPUs that have nothing better: small.  Sanitized, it takes minutes with debugging
# symbols, and proves no more.
FLAGS_scalar  = $(if $(SAN),-O1 -g0,-Os)
# Kernels call nobody, so nobody unwinds through them.
LEAN          = $(if $(SAN),,-fno-asynchronous-unwind-tables)
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
        -ffile-prefix-map=$(CURDIR)=. $(PTHREAD) -Iinclude -Isrc -MMD -MP \
        -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE -D_FILE_OFFSET_BITS=64
SAN  := $(SAN_$(CONFIG))
ISA_DEFS := $(patsubst %,-DKD_BUILD_%=1,$(ISAS))

ifeq ($(BLIS),1)
BASE   += -DKD_BLIS=1
LDLIBS += -lblis
endif
# POSIX threads, where it is those that the library uses
PTHREAD := $(if $(WINDOWS)$(findstring KD_NO_THREADS,$(CPPFLAGS)),,-pthread)
LDLIBS += -lm $(PTHREAD)

SRC  := $(sort $(filter-out src/kernels/kern_%,$(wildcard src/*/*.c)))
KERN := $(sort $(wildcard src/kernels/kern_*.c))
OBJS := $(SRC:src/%.c=$(OBJ)/%.o)
define ISA_RULE
$(OBJ)/kernels/%.$(1).o: src/kernels/%.c
	@mkdir -p $$(@D)
	$$(call say,CC,'$$< ($(1))')$$(CC) $$(BASE) $$(LEAN) -Wno-missing-prototypes $$(CPPFLAGS) $$(CFLAGS) $$(SAN) $$(FLAGS_$(1)) -DKD_ISA=$(1) -DKD_ISA_$(1)=1 -fno-lto -c $$< -o $$@
KOBJS += $(KERN:src/%.c=$(OBJ)/%.$(1).o)
endef
$(foreach isa,$(ISAS),$(eval $(call ISA_RULE,$(isa))))

A  := $(OUT)/libkd.a
SO := $(OUT)/$(if $(WINDOWS),libkd-$(ABI).dll,libkd.so.$(VERSION))

all: $(A) $(SO) ## the library, static and shared

# Rooms that leave the loops over numbers to kernels are compiled small.
$(filter $(foreach room,base autograd nn optim zoo data io,$(OBJ)/$(room)/%),$(OBJS)): SMALL = $(if $(filter -O2,$(CFLAGS)),-Os)
$(OBJ)/%.o: src/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(BASE) $(ISA_DEFS) $(CPPFLAGS) $(CFLAGS) $(SMALL) $(SAN) -c $< -o $@

$(A): $(OBJS) $(KOBJS)
	$(call say,AR,$@)rm -f $@ && $(AR) Drcs $@ $^

ifeq (,$(WINDOWS))
$(SO): $(OBJS) $(KOBJS) src/libkd.map
	$(call say,LD,$@)$(CC) -shared $(CFLAGS) $(SAN) $(LDFLAGS) -Wl,-soname,libkd.so.$(ABI) -Wl,--version-script=src/libkd.map \
	  -Wl,-z,relro,-z,now,-z,noexecstack,-z,nodelete,--as-needed $(if $(SAN),,-Wl,-z,defs) $(OBJS) $(KOBJS) $(LDLIBS) -o $@
	@ln -sf libkd.so.$(VERSION) $(OUT)/libkd.so.$(ABI) && ln -sf libkd.so.$(ABI) $(OUT)/libkd.so
else   # exports by a list, and a library to link with
$(SO): $(OBJS) $(KOBJS) src/libkd.map
	$(Q)(echo EXPORTS; sed -n 's/^    \(kd_[a-z0-9_]*\);$$/    \1/p' src/libkd.map) > $(OBJ)/libkd.def
	$(call say,LD,$@)$(CC) -shared $(CFLAGS) $(LDFLAGS) $(OBJS) $(KOBJS) $(OBJ)/libkd.def -Wl,--out-implib,$(OUT)/libkd.dll.a -lm -o $@
endif

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
CHECKS := $(patsubst tests/%.c,$(OBJ)/tests/%.o,$(sort $(wildcard tests/kernels/check_*.c tests/kernels/checkkd_*.c)))
CHECKKD := $(OBJ)/tests/kernels/checkkd
$(CHECKKD): $(CHECKS)
$(OBJ)/tests/fuzz/test_replay: $(FUZZ)
$(patsubst tests/%.c,$(OBJ)/tests/%,$(wildcard tests/faults/test_*.c)): $(FAULT)
.SECONDARY: $(TBIN:%=%.o) $(TKIT) $(FUZZ) $(FAULT) $(CHECKS)

tests: $(TBIN) ## build the tests
check: all $(TBIN) ## run the tests (under 90 s on two cores)
	@KD_OBJ=$(OBJ) KD_OUT=$(OUT) KD_CC='$(CC)' KD_NM='$(NM)' sh tests/tools/run.sh $(TBIN)
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
lint: $(OBJ)/tests/api/test_source ## the rules of the source tree
	@$< -v

# ---- examples --------------------------------------------------------------------------------------
EXAMPLES := $(patsubst examples/%.c,$(OUT)/examples/%,$(sort $(wildcard examples/*.c)))
SUPPORT  := $(sort $(wildcard examples/support/*.c))
examples: $(EXAMPLES) ## build the examples, in lib/examples
$(OUT)/examples/%: examples/%.c $(SUPPORT) $(wildcard examples/support/*.h) $(A)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) -std=c11 -Wall -Wextra $(CPPFLAGS) $(CFLAGS) $(SAN) -Iinclude $< $(SUPPORT) $(LDFLAGS) $(A) $(LDLIBS) -o $@
demo: $(OUT)/examples/distill_digits $(if $(filter fashion,$(DATA)),fashion) ## a teacher teaches a student, on real data (DATA=fashion LABELS=all)
	$(Q)$< $(if $(DATA),--data $(DATA)) $(if $(LABELS),--labels $(LABELS)) $(if $(SEEDS),--seeds $(SEEDS)) --out $(OUT)/demo \
	  $(if $(filter fashion,$(DATA)),--images $(OUT)/demo/fashion)

# Debian's dataset-fashion-mnist, unpacked: the library reads IDX and refuses gzip by name.
FASHION_FROM ?= /usr/share/datasets/fashion-mnist
fashion: $(patsubst %,$(OUT)/demo/fashion/%,train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte)
$(OUT)/demo/fashion/%: $(FASHION_FROM)/%.gz
	@mkdir -p $(@D)
	$(call say,GUNZIP,$@)gzip -dc $< > $@
$(FASHION_FROM)/%.gz:
	@echo "$@ is missing: apt-get install dataset-fashion-mnist, or FASHION_FROM=folder with the four .gz files"; false

# ---- measuring -------------------------------------------------------------------------------------
PEERS_PYTHON ?= python3
BENCH := $(OBJ)/tests/bench
$(OBJ)/bench/bench: $(patsubst tests/%.c,$(OBJ)/tests/%.o,$(filter-out %/bench_peers.c,$(wildcard tests/bench/*.c))) \
  $(ISAS:%=$(OBJ)/tests/kernels/kern_limits.%.o)
$(OBJ)/bench/bench_peers: $(BENCH)/bench_peers.o $(BENCH)/bench_cases.o
$(OBJ)/bench/%: $(A)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(CFLAGS) $(SAN) $(LDFLAGS) $(filter %.o,$^) $(A) $(LDLIBS) -o $@
bench: $(OBJ)/bench/bench $(SO) ## limits of this machine, and how near kernels, ops and steps come (PART="kernels ops steps start")
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

# ---- installing ------------------------------------------------------------------------------------
HEADERS := $(sort $(wildcard include/kd/*.h))
SONAMES := libkd.so.$(ABI) libkd.so
# a path of the .pc file, by ${prefix} where it lies below
pc_path = $(patsubst $(PREFIX)/%,$${prefix}/%,$(1))
install: all ## into PREFIX, LIBDIR, INCLUDEDIR, below DESTDIR
	@mkdir -p $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR)/kd
	$(INSTALL) -m 644 $(A) $(DESTDIR)$(LIBDIR)/libkd.a
	$(INSTALL) -m 755 $(SO) $(DESTDIR)$(LIBDIR)/
	ln -sf libkd.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libkd.so.$(ABI)
	ln -sf libkd.so.$(ABI) $(DESTDIR)$(LIBDIR)/libkd.so
	$(INSTALL) -m 644 include/kd.h $(DESTDIR)$(INCLUDEDIR)/kd.h
	$(INSTALL) -m 644 $(HEADERS) $(DESTDIR)$(INCLUDEDIR)/kd/
	sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(call pc_path,$(LIBDIR))|; s|@INCLUDEDIR@|$(call pc_path,$(INCLUDEDIR))|' \
	    -e 's|@VERSION@|$(VERSION)|; s|@BLIS@|$(if $(filter 1,$(BLIS)), -lblis)|' pkgconfig/libkd.pc.in \
	    > $(DESTDIR)$(LIBDIR)/pkgconfig/libkd.pc
uninstall: ## what install put there
	rm -f $(DESTDIR)$(LIBDIR)/libkd.a $(DESTDIR)$(LIBDIR)/libkd.so.$(VERSION) $(SONAMES:%=$(DESTDIR)$(LIBDIR)/%) \
	  $(DESTDIR)$(LIBDIR)/pkgconfig/libkd.pc $(DESTDIR)$(INCLUDEDIR)/kd.h $(HEADERS:include/%=$(DESTDIR)$(INCLUDEDIR)/%)
	-rmdir $(DESTDIR)$(INCLUDEDIR)/kd

info: ## what would be built, and how
	@echo "version   $(VERSION), ABI $(ABI)"
	@echo "compiler  $(CC) ($(shell $(CC) -dumpmachine) $(shell $(CC) -dumpversion))"
	@echo "flags     $(CPPFLAGS) $(CFLAGS) $(SAN)"
	@echo "sets      $(ISAS)"
	@echo "blis      $(if $(filter 1,$(BLIS)),yes,no)"
	@echo "into      $(OUT), objects in $(OBJ)"
	@echo "install   $(DESTDIR)$(LIBDIR), $(DESTDIR)$(INCLUDEDIR)"

# F=npy: only that one; S=600: seconds each.  New inputs gather in lib/obj/fuzz/corpus, findings in lib/obj/fuzz.
FUZZERS := json safetensors npy idx csv model checkpoint
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
  $(CHECKS:.o=.d)
.PHONY: all amalgamation tests check checkkd check-all check-embed check-cross ready lint fuzz run-fuzz examples demo fashion bench bench-peers install uninstall info clean help
.DELETE_ON_ERROR:
