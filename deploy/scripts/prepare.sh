#!/bin/sh
# Installs from Debian what building (`build`) or testing (`test`) Sandstorm needs and this machine
# lacks. Called by `make`; safe to run again: when everything is there it says nothing and takes a
# moment. Rust is checked first and never installed by this script: a toolchain is the person's choice.
#
#   prepare.sh build    what `make` and `make run` need
#   prepare.sh test     that, and what `make test` needs
#   prepare.sh bench    that, and the peers of `cargo xtask bench`
#   prepare.sh soak     that, what the long tests run inside the sandbox and around it, and cargo-deny
#   prepare.sh fuzz     what `cargo xtask fuzz` needs: a C++ compiler, cargo-fuzz
#   prepare.sh check    only Rust
#
# Exit status: 0 all there, 1 something is missing and could not be installed (stderr says what to do).
set -eu

say() { printf 'prepare: %s\n' "$*"; }
die() { printf 'prepare: %s\n' "$*" >&2; exit 1; }

what=${1:-}
case $what in
build | test | bench | soak | fuzz | check) ;;
*) die "usage: prepare.sh build|test|bench|soak|fuzz|check" ;;
esac
top=$(cd "$(dirname "$0")/../.." && pwd)
PATH=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH:/usr/sbin:/sbin

# --- Rust, before anything is changed ----------------------------------------------------------
wanted=$(sed -n 's/^rust-version *= *"\([0-9]*\.[0-9]*\).*/\1/p' "$top/Cargo.toml" | head -n 1)
if ! command -v cargo >/dev/null 2>&1; then
    die "Rust is not installed (no cargo on the PATH); nothing was changed. Install it with:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y
and start again."
fi
if ! found=$(cd / && cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p') || [ -z "$found" ]; then
    die "cargo is there but does not run; nothing was changed. Choose a toolchain with:
    rustup default stable
and start again."
fi
if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    if command -v rustup >/dev/null 2>&1; then mend="rustup update stable"
    else mend="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"; fi
    die "Rust $wanted or newer is needed, this is $found; nothing was changed. Update it with:
    $mend
and start again."
fi
[ "$what" = check ] && exit 0

# --- Tools that only cargo has -------------------------------------------------------------------
# Called last: they are compiled.
cargo_tool() {
    cargo "$1" --version >/dev/null 2>&1 && return
    say "installing cargo-$1 with cargo install (some minutes)"
    # Elsewhere: this checkout's flags and target directory are not for it.
    (cd / && env -u CARGO_TARGET_DIR -u CARGO_BUILD_TARGET cargo install --quiet --locked "cargo-$1") ||
        die "cargo could not install cargo-$1 (see above)"
}
cargo_tools() {
    case $what in
    soak) cargo_tool deny ;;
    fuzz) cargo_tool fuzz ;;
    esac
}

# --- Debian packages ----------------------------------------------------------------------------
# One line a package: need PACKAGE TEST... (the package is missing when the test fails).
packages=
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || packages="$packages $package"
}
has() { command -v "$1" >/dev/null 2>&1; }
static_busybox() { [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; }
debian_venv() { /usr/bin/python3 -c 'import venv, ensurepip'; }

need gcc has cc                                        # C inside crates (xz, SQLite, ring)
need libc6-dev test -e /usr/include/stdio.h
need make has make
need capnproto has capnp                               # manifests and package definitions are schema files
need libcapnp-dev test -e /usr/include/capnp/c++.capnp # the standard files that those import
need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
need nodejs has node                                   # the demo app comes by npm
need npm has npm
need busybox-static static_busybox                     # the launcher of packed apps, and the porting guide's app
if [ "$what" = fuzz ]; then
    need g++ has c++                                   # libFuzzer is C++
elif [ "$what" != build ]; then
    need python3-venv debian_venv                      # Radicale, and the independent RPC client
    need curl has curl
    need xz-utils has xz
    need unzip has unzip
    need nginx-light has nginx                         # the whole chain behind a real reverse proxy
    need caddy has caddy                               # the peer of the benchmark
    need chromium has chromium                         # end-to-end tests
    need procps has ps
    need systemd-container has systemd-nspawn          # tests/containers
fi
if [ "$what" = bench ] || [ "$what" = soak ]; then
    need bubblewrap has bwrap                          # the peers of `bench sandbox`, and containers to run in
    need podman has podman
    need runc has runc                                 # crun wants pure cgroup 2
    need uidmap has newuidmap                          # rootless containers
fi
if [ "$what" = soak ]; then
    need docker.io has dockerd                         # tests/containers/docker.sh, with a daemon of its own
    need golang-go has go                              # real programs under the filter: tests/tests/runtimes.rs
    need php-cli has php
    need ruby has ruby
    need openjdk-17-jdk-headless has javac
    need sqlite3 has sqlite3
    need postgresql test -d /usr/lib/postgresql
    need mariadb-server-core has mariadbd
    need mariadb-client-core has mariadb
    need git test -e /usr/bin/git
    need qemu-system-x86 has qemu-system-x86_64         # a kernel with what this one may lack: tests/vm
    need debootstrap has debootstrap
    need e2fsprogs has mke2fs
fi
if [ -z "$packages" ]; then
    cargo_tools
    exit 0
fi

if ! has apt-get; then
    die "these are missing (Debian's names):$packages
This script installs with apt-get, which is not here. Install them your system's way and start again."
fi
if [ "$(id -u)" = 0 ]; then root=
elif has sudo; then root=sudo
else
    die "these Debian packages are missing:$packages
Neither root nor sudo is at hand. Have an administrator run
    apt-get install --no-install-recommends$packages
and start again."
fi
say "installing from Debian:$packages${root:+ (with sudo)}"

# Servers among them are wanted as programs, not as services: nothing is started or enabled.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    # shellcheck disable=SC2064
    trap "$root rm -f $policy" EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $root sh -c "cat >$policy && chmod 755 $policy"
fi
log=$(mktemp)
apt() {
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}
apt update || say "apt-get update had complaints; trying with the lists at hand"
# $packages is a list on purpose.
# shellcheck disable=SC2086
if ! apt install --no-install-recommends $packages; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt-get could not install:$packages (its last words are above)"
fi
rm -f "$log"
if [ -d /run/systemd/system ]; then
    for unit in nginx caddy; do
        case " $packages " in *" $unit"*) $root systemctl disable -q "$unit" 2>/dev/null || : ;; esac
    done
fi
cargo_tools
say "done"
