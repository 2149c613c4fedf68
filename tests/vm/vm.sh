#!/bin/sh
# Starts a virtual machine (KVM where the processor has it, else emulated) whose kernel has what a
# developer's machine may lack: control groups of version 2 alone, systemd as pid 1, project quotas.
# In it `inside.sh` installs the system and does the main job. Prints what that says; status 0 when
# it ends with VM OK.
#
#   SANDSTORM_BIN=bin PACKAGES=DIR SUITES=DIR vm.sh [PART...]
#
# PACKAGES is a directory with dufs.spk and greedy.spk; SUITES one with what cargo builds for two of
# tests/tests: hostile, greedy, hostile-app, greedy-app, unsafe-supervisor. PARTs are those of inside.sh
# (main: setuid, user: user namespaces, quota: on ext4, xfs: the same there, image: an image file a grain,
# hostile, greedy); without any: all but greedy, and without SUITES not hostile either.
skip() { # The word that tests/tests/containers.rs looks for, the status that test runners take for a skip.
    echo "VM SKIPPED: $1"
    exit 77
}
[ "$(id -u)" = 0 ] || skip "it wants root: it makes a file system with other users' files"
for tool in qemu-system-x86_64 debootstrap mke2fs busybox; do
    command -v $tool >/dev/null || skip "$tool is not installed (prepare.sh soak installs it)"
done
. "$(dirname "$0")/tree.sh"
top=$here/../..
bin=${SANDSTORM_BIN:-$top/bin}
: "${PACKAGES:?set PACKAGES to a directory with dufs.spk and greedy.spk (cargo xtask app build NAME)}"
make_images
work=$(mktemp -d /var/tmp/sandstorm-vm-XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# What goes in: this checkout's files as `make install` wants them, and the programs.
mkdir -p "$work"/payload/packages "$work"/payload/bin "$work"/payload/suites
cp "$bin"/shell "$bin"/sandstorm-supervisor "$bin"/spk "$bin"/legacy-bridge "$work"/payload/bin/
cp "$PACKAGES"/* "$work"/payload/packages/
tar -C "$top" -c Makefile deploy docs schema tests/vm | tar -C "$work"/payload -x
parts="main user quota xfs image"
if [ -n "${SUITES:-}" ]; then
    cp "$SUITES"/* "$work"/payload/suites/
    parts="$parts hostile"
elif [ $# = 0 ]; then
    echo "SKIPPED the hostile suite: SUITES is not set"
fi
echo "${*:-$parts}" >"$work"/payload/parts
# The suites know the checkout by its path.
(cd "$top" && pwd) >"$work"/payload/checkout
# A home of its own with project quotas, and one without.
mke2fs -q -t ext4 -O quota,project -E quotatype=prjquota "$work"/home.img 1G >/dev/null
: >"$work"/said

accel="tcg,thread=multi"
cpu=max
if [ -w /dev/kvm ] && grep -Eqw 'vmx|svm' /proc/cpuinfo; then
    accel=kvm
    cpu=host
fi
echo "$accel" >"$work"/payload/accel
tar -C "$work"/payload -cf "$work"/payload.tar .
echo "virtual machine: $accel, kernel $(strings "$cache"/vmlinuz 2>/dev/null | sed -n 's/^\([0-9][^ ]*\) (debian.*/\1/p' | head -n 1)"
# What Debian's kernel has and does not offer unless it is told to: the more there is to attack.
attackable="syscall.x32=y secretmem.enable=1"
drive() { echo "-drive if=virtio,format=raw,file=$1,$2"; }
# shellcheck disable=SC2046
qemu-system-x86_64 -machine q35 -accel "$accel" -cpu "$cpu" -smp 2 -m 3072 -nodefaults -no-user-config -display none \
    -no-reboot -serial file:"$work"/console -serial file:"$work"/said \
    $(drive "$cache"/root.img snapshot=on) $(drive "$work"/payload.tar readonly=on) $(drive "$work"/home.img cache=unsafe) \
    -kernel "$cache"/vmlinuz -initrd "$cache"/initrd \
    -append "console=ttyS0 panic=-1 quiet systemd.show_status=0 mitigations=off $attackable" >"$work"/qemu 2>&1 &
machine=$!
trap 'kill $machine 2>/dev/null || :; rm -rf "$work"' EXIT
tail --pid=$machine -n +1 -f "$work"/said
wait $machine || :
if ! tail -n 1 "$work"/said | grep -q '^VM OK'; then
    echo "the virtual machine did not come to its end; its console:"
    grep -v 'CPUID' "$work"/qemu || :
    tail -n 60 "$work"/console
    exit 1
fi
