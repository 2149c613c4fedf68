# A newcomer's two commands:
#   make run    build, install the demo apps, start the shell and print a link to open
#   make test   every test
# Also: make (release binaries into bin/), make install, make uninstall, make clean.
# Everything else: cargo xtask

PROGRAMS := shell sandstorm-supervisor spk legacy-bridge
PREFIX ?= /usr/local
# user:group that runs the server; `make install` asks for it.
SANDSTORM_USER ?=

export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
target := $(or $(CARGO_TARGET_DIR),target)/x86_64-unknown-linux-gnu/release

.PHONY: all build run test install uninstall clean
all: build

build:
	@deploy/scripts/prepare.sh build
	cargo build --release --locked $(addprefix -p ,$(PROGRAMS))
	@mkdir -p bin
	@for program in $(PROGRAMS); do \
		cmp -s $(target)/$$program bin/$$program || \
		{ install -m 0755 $(target)/$$program bin/$$program && echo "bin/$$program"; }; \
	done

# xtask replaces make's shell, so that a signal to make reaches it and, through it, the server.
run: build
	@cargo build --release --locked --quiet -p xtask
	@exec $(target)/xtask run

test:
	@deploy/scripts/prepare.sh test
	@$(MAKE) --no-print-directory build
	@cargo build --release --locked --quiet -p xtask
	@exec $(target)/xtask ci

install:
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" SANDSTORM_USER="$(SANDSTORM_USER)" deploy/scripts/install.sh $@

uninstall:
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" SANDSTORM_USER="$(SANDSTORM_USER)" deploy/scripts/install.sh $@

clean:
	cargo clean
	rm -rf bin
