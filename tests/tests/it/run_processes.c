/* A server whose processes and sockets are as few servers have them, for run_processes.rs. It
   answers each request with its process id. Each option is one such peculiarity. It listens on
   the addresses that its arguments name. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LISTENERS_MAX 8

extern char **environ;

static int listeners[LISTENERS_MAX], listeners_count;
static pid_t server, forker;
static int number;
static int workers = 2, levels, threads = 1, bystander;
static const char *way = "epoll", *program;
static const char *duplicates, *closes, *filter, *root;

static void fail(const char *what) {
    perror(what);
    _exit(1);
}

static void add_listener(const char *host, const char *port) {
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int is_v6 = inet_pton(AF_INET6, host, &v6.sin6_addr) == 1, on = 1;
    inet_pton(AF_INET, host, &v4.sin_addr);
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (is_v6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    const struct sockaddr *address = is_v6 ? (void *)&v6 : (void *)&v4;
    if (bind(fd, address, is_v6 ? sizeof v6 : sizeof v4) < 0 || listen(fd, 511) < 0)
        fail("listen");
    /* A blocking accept is the only way that needs a blocking listener. */
    if (strcmp(way, "accept"))
        fcntl(fd, F_SETFL, O_NONBLOCK);
    listeners[listeners_count++] = fd;
}

static int count_descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(folder))
        count++;
    closedir(folder);
    return count - 3; /* Without `.`, `..` and the folder itself. */
}

/* What an executed child says by its exit code: its descriptors beside the standard ones. 100 is
   added if it does not know of srv run. */
static int said_by_child(void) {
    return count_descriptors() - 3 + (getenv("SRV_RUN") ? 0 : 100);
}

static int executed_child(int nth) {
    char *arguments[] = {(char *)program, "--child", NULL}, *nothing[] = {NULL};
    pid_t pid;
    int status;
    switch (nth % 4) {
    case 0:
        if (posix_spawn(&pid, program, NULL, NULL, arguments, environ))
            fail("posix_spawn");
        break;
    case 1:
        if ((pid = vfork()) == 0) {
            execv(program, arguments);
            _exit(127);
        }
        break;
    case 2:
        if ((pid = fork()) == 0) {
            execve(program, arguments, nothing);
            _exit(127);
        }
        break;
    default:
        /* As many programs do it: it closes all that it does not need. */
        if ((pid = fork()) == 0) {
            for (int fd = 3; fd < 4096; fd++)
                close(fd);
            execvp(program, arguments);
            _exit(127);
        }
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        fail("run a child");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static void serve(int connection) {
    char request[4096], body[128], answer[512];
    int length = 0, got;
    while (length < (int)sizeof request - 1) {
        if ((got = read(connection, request + length, sizeof request - 1 - length)) <= 0)
            break;
        length += got;
        request[length] = 0;
        if (strstr(request, "\r\n\r\n"))
            break;
    }
    int children = 0, most = 0, before = 0;
    if (length > 0 && sscanf(request, "GET /children/%d", &children) == 1) {
        before = count_descriptors();
        for (int nth = 0; nth < children; nth++) {
            int said = executed_child(nth);
            most = said > most ? said : most;
        }
        snprintf(body, sizeof body, "most %d leaked %d\n", most, count_descriptors() - before);
    } else {
        snprintf(body, sizeof body, "%d\n", getpid());
    }
    got = snprintf(answer, sizeof answer,
                   "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                   strlen(body), body);
    if (length > 0 && write(connection, answer, got) != got)
        perror("write");
    close(connection);
}

static void accept_one(int listener) {
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection >= 0)
        serve(connection);
    else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        fail("accept");
    else if (errno == EAGAIN && !strcmp(way, "accept"))
        fail("a blocking accept did not wait");
}

static int watch_all(void) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int nth = 0; nth < listeners_count; nth++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = listeners[nth]};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, listeners[nth], &event) < 0)
            fail("epoll_ctl");
    }
    return epoll;
}

