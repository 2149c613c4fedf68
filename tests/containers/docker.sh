#!/bin/sh
# The system inside Docker, by the flags of deploy/docker/README.md: our own profile in place of Docker's,
# an ordinary user of the container, no --privileged, no capability at all. A daemon of its own is
# started for it, beside whatever runs here.
#
#   SANDSTORM_BIN=bin PACKAGE=dufs.spk docker.sh
needs="root docker dockerd"
. "$(dirname "$0")/tree.sh"
daemon=
engine() { docker --host unix://"$work"/sock "$@"; }
finish() {
    engine ps -aq 2>/dev/null | while read -r id; do engine rm -f "$id" >/dev/null 2>&1 || :; done
    [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null || :; }
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM
# Storage that needs no overlays; no networks, whose packet filters this machine may not have.
dockerd --data-root "$work"/data --exec-root "$work"/exec --pidfile "$work"/pid --host unix://"$work"/sock \
    --storage-driver=vfs --bridge=none --iptables=false --ip6tables=false >"$work"/daemon.log 2>&1 &
daemon=$!
n=0
until engine info >/dev/null 2>&1; do
    n=$((n + 1))
    if [ $n -ge 60 ] || ! kill -0 "$daemon" 2>/dev/null; then
        skip "dockerd does not start here: $(tail -n 1 "$work"/daemon.log)"
    fi
    sleep 0.5
done
make_tree "$work"/tree
tar -C "$work"/tree -cf - . | engine import - sandstorm >/dev/null
run() { engine run --rm --network=none "$@" sandstorm /bin/sh /inside.sh; }
profile=$here/../../deploy/docker/seccomp.json

# Docker's own profile forbids what a sandbox is made of, and our programs say what to do about it.
if said=$(run --user 1000:1000 2>&1); then
    echo "CONTAINER FAILED: Docker's own profile lets the sandbox be made: the README is out of date"
    exit 1
fi
echo "under Docker's own profile: $said" | tail -n 4
case $said in *seccomp*profile*) ;; *) echo "CONTAINER FAILED: no advice: $said"; exit 1 ;; esac

run --user 1000:1000 --security-opt seccomp="$profile" --security-opt apparmor=unconfined \
    --security-opt no-new-privileges --cap-drop=ALL
