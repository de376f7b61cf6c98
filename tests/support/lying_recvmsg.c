/* recvmsg(2) as no kernel answers it: whenever "panic!!!" is in what was read, more was read than there was room for. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/socket.h>

ssize_t recvmsg(int socket, struct msghdr *message, int flags) {
    ssize_t (*real)(int, struct msghdr *, int) = dlsym(RTLD_NEXT, "recvmsg");
    ssize_t bytes = real(socket, message, flags);
    int lie = bytes > 0 && memmem(message->msg_iov[0].iov_base, bytes, "panic!!!", 8);
    return lie ? bytes + (1 << 20) : bytes;
}