_Noreturn static void *work(void *epoll) {
    for (;;) {
        if (!strcmp(way, "epoll")) {
            struct epoll_event events[16];
            int count = epoll_wait((int)(long)epoll, events, 16, -1);
            for (int nth = 0; nth < count; nth++)
                accept_one(events[nth].data.fd);
        } else if (!strcmp(way, "poll")) {
            struct pollfd polled[LISTENERS_MAX];
            for (int nth = 0; nth < listeners_count; nth++)
                polled[nth] = (struct pollfd){.fd = listeners[nth], .events = POLLIN};
            poll(polled, listeners_count, -1);
            for (int nth = 0; nth < listeners_count; nth++)
                if (polled[nth].revents)
                    accept_one(listeners[nth]);
        } else if (!strcmp(way, "select")) {
            fd_set set;
            FD_ZERO(&set);
            int last = 0;
            for (int nth = 0; nth < listeners_count; nth++) {
                FD_SET(listeners[nth], &set);
                last = listeners[nth] > last ? listeners[nth] : last;
            }
            if (select(last + 1, &set, NULL, NULL, NULL) < 0)
                continue;
            for (int nth = 0; nth < listeners_count; nth++)
                if (FD_ISSET(listeners[nth], &set))
                    accept_one(listeners[nth]);
        } else {
            accept_one(listeners[0]);
        }
    }
}

/* In place of each listener a duplicate of it, or, for `both`, beside it. */
static void duplicate(const char *how) {
    int count = listeners_count;
    for (int nth = 0; nth < count; nth++) {
        int copy;
        if (!strcmp(how, "dup2")) {
            if ((copy = dup2(listeners[nth], 200 + nth)) < 0)
                fail("dup2");
        } else if ((copy = strcmp(how, "fcntl") ? dup(listeners[nth])
                                                : fcntl(listeners[nth], F_DUPFD_CLOEXEC, 100)) < 0) {
            fail("dup");
        }
        if (!strcmp(how, "both")) {
            listeners[listeners_count++] = copy;
        } else {
            close(listeners[nth]);
            listeners[nth] = copy;
        }
    }
}

