#!/bin/sh
# `make install` and `make uninstall`: puts the programs that `make` built on this machine, the
# supervisor setuid root for one group. Called by the Makefile, which hands over:
#
#   SANDSTORM_USER  user:group that runs the server (install only; both must exist)
#   PREFIX          where programs and schema files go (/usr/local)
#   DESTDIR         put before every path, to fill a package or a test directory
#   SANDSTORM_BIN   where the built programs are (bin/ of the checkout)
#
# The only setuid file is PREFIX/bin/sandstorm-supervisor, 4750 root:group: members of the group may
# start it, nobody else. Data goes to /var/sandstorm, which `uninstall` leaves alone.
set -eu
# What is made here is for all users of the machine, whatever root's own habit.
umask 022

die() { printf 'install: %s\n' "$*" >&2; exit 1; }

top=$(cd "$(dirname "$0")/../.." && pwd)
prefix=${PREFIX:-/usr/local}
dest=${DESTDIR:-}
home=/var/sandstorm
case $prefix in /*) ;; *) die "PREFIX must be an absolute path, not \"$prefix\"" ;; esac
case $dest in "" | /*) ;; *) die "DESTDIR must be an absolute path, not \"$dest\"" ;; esac
built=${SANDSTORM_BIN:-$top/bin}
bin=$dest$prefix/bin
include=$dest$prefix/include

uninstall() {
    rm -f "$bin/sandstorm" "$bin/sandstorm-supervisor" "$bin/spk" "$bin/legacy-bridge"
    rm -rf "$include/sandstorm" "$include/sandstorm-2014"
    [ ! -e "$include/capnp/.from-sandstorm" ] || rm -rf "$include/capnp"
    echo "Removed the programs below $dest$prefix. Apps and grains stay in $dest$home."
}

install_all() {
    who=${SANDSTORM_USER:-}
    case $who in
        ?*:?*) user=${who%%:*} group=${who#*:} ;;
        *) die "say who runs the server: make install SANDSTORM_USER=user:group" ;;
    esac
    for program in shell sandstorm-supervisor spk legacy-bridge; do
        [ -x "$built/$program" ] || die "$built/$program is missing: run \`make\` first"
    done
    [ "$user" != root ] && [ "$user" != 0 ] || die "the server needs no rights of root; make a user for it with
    useradd --system --user-group --shell /usr/sbin/nologin sandstorm
and say SANDSTORM_USER=sandstorm:sandstorm"
    known passwd "$user" || die "there is no user \"$user\"; make one with
    useradd --system --user-group --shell /usr/sbin/nologin $user"
    known group "$group" || die "there is no group \"$group\"; make one with
    groupadd --system $group"
    case " $(id -Gn "$user") " in
        *" $group "*) ;;
        *) printf 'install: note: %s is not in the group %s and can start no grain until it is: usermod -aG %s %s\n' \
            "$user" "$group" "$group" "$user" >&2 ;;
    esac
    [ "$(id -u)" = 0 ] || die "this needs root, for the setuid bit: sudo make install SANDSTORM_USER=$who"
    # The setuid bit must count where the program goes.
    mkdir -p "$bin"
    case ",$(findmnt -n -o OPTIONS -T "$bin" 2>/dev/null || :)," in
        *,nosuid,*) [ -n "$dest" ] || die "$bin is on a file system mounted nosuid, so the supervisor could not become root there; choose another PREFIX" ;;
    esac

    install -m 0755 "$built/shell" "$bin/sandstorm"
    install -m 0755 "$built/spk" "$built/legacy-bridge" "$bin/"
    install -m 4750 -o root -g "$group" "$built/sandstorm-supervisor" "$bin/sandstorm-supervisor"

    # Schema files for app authors: `import "/sandstorm/package.capnp"` and what that imports.
    install -d "$include/sandstorm" "$include/sandstorm-2014/sandstorm"
    install -m 0644 "$top"/schema/sandstorm/*.capnp "$include/sandstorm/"
    install -m 0644 "$top"/schema/sandstorm-2014/sandstorm/*.capnp "$include/sandstorm-2014/sandstorm/"
    # Cap'n Proto's own, unchanged, with their licence, where nobody has put them.
    if [ ! -e "$include/capnp" ] && [ -e /usr/include/capnp/c++.capnp ]; then
        install -d "$include/capnp"
        install -m 0644 /usr/include/capnp/*.capnp "$include/capnp/"
        install -m 0644 /usr/share/doc/libcapnp-dev/copyright "$include/capnp/LICENSE"
        : >"$include/capnp/.from-sandstorm"
    fi

    for dir in "" /apps /packages /grains /tmp; do
        # Only what is missing is made, so that a second run changes no rights.
        [ -d "$dest$home$dir" ] || install -d -m 0750 -o "$user" -g "$group" "$dest$home$dir"
    done

    cat <<END
Installed below $dest$prefix. To start the server, as $user:
    $prefix/bin/sandstorm serve
Data: $home. Users who are to start grains need the group $group.
END
}

# A name (or a number) that the system knows.
known() {
    case $2 in *[!0-9]*) getent "$1" "$2" >/dev/null ;; esac
}

case ${1:-} in
    install) install_all ;;
    uninstall) uninstall ;;
    *) die "usage: install.sh install|uninstall" ;;
esac
