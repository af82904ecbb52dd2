/* What runs inside a worker that is not as it should be: it is loaded with LD_PRELOAD.
 *
 * If the file exists that STOP_WORKER names, the worker removes it, and stops before it
 * has started.
 *
 * At SIGRTMIN, when it is confined, the worker tries every call that could harm others on every
 * listener, and on the descriptions that the worker shares with the master. It says
 * on standard error what each came to: `HOSTILE call: errno`, 0 if it succeeded. The
 * signal's value is the process that signals are to be sent to. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define TRY(call) say(#call, (long)(call))

static void say(const char *call, long result)
{
    char line[200];
    int error = result < 0 ? errno : 0;
    int length = snprintf(line, sizeof line, "HOSTILE %s: %d\n", call, error);
    if (write(2, line, length) < 0)
        _exit(1);
}

static void attack_listener(int fd)
{
    static struct sock_filter drop[] = {{0x06, 0, 0, 0}};
    struct sock_fprog program = {1, drop};
    struct linger reset = {1, 0};
    int zero = 0, one = 1, much = 0x7fffffff;
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct sockaddr_in somewhere = {.sin_family = AF_INET, .sin_port = htons(9)};

    TRY(shutdown(fd, SHUT_RD));
    TRY(shutdown(fd, SHUT_RDWR));
    TRY(setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &zero, sizeof zero));
    TRY(setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program));
    TRY(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    TRY(setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &one, sizeof one));
    TRY(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &one, sizeof one));
    TRY(setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &much, sizeof much));
    TRY(setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &one, sizeof one));
    TRY(setsockopt(fd, IPPROTO_TCP, SO_LINGER, &reset, sizeof reset));
    TRY(fcntl(fd, F_SETFL, 0));
    TRY(ioctl(fd, FIONBIO, &zero));
    TRY(ioctl(fd, FIOASYNC, &one));
    TRY(listen(fd, 0));
    TRY(connect(fd, &none, sizeof none));
    TRY(sendto(fd, "", 0, MSG_FASTOPEN, &none, sizeof none));
    TRY(sendto(fd, "", 0, MSG_FASTOPEN, (void *)&somewhere, sizeof somewhere));
}

static void attack_shared(int fd, int victim)
{
    struct f_owner_ex owner = {F_OWNER_PID, victim};
    TRY(fcntl(fd, F_SETOWN, victim));
    TRY(fcntl(fd, F_SETOWN_EX, &owner));
    TRY(fcntl(fd, F_SETSIG, SIGKILL));
    TRY(fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK));
    TRY(fcntl(fd, F_SETLEASE, F_RDLCK));
    TRY(fcntl(fd, F_NOTIFY, 1));
    TRY(ioctl(fd, FIOSETOWN, &victim));
}

static int is_listener(int fd)
{
    int listens = 0;
    socklen_t length = sizeof listens;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0 && listens;
}

static void attack(int signal, siginfo_t *info, void *context)
{
    int victim = info->si_value.sival_int;
    (void)signal;
    (void)context;
    for (int fd = 3; fd < 64; fd++) {
        if (!is_listener(fd))
            continue;
        attack_listener(fd);
        attack_shared(fd, victim);
    }
    attack_shared(2, victim);
    /* What a worker needs goes on. */
    TRY(fcntl(2, F_GETFD));
    say("done", 0);
}

/* Says on its channel to the master, over and over, what a worker says once. */
static void complain(int signal)
{
    char message[200];
    (void)signal;
    for (int i = 0; i < 2000; i++) {
        const char *form = i < 1000 ? "{\"Refused\":{\"revision\":%d,\"why\":\"because\\nFORGED\"}}"
                                    : "{\"Failed\":\"because\\nFORGED %d\"}";
        int length = snprintf(message, sizeof message, form, i);
        for (int tries = 0; tries < 1000 && send(3, message, length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0; tries++)
            if (errno != EAGAIN)
                break;
    }
    say("complained", 0);
}

__attribute__((constructor)) static void arm(void)
{
    char arguments[256] = {0};
    struct sigaction action = {.sa_sigaction = attack, .sa_flags = SA_SIGINFO};
    int fd = open("/proc/self/cmdline", O_RDONLY);
    ssize_t length = read(fd, arguments, sizeof arguments - 1);
    close(fd);
    if (length < 10 || memcmp(arguments, "srv\0worker", 10) != 0)
        return;
    sigaction(SIGRTMIN, &action, NULL);
    signal(SIGRTMIN + 1, complain);
    if (getenv("STOP_WORKER") && unlink(getenv("STOP_WORKER")) == 0)
        raise(SIGSTOP);
}
