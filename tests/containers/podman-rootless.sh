#!/bin/sh
# The system inside podman run by an ordinary user of the host. Started by root it makes itself such a
# user's, with subordinate ids of its own for the time of the run.
#
#   SANDSTORM_BIN=bin PACKAGE=dufs.spk podman-rootless.sh
if [ "$(id -u)" = 0 ] || [ -z "${IMAGE:-}" ]; then
    needs="root podman runc setpriv useradd"
    . "$(dirname "$0")/tree.sh"
    name=sandstorm-rootless
    made=
    id $name >/dev/null 2>&1 || { useradd --create-home --home-dir "$work"/home $name; made=1; }
    subids() { grep -q "^$name:" /etc/subuid && grep -q "^$name:" /etc/subgid; }
    subids || usermod --add-subuids 3000000-3065535 --add-subgids 3000000-3065535 $name
    trap 'if [ -n "$made" ]; then userdel $name 2>/dev/null || :; fi; rm -rf "$work"' EXIT
    make_tree "$work"/tree
    tar -C "$work"/tree -cf "$work"/image.tar .
    mkdir -p "$work"/home "$work"/runtime
    cp "$0" "$work"/again.sh
    chmod 644 "$work"/image.tar
    chmod 755 "$work"/again.sh
    chown -R $name "$work"/home "$work"/runtime
    chmod 700 "$work"/runtime
    setpriv --reuid $name --regid $name --init-groups env -i PATH="$PATH" HOME="$work"/home \
        XDG_RUNTIME_DIR="$work"/runtime IMAGE="$work"/image.tar "$work"/again.sh
    exit
fi
: "${IMAGE:?}"
cd "$HOME"
pod() {
    podman --storage-driver=vfs --cgroup-manager=cgroupfs --events-backend=file --runtime=runc "$@"
}
trap 'pod rm -af >/dev/null 2>&1 || :; pod unshare rm -rf "$HOME"/.local/share/containers; pod system migrate >/dev/null 2>&1 || :' EXIT
pod import -q "$IMAGE" localhost/sandstorm >/dev/null
pod run --rm --user 1000:1000 --network=none localhost/sandstorm /bin/sh /inside.sh
