/* Preloaded into one process: while the file WRONG_CLOCK is there, its wall clock shows the first days of 1970. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t which, struct timespec *shown) {
    const char *wrong = getenv("WRONG_CLOCK");
    if (which == CLOCK_REALTIME && wrong && access(wrong, F_OK) == 0)
        which = CLOCK_BOOTTIME;
    return (int)syscall(SYS_clock_gettime, which, shown);
}
