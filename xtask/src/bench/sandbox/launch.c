/* A minimal launcher: the namespaces, mounts, loopback and dropped privileges that a grain has, and
 * nothing else (no checks, no limits, no filter, no log, nobody who stays and serves). The peer that
 * a sandbox's start is compared with.
 *
 *   launch PACKAGE VAR PROGRAM     PACKAGE becomes /, VAR its /var; PROGRAM runs and is waited for
 *
 * As root the app gets a uid of its own and real device nodes, else the caller's uid is mapped. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(what) do { if ((what) < 0) err(1, "%s", #what); } while (0)

static int proc, root;

static void put(const char *path, const char *text)
{
    int fd;
    TRY(fd = openat(proc, path, O_WRONLY | O_CLOEXEC));
    TRY(write(fd, text, strlen(text)));
    close(fd);
}

static void node(const char *name, const char *host, unsigned minor)
{
    char path[32];
    snprintf(path, sizeof path, "dev/%s", name);
    TRY(mknod(path, root ? S_IFCHR | 0666 : S_IFREG | 0666, root ? makedev(1, minor) : 0));
    if (!root)
        TRY(mount(host, path, NULL, MS_BIND, NULL));
}

static void mounts(const char *package, const char *var)
{
    TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    TRY(mount(package, package, NULL, MS_BIND, NULL));
    TRY(chdir(package));
    TRY(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=0755"));
    node("null", "/dev/null", 3);
    node("zero", "/dev/zero", 5);
    node("random", "/dev/urandom", 9);
    node("urandom", "/dev/urandom", 9);
    TRY(mkdir("dev/shm", 0755));
    TRY(mount("tmpfs", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=01777"));
    TRY(mount(NULL, "dev", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL));
    TRY(mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=01777"));
    TRY(mount(var, "var", NULL, MS_BIND, NULL));
    TRY(mount(NULL, "var", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV, NULL));
    TRY(mount(NULL, ".", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL));
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(umount2(".", MNT_DETACH));
    TRY(chdir("/"));
}

static void inside(int go, const char *package, const char *var, char **command)
{
    char byte;
    TRY(read(go, &byte, 1));
    TRY(unshare(CLONE_NEWTIME)); /* entered at exec */
    put("self/timens_offsets", "monotonic 60 0\nboottime 60 0\n");
    if (!root)
        mounts(package, var);

    TRY(sethostname("sandbox", 7));
    int lo;
    struct ifreq up = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
    TRY(lo = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    TRY(ioctl(lo, SIOCSIFFLAGS, &up));

    if (root) {
        TRY(setgroups(0, NULL));
        TRY(setresgid(1000, 1000, 1000));
        TRY(setresuid(1000, 1000, 1000));
    }
    TRY(prctl(PR_SET_PDEATHSIG, SIGKILL));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    for (unsigned long n = 0; prctl(PR_CAPBSET_DROP, n, 0, 0, 0) == 0; n++)
        ;
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[2] = { 0 };
    TRY(syscall(SYS_capset, &header, none));
    TRY(syscall(SYS_close_range, 3U, ~0U, 0U));
    TRY(execve(command[0], command, (char *[]) { NULL }));
}

int main(int argc, char **argv)
{
    if (argc != 4)
        errx(2, "usage: launch PACKAGE VAR PROGRAM");
    int go[2];
    root = geteuid() == 0;
    umask(0);
    TRY(pipe2(go, O_CLOEXEC));
    TRY(proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (root) { /* device nodes need the outer user namespace */
        TRY(unshare(CLONE_NEWNS));
        mounts(argv[1], argv[2]);
    }
    struct clone_args args = {
        .flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
                 | (root ? 0 : CLONE_NEWNS),
        .exit_signal = SIGCHLD,
    };
    pid_t child;
    TRY(child = (pid_t)syscall(SYS_clone3, &args, sizeof args));
    if (child == 0)
        inside(go[0], argv[1], argv[2], argv + 3);

    char path[32], map[32];
    if (!root) {
        snprintf(path, sizeof path, "%d/setgroups", child);
        put(path, "deny");
    }
    snprintf(path, sizeof path, "%d/uid_map", child);
    snprintf(map, sizeof map, "1000 %u 1", root ? 0x60100000U : getuid());
    put(path, map);
    snprintf(path, sizeof path, "%d/gid_map", child);
    snprintf(map, sizeof map, "1000 %u 1", root ? 0x60100000U : getgid());
    put(path, map);
    TRY(write(go[1], "", 1));
    int status;
    TRY(waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
