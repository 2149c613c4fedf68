#!/bin/sh
# Runs as root in the machine that vm.sh starts, from /payload: installs as an administrator does,
# starts the service, and then acts as its user and as a browser. Says what it sees; ends with VM OK.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /payload 2>/dev/null || { echo "VM SKIPPED: this is no machine that vm.sh has started"; exit 77; }
# The other end of this line is a file, not a terminal.
stty -F /dev/ttyS1 -opost
home=/var/sandstorm
service=/sys/fs/cgroup/system.slice/sandstorm.service
say() { echo "vm: $*"; }
fail() {
    echo "VM FAILED: $*"
    journalctl -q --no-pager -u sandstorm -n 25
    [ -z "${grain:-}" ] || tail -n 12 "$home/grains/$grain/log"
    exit 1
}
user() { setpriv --reuid sandstorm --regid sandstorm --init-groups env -i PATH="$PATH" SANDSTORM_HOME=$home "$@"; }
sandstorm() { user sandstorm "$@"; }
field() { tr -d ' \n' | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

settings() { # LINE...: the service's environment
    mkdir -p /etc/systemd/system/sandstorm.service.d
    { echo '[Service]'; for line in "$@"; do echo "Environment=$line"; done; } >/etc/systemd/system/sandstorm.service.d/vm.conf
    systemctl daemon-reload
}

start() {
    systemctl start sandstorm || fail "the service does not start"
    n=0
    until sandstorm app list >/dev/null 2>&1; do
        n=$((n + 1))
        [ $n -lt 120 ] || fail "the server does not listen"
        sleep 0.5
    done
}

stop() {
    systemctl stop sandstorm || fail "the service does not stop"
    [ ! -e $service ] || fail "processes are left in the service's group: $(cat $(find $service -name cgroup.procs))"
    left=$(grep -l 'sandstorm-super' /proc/[0-9]*/comm 2>/dev/null) && fail "supervisors are left: $left"
}

open_grain() { # PACKAGE: a grain of it, and how to ask it
    app=$(sandstorm app install /payload/packages/"$1".spk --json | field appId)
    [ -n "$app" ] || fail "$1 was not installed"
    grain=$(sandstorm grain create --app "$app" --json | field grainId)
    [ -n "$grain" ] || fail "no grain was made"
    new_session
}

new_session() {
    session=$(sandstorm grain session "$grain" --json) || fail "no session was opened"
    origin=$(echo "$session" | field origin)
    cookie=$(echo "$session" | field cookie)
}

ask() { # METHOD PATH [BODY]
    curl -s -m 300 -X "$1" -H "Cookie: $cookie" -H "Origin: $origin" ${3+--data-binary "$3"} \
        --resolve "*:3000:127.0.0.1" "$origin$2"
}

limit() { # NAME FIELD: of the grain, as `grain list` shows it
    sandstorm grain list --json | tr -d '\n' | sed 's/": */":/g; s/, */,/g; s/{ */{/g; s/ *}/}/g' |
        sed "s/.*\"grainId\":\"$grain\"//" | grep -o "{\"by\":[^}]*\"name\":\"$1\"[^}]*}" | head -n 1 |
        sed -n "s/.*\"$2\":\"\{0,1\}\([^\",}]*\).*/\1/p"
}
kept_by() { # NAME WHAT
    [ "$(limit "$1" by)" = "$2" ] || fail "limit $1 is kept by \"$(limit "$1" by)\", not by \"$2\""
}
within() { # SECONDS WORDS COMMAND...: until it succeeds
    seconds=$1 words=$2
    shift 2
    n=0
    until "$@" >/dev/null 2>&1; do
        n=$((n + 1))
        [ $n -lt "$seconds" ] || fail "not within $seconds s: $words"
        sleep 1
    done
    say "$words"
}
is_met() { [ "$(limit "$1" hits)" -gt 0 ]; }
logged() { grep -q "$1" "$home/grains/$grain/log" "$home/grains/$grain/log.1" 2>/dev/null; }

mode() { # setuid|user
    if [ "$1" = setuid ]; then chmod 4750 /usr/local/bin/sandstorm-supervisor; else chmod 0755 /usr/local/bin/sandstorm-supervisor; fi
}

# The main job: install, create, write, read, sleep, wake; and once more after the service was restarted.
main_job() {
    start
    open_grain dufs
    ask PUT /note.txt 'kept in a machine' >/dev/null
    [ "$(ask GET /note.txt)" = 'kept in a machine' ] || fail "the file was not read back: $(ask GET /note.txt)"
    sandstorm grain stop "$grain" >/dev/null || fail "the grain did not stop"
    [ "$(ask GET /note.txt)" = 'kept in a machine' ] || fail "the grain did not wake up with its data"
    sed -n 's/^.*SANDSTORM SUPERVISOR: //p' "$home/grains/$grain/log" | sed -n '1,6p'
    sandstorm grain list
    for controller in memory pids cpu; do kept_by $controller 'cgroup v2'; done
    sandstorm check || :
    stop
    start
    new_session
    [ "$(ask GET /note.txt)" = 'kept in a machine' ] || fail "the data is gone after the service was restarted"
    group=$(find $service -mindepth 2 -name memory.max | grep -v /main/) || fail "the grain has no group below the service's: $(systemd-cgls --no-pager)"
    say "the grain's group: $group: $(cat "$group") bytes of memory, $(cat "${group%/*}"/cgroup.procs | wc -l) processes"
    [ "$(cat "$group")" = 201326592 ] || fail "which is not what was set"
}

# Limits that are shown, bite.
hogs() {
    open_grain greedy
    ask GET / | grep -q 'well-behaved' || fail "the greedy app does not answer: $(ask GET /)"
    ask GET /hog/fork >/dev/null
    within 60 "a fork bomb met its limit of processes" is_met pids
    sandstorm grain stop "$grain" --now >/dev/null
    sandstorm limit set --app "$app" cpu=30 >/dev/null || fail "no limit was set"
    ask GET /hog/cpu >/dev/null
    within 60 "16 spinning processes met their limit of processor time" is_met cpu
    sandstorm grain stop "$grain" --now >/dev/null
    sandstorm limit clear --app "$app" >/dev/null
    ask GET /hog/memory >/dev/null
    within 120 "a memory bomb was killed" logged 'killed: the grain ran out of memory'
    ask GET / | grep -q 'well-behaved' || fail "the grain does not start again"
    stop
}

# At the limit writes fail at the very block, with the file system's own error; then there is room again.
quotas() { # ext4|xfs
    error=122 # EDQUOT
    if [ "$1" = xfs ]; then
        mkfs.xfs -q -f /dev/vdc || fail "no XFS can be made"
        error=28 # ENOSPC
    fi
    mount -o prjquota /dev/vdc $home || fail "no $1 with project quotas can be mounted"
    for dir in . apps packages grains tmp; do install -d -m 0750 -o sandstorm -g sandstorm $home/$dir; done
    settings GRAIN_LIMITS=disk=16M,inodes=2000,memory=256M
    mode setuid
    start
    open_grain greedy
    ask GET / >/dev/null
    kept_by disk quota
    kept_by inodes quota
    sandstorm grain list
    sandbox=$home/grains/$grain/sandbox
    project() { lsattr -pd "$1" | sed 's/^ *\([0-9]*\).*/\1/'; }
    refuses() { # by the hog's own count
        # shellcheck disable=SC2046
        set -- $(ask GET /status)
        # Where a directory was refused, the filler of names finds none.
        [ "${2:-0}" -gt 0 ] && { [ "$3" = $error ] || [ "$3" = 2 ]; }
    }
    fills() { # HOG WORDS
        ask GET /hog/"$1" >/dev/null
        within 90 "$2" refuses
        [ "$(du -sk "$sandbox" | cut -f 1)" -le 16384 ] || fail "the grain has $(du -sk "$sandbox") KiB"
        say "$(ask GET /status): $(du -sk "$sandbox" | cut -f 1) KiB, $(find "$sandbox" | wc -l) names"
    }
    fills disk "a disk filler met the quota"
    within 30 "the grain's log says so" logged 'the disk limit is reached'
    sandstorm grain stop "$grain" --now >/dev/null
    [ "$(ask GET /write)" = "refused $error" ] || fail "there is room after a restart"
    [ "$(ask GET /free)" = written ] || fail "nothing can be written after everything was deleted"
    say "there is room again once something was deleted"
    fills inodes "a filler of names met the quota"
    [ "$(find "$sandbox" | wc -l)" -le 2000 ] || fail "there are more names than 2000"
    sandstorm grain stop "$grain" --now >/dev/null

    say "a restored grain: the project was $(project "$sandbox")"
    cp -a "$sandbox" "$sandbox".new && rm -rf "$sandbox" && mv "$sandbox".new "$sandbox"
    [ "$(ask GET /free)" = written ] || fail "a restored grain cannot write"
    kept_by disk quota
    ask GET /write >/dev/null
    [ "$(project "$sandbox")" = $((0x60000000 + $(stat -c %i "$sandbox"))) ] || fail "the restored grain has project $(project "$sandbox")"
    [ "$(project "$sandbox"/small)" = "$(project "$sandbox")" ] || fail "its files have project $(project "$sandbox"/small)"
    sandstorm grain stop "$grain" --now >/dev/null
    mkdir -p "$sandbox"/deep/er && : >"$sandbox"/deep/er/file && chattr -R -p 0 "$sandbox" && chown -R sandstorm:sandstorm "$sandbox"
    ask GET / >/dev/null
    [ "$(project "$sandbox"/deep/er/file)" = "$(project "$sandbox")" ] || fail "a file below has project $(project "$sandbox"/deep/er/file)"
    fills disk "the restored grain met its quota"
    sandstorm grain stop "$grain" --now >/dev/null
    [ "$(ask GET /free)" = written ] || fail "a restored grain cannot write again"
    stop

    mode user
    start
    new_session
    ask GET / >/dev/null
    kept_by disk accounting
    stop
    umount $home
}

# The same by an image file a grain, which a raised limit makes larger.
images() {
    error=28
    settings GRAIN_IMAGE=true GRAIN_LIMITS=disk=16M,inodes=2000,memory=256M
    mode setuid
    modprobe loop || fail "there are no loop devices"
    start
    open_grain greedy
    ask GET / >/dev/null
    kept_by disk image
    image=$home/grains/$grain/image
    # shellcheck disable=SC2046
    refuses() { set -- $(ask GET /status) && [ "${2:-0}" -gt 0 ] && [ "$3" = $error ]; }
    ask GET /hog/disk >/dev/null
    within 90 "a disk filler met the image's end" refuses
    say "$(ask GET /status): $(du -k "$image" | cut -f 1) KiB of $(stat -c %s "$image") bytes"
    sandstorm grain stop "$grain" --now >/dev/null
    [ "$(ask GET /write)" = "refused $error" ] || fail "there is room after a restart"
    stop
    settings GRAIN_IMAGE=true GRAIN_LIMITS=disk=64M,inodes=8000,memory=256M
    start
    new_session
    [ "$(ask GET /write)" = written ] || fail "a raised limit gives no room"
    kept_by disk image
    say "a raised limit: $(limit disk value) bytes, $(limit inodes value) files, the image has $(stat -c %s "$image")"
    [ "$(limit disk value)" -ge 67108864 ] || fail "the image did not become larger"
    [ "$(limit disk value)" -le 71303168 ] || fail "the image became too large"
    [ "$(ask GET /free)" = written ] || fail "nothing can be deleted"
    stop
    left=$(cat /sys/block/loop*/loop/backing_file 2>/dev/null) && fail "loop devices are left: $left"
    e2fsck -fn "$image" >/dev/null || fail "the image is damaged: $(e2fsck -fn "$image")"
    mode user
    start
    new_session
    ask GET / | grep -q 'only root mounts' || fail "a grain with an image is started without it: $(ask GET /)"
    stop
    settings GRAIN_LIMITS=memory=192M,pids=160
}

protocols="sctp tipc can_raw rds smc bluetooth nfnetlink vsock_loopback af_alg"

# One of the suites of tests/tests, without cargo: it finds its programs beside itself, what is built
# already where the environment says, and the checkout at the path that was compiled in.
suite() { # NAME WORD...: only tests with such a word in their names
    name=$1
    shift
    checkout=$(cat checkout)
    if [ ! -e "$checkout" ]; then
        mkdir -p "${checkout%/*}"
        ln -s /payload "$checkout"
        mkdir -p built/deps
        ln suites/hostile suites/greedy built/deps/
        ln suites/*-app suites/unsafe-supervisor built/
        printf '#!/bin/sh\necho /payload/packages/"$3".spk\n' >built/xtask
        chmod 755 built/xtask
    fi
    case $(cat accel) in tcg*) emulated=1 ;; *) emulated= ;; esac
    env SANDSTORM_BIN=/payload/bin SANDSTORM_XTASK=/payload/built/xtask CARGO=/bin/true SANDSTORM_ATTACK_SECONDS=15 \
        ${emulated:+SANDSTORM_EMULATED=1} built/deps/"$name" --test-threads=1 --nocapture "$@" >"$name".said 2>&1 ||
        { cat "$name".said; fail "the suite $name"; }
    grep -oE 'SKIPPED .*|[0-9]+ attacks: .*|[^ ]+: no proof here.*|[a-z]+: (limit|got) .*|test result.*' "$name".said ||
        fail "the suite $name says nothing"
}

# Every attack, in both modes, and the same without the layer that stops it. There is a network to be
# kept from, and protocols are loaded that Debian lets no program make the kernel load.
attacked() {
    busybox ip link add outside type dummy && busybox ip address add 192.0.2.1/24 dev outside &&
        busybox ip link set outside up && busybox ip route add default dev outside || fail "no network can be made"
    for protocol in $protocols; do modprobe "$protocol" || fail "there is no module $protocol"; done
    suite hostile
    for mode in Setuid UserNamespace; do
        say "$mode: $(grep -c "$mode [^ ]*: refused" hostile.said) attacks refused, $(grep -c "$mode [^ ]*: killed" hostile.said) killed"
    done
}

say "kernel $(uname -r), pid 1 is $(cat /proc/1/comm), control groups: $(stat -fc %T /sys/fs/cgroup), $(nproc) processors"
make -s install SANDSTORM_USER=sandstorm:sandstorm >/dev/null || fail "make install"
cp deploy/systemd/sandstorm.service /etc/systemd/system/
settings GRAIN_LIMITS=memory=192M,pids=160
for part in $(cat parts); do
    say "part $part"
    grain=
    case $part in
    main) mode setuid; main_job; hogs ;;
    user) mode user; main_job; hogs ;;
    quota) quotas ext4 ;;
    xfs) quotas xfs ;;
    image) images ;;
    hostile) attacked ;;
    greedy) suite greedy hogs ;;
    *) fail "no part is called $part" ;;
    esac
done
echo "VM OK"