/* A system call that no library sees. */
static long raw(long number, long a, long b, long c) {
    long returned;
#ifdef __x86_64__
    __asm__ volatile("syscall"
                     : "=a"(returned)
                     : "a"(number), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
#else
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    returned = x0;
#endif
    return returned;
}

static void close_from(const char *how, int first) {
    if (!strcmp(how, "closefrom")) {
#ifdef __GLIBC__
        closefrom(first);
#endif
    } else if (!strcmp(how, "close_range")) {
        syscall(SYS_close_range, first, ~0U, 0);
    } else if (strstr(how, "unseen")) {
        raw(SYS_close_range, first, ~0U, 0);
    } else {
        for (int fd = first; fd < 4096; fd++)
            close(fd);
    }
}

/* Forbids whatever makes a socket. `strict` also forbids what this program does not do. */
static void restrict_calls(const char *how) {
    unsigned int action = strstr(how, "errno") ? SECCOMP_RET_ERRNO | EPERM
                                               : SECCOMP_RET_KILL_PROCESS;
    struct sock_filter text[64] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    static const unsigned int forbidden[] = {
        SYS_socket, SYS_socketpair, SYS_connect, SYS_sendmsg, SYS_recvmsg, SYS_eventfd2,
        SYS_ppoll,  SYS_pselect6,   SYS_epoll_pwait, SYS_dup3, SYS_mmap};
    /* The last five are what the C library has another call for on x86-64. */
    int count = sizeof forbidden / sizeof *forbidden, length = 1;
#ifdef __x86_64__
    if (!strstr(how, "strict"))
        count = 6;
    else if (!strcmp(way, "select"))
        count = 7; /* glibc's select is pselect6. */
#else
    count = 6;
#endif
    for (int nth = 0; nth < count; nth++) {
        text[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, forbidden[nth], 0, 1);
        text[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
    }
    text[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {.len = length, .filter = text};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    long done;
    if (strstr(how, "unseen"))
        done = raw(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&filter);
    else if (strstr(how, "prctl"))
        done = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0);
    else
        done = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter);
    if (done != 0)
        fail("seccomp");
}

static void own_network(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (unshare(CLONE_NEWNET) < 0)
        fail("unshare");
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        fail("set lo up");
    close(fd);
}

_Noreturn static void be_worker(int level) {
    int first = 3;
    /* A worker ends with the process that has forked it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != forker)
        _exit(0);
    forker = getpid();
    for (int nth = 0; nth < listeners_count; nth++)
        first = listeners[nth] >= first ? listeners[nth] + 1 : first;
    int closes_late = closes && strstr(closes, "late") != NULL;
    if (closes && !closes_late)
        close_from(closes, first);
    if (duplicates)
        duplicate(duplicates);
    if (root && (chroot(root) < 0 || chdir("/") < 0))
        fail("chroot");
    if (filter && strstr(filter, "second") && number != 1)
        filter = NULL;
    int is_late = filter && strstr(filter, "late") != NULL;
    if (filter && !is_late)
        restrict_calls(filter);
    long epoll = strcmp(way, "epoll") ? 0 : watch_all();
    if (is_late)
        restrict_calls(filter);
    if (closes_late)
        close_from(closes, epoll + 1);
    /* The child is forked when this process has begun to wait, and waits itself. */
    if (level > 0) {
        pid_t child = fork();
        if (child == 0) {
            close(epoll);
            be_worker(level - 1);
        }
    }
    /* It outlives the worker that has forked it, and ends with the server. */
    if (bystander && fork() == 0) {
        int nowhere = open("/dev/null", O_RDWR);
        for (int fd = 0; fd < 3; fd++)
            dup2(nowhere, fd);
        while (!kill(server, 0))
            usleep(100000);
        _exit(0);
    }
    for (int nth = 1; nth < threads; nth++) {
        pthread_t thread;
        pthread_create(&thread, NULL, work, (void *)(strcmp(way, "epoll") ? 0L : (long)watch_all()));
    }
    work((void *)epoll);
}

int main(int count, char **arguments) {
    program = arguments[0];
    server = forker = getpid();
    for (int nth = 1; nth < count; nth++) {
        const char *name = arguments[nth], *value = nth + 1 < count ? arguments[nth + 1] : "";
        if (!strcmp(name, "--child"))
            return said_by_child();
        else if (!strcmp(name, "--own-network")) {
            own_network();
            continue;
        } else if (!strcmp(name, "--bystander")) {
            bystander = 1;
            continue;
        } else if (!strcmp(name, "--way"))
            way = value;
        else if (!strcmp(name, "--workers"))
            workers = atoi(value);
        else if (!strcmp(name, "--levels"))
            levels = atoi(value);
        else if (!strcmp(name, "--threads"))
            threads = atoi(value);
        else if (!strcmp(name, "--duplicates"))
            duplicates = value;
        else if (!strcmp(name, "--closes"))
            closes = value;
        else if (!strcmp(name, "--filter"))
            filter = value;
        else if (!strcmp(name, "--root"))
            root = value;
        else
            add_listener(name, value);
        nth++;
    }
    for (number = 0; number < workers; number++)
        if (fork() == 0)
            be_worker(levels);
    for (;;) {
        int status;
        pid_t ended = wait(&status);
        if (ended < 0)
            pause();
        /* A worker that the kernel or a test has killed. */
        if (WIFSIGNALED(status)) {
            fprintf(stderr, "worker %d: signal %d\n", ended, WTERMSIG(status));
            if (WTERMSIG(status) == SIGKILL && fork() == 0)
                be_worker(levels);
        }
    }
}
