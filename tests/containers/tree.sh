# Sourced by the scripts beside it: what goes into every container, and nothing else. Our four
# programs are static, so a shell and a few tools (busybox) are all that they need around them.
# `needs`: what the script cannot run without, `root` or tools. What is missing is said in the words
# that tests/tests/containers.rs looks for, with the status that test runners take for a skip.
set -eu
skip() {
    echo "CONTAINER SKIPPED: $1"
    exit 77
}
for need in ${needs:-} busybox; do
    case $need in
    root) [ "$(id -u)" = 0 ] || skip "it wants root" ;;
    *) command -v "$need" >/dev/null || skip "$need is not installed (prepare.sh soak installs it)" ;;
    esac
done
here=$(cd "$(dirname "$0")" && pwd)
SANDSTORM_BIN=${SANDSTORM_BIN:-$here/../../bin}
: "${PACKAGE:?set PACKAGE to a package (.spk) of dufs: cargo xtask app build dufs}"
work=$(mktemp -d /tmp/sandstorm-container-XXXXXX)
chmod 755 "$work"

# A root file system below $1.
make_tree() {
    mkdir -p "$1"/bin "$1"/usr "$1"/opt/sandstorm "$1"/tmp "$1"/etc "$1"/dev "$1"/proc "$1"/sys "$1"/run "$1"/var/sandstorm
    cp /bin/busybox "$1"/bin/busybox
    for tool in sh cat sleep grep sed nc wget printf kill id tail head tr mkdir chmod env; do
        ln -s busybox "$1"/bin/$tool
    done
    for program in shell sandstorm-supervisor spk legacy-bridge; do
        cp "$SANDSTORM_BIN"/$program "$1"/opt/sandstorm/
        chmod 755 "$1"/opt/sandstorm/$program
    done
    cp "$PACKAGE" "$1"/dufs.spk
    cp "$here"/inside.sh "$1"/inside.sh
    printf 'root:x:0:0::/:/bin/sh\napp:x:1000:1000::/var/sandstorm:/bin/sh\n' >"$1"/etc/passwd
    printf 'root:x:0:\napp:x:1000:\n' >"$1"/etc/group
    chmod 755 "$1" "$1"/inside.sh
    chmod 644 "$1"/dufs.spk
    chmod 1777 "$1"/tmp
    chmod 777 "$1"/var/sandstorm
}
