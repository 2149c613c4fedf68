# Sourced by vm.sh: a minimal Debian 12 with its own kernel, systemd as pid 1 and control groups of
# version 2 alone, made once and kept outside the tree by the hash of this recipe.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-/var/cache}/sandstorm-vm/$(sha256sum "$here"/tree.sh | cut -c 1-16)
suite=bookworm
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# What reaches the root file system, in the order in which they load.
boot_modules="lib/crc16 crypto/crc32c_generic fs/mbcache fs/jbd2/jbd2 fs/ext4/ext4
    fs/quota/quota_tree fs/quota/quota_v2
    drivers/virtio/virtio drivers/virtio/virtio_ring drivers/virtio/virtio_pci_legacy_dev
    drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/block/virtio_blk"
# What a program can make the kernel load, so that a hostile one finds it; a network; another file system.
other_modules="net crypto lib drivers/infiniband/core drivers/net/dummy.ko drivers/block/loop.ko fs/fuse fs/overlayfs fs/xfs"

# Leaves $cache/{vmlinuz,initrd,root.img}; says nothing when they are there.
make_images() {
    [ -e "$cache"/done ] && return
    echo "making a virtual machine's file system in $cache (some minutes)"
    rm -rf "$cache"
    mkdir -p "$cache"
    tree=$cache/tree
    debootstrap --variant=minbase --include=systemd-sysv,kmod,make,curl,e2fsprogs,xfsprogs,libcap2-bin "$suite" "$tree" "$mirror" >"$cache"/log 2>&1 ||
        { tail -n 5 "$cache"/log; exit 1; }
    # The kernel as Debian ships it, without what would make a boot loader and a large initrd of it.
    chroot "$tree" sh -ec '
        cd /tmp
        apt-get -q update
        apt-get -q -o APT::Sandbox::User=root download $(apt-cache depends linux-image-amd64 | sed -n "s/.*Depends: \(linux-image-[0-9].*\)/\1/p")
        dpkg-deb -x linux-image-*.deb kernel
        rm linux-image-*.deb' >>"$cache"/log 2>&1 || { tail -n 5 "$cache"/log; exit 1; }
    kernel=$tree/tmp/kernel
    release=$(ls "$kernel"/lib/modules)
    cp "$kernel"/boot/vmlinuz-"$release" "$cache"/vmlinuz
    modules=$kernel/lib/modules/$release
    make_initrd
    mkdir -p "$tree"/lib/modules/"$release"/kernel
    cp "$modules"/modules.* "$tree"/lib/modules/"$release"/
    for part in $other_modules; do
        [ ! -e "$modules"/kernel/$part ] || tar -C "$modules" -c kernel/$part | tar -C "$tree"/lib/modules/"$release" -x
    done
    chroot "$tree" depmod "$release"
    rm -rf "$kernel" "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/doc "$tree"/usr/share/locale
    settle_tree
    mke2fs -q -t ext4 -d "$tree" -L root "$cache"/root.img 3G >/dev/null
    rm -rf "$tree"
    : >"$cache"/done
}

# Busybox, the modules, and a script.
make_initrd() {
    early=$cache/early
    mkdir -p "$early"/bin "$early"/proc "$early"/sys "$early"/dev "$early"/root
    cp /bin/busybox "$early"/bin/
    for module in $boot_modules; do
        cp "$modules"/kernel/$module.ko "$early"/
        echo "insmod /${module##*/}.ko" >>"$early"/load
    done
    cat >"$early"/init <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
. /load
while [ ! -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /root || exec sh
umount /proc /sys
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
END
    chmod 755 "$early"/init
    (cd "$early" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$cache"/initrd
    rm -rf "$early"
}

# A user for the server, one for nothing, and a service that runs what the second disk holds.
settle_tree() {
    cp /bin/busybox "$tree"/usr/bin/busybox
    echo vm >"$tree"/etc/hostname
    : >"$tree"/etc/fstab
    chroot "$tree" useradd --system --user-group --shell /usr/sbin/nologin sandstorm
    chroot "$tree" useradd --create-home --shell /bin/sh person
    for unit in getty.target e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
        e2scrub_all.timer fstrim.timer systemd-timesyncd.service; do
        ln -sf /dev/null "$tree"/etc/systemd/system/$unit
    done
    mkdir -p "$tree"/payload "$tree"/etc/systemd/system/multi-user.target.wants
    cat >"$tree"/etc/systemd/system/job.service <<'END'
[Unit]
Description=What this machine was started for
After=basic.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStartPre=/bin/tar -x -C /payload -f /dev/vdb
ExecStart=/bin/sh /payload/tests/vm/inside.sh
StandardOutput=file:/dev/ttyS1
StandardError=inherit
END
    ln -s ../job.service "$tree"/etc/systemd/system/multi-user.target.wants/job.service
}
