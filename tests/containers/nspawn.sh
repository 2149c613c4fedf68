#!/bin/sh
# The system inside systemd-nspawn, as an ordinary user of the container.
#
#   SANDSTORM_BIN=bin PACKAGE=dufs.spk nspawn.sh
needs="root systemd-nspawn"
. "$(dirname "$0")/tree.sh"
trap 'rm -rf "$work"' EXIT
make_tree "$work"/tree
# --register and --keep-unit: where systemd is not in charge there is nobody to register with.
systemd-nspawn --quiet --register=no --keep-unit --pipe --private-network \
    -D "$work"/tree /bin/busybox su -s /bin/sh app -c "exec /bin/sh /inside.sh"
