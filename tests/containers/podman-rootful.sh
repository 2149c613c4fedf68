#!/bin/sh
# The system inside podman run by root, as an ordinary user of the container: no --privileged, no
# added capability, no changed profile.
#
#   SANDSTORM_BIN=bin PACKAGE=dufs.spk podman-rootful.sh
needs="root podman runc"
. "$(dirname "$0")/tree.sh"
# Storage and runtime that need neither systemd nor overlays; a limit that the container may set.
pod() {
    podman --root "$work"/storage --runroot "$work"/run --storage-driver=vfs --cgroup-manager=cgroupfs \
        --events-backend=file --runtime=runc "$@"
}
trap 'pod rm -af >/dev/null 2>&1 || :; rm -rf "$work"' EXIT
make_tree "$work"/tree
tar -C "$work"/tree -cf "$work"/image.tar .
pod import -q "$work"/image.tar localhost/sandstorm >/dev/null
run() {
    pod run --rm --user 1000:1000 --network=none --ulimit nofile=1024:4096 --ulimit nproc=4096:4096 "$@" \
        localhost/sandstorm /bin/sh /inside.sh
}
run
# And under the profile that is meant for Docker, whose own forbids the sandbox.
run --security-opt seccomp="$here"/../../deploy/docker/seccomp.json --security-opt no-new-privileges --cap-drop=all
