/* Preloaded into a workload, which each byte in the pipe CHANGES then changes: at 'g' the process gives up its supplementary
   groups, at 'c' it closes its connections to Unix sockets that have a name. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void close_connections(void) {
    for (int file = 3; file < 1024; file++) {
        struct sockaddr peer;
        socklen_t size = sizeof peer;
        int connected = getpeername(file, &peer, &size) == 0 && peer.sa_family == AF_UNIX;
        /* Nothing more than the family is the name of the other end of a socketpair(2). */
        if (connected && size > sizeof peer.sa_family)
            shutdown(file, SHUT_RDWR);
    }
}

static void *change(void *name) {
    char what;
    while (1) {
        int pipe = open(name, O_RDONLY | O_CLOEXEC);
        if (pipe < 0)
            _exit(99);
        while (read(pipe, &what, 1) == 1) {
            if (what == 'c')
                close_connections();
            else if (setgroups(0, NULL) != 0)
                _exit(99);
        }
        close(pipe);
    }
    return NULL;
}

__attribute__((constructor)) static void begin(void) {
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    if (pthread_create(&thread, NULL, change, getenv("CHANGES")) != 0)
        _exit(99);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
