"""A FUSE file system with one program, which this script mounts and then runs. Its server shows the daemon other bytes
than those that run ("lies"), or never answers the daemon ("hangs"). It serves for as long as the program runs."""
import ctypes, os, select, struct, sys

how, daemon, folder, shown, run, *arguments = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 17, 18, 25, 26
INTERRUPT, BATCH_FORGET = 36, 42
FOREVER, DIRECT_IO, ENOENT, ENOSYS = 1 << 30, 1, 2, 38


def attributes(node):
    """The root directory is node 1, the program node 2; uid 0 owns both."""
    mode, size = (0o40755, 0) if node == 1 else (0o100755, os.stat(run).st_size)
    return struct.pack("6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(kind, node, body, by_daemon):
    """The response as bytes, or an errno."""
    if kind == INIT:
        return struct.pack("4I2H2I2H8I", 7, 31, 1 << 17, 0, 8, 8, 1 << 17, 1, 32, 0, *[0] * 8)
    if kind == LOOKUP and body != b"program\0":
        return ENOENT
    if kind == LOOKUP:
        return struct.pack("4Q2I", 2, 0, 0 if how == "hangs" else FOREVER, FOREVER, 0, 0) + attributes(2)
    if kind == GETATTR:
        return struct.pack("Q2I", FOREVER, 0, 0) + attributes(node)
    if kind == OPEN:
        return struct.pack("Q2I", by_daemon, DIRECT_IO if by_daemon else 0, 0)
    if kind == READ:
        to_daemon, offset, size = struct.unpack_from("QQI", body)
        return os.pread(files[to_daemon], size, offset)
    if kind == STATFS:
        return bytes(80)
    return b"" if kind in (RELEASE, FLUSH) else ENOSYS


device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other"
assert libc.mount(b"lying", folder.encode(), b"fuse", 6, options.encode()) == 0, os.strerror(ctypes.get_errno())
program = os.pidfd_open(os.getpid())
if os.fork() == 0:
    os.closerange(0, 3)
    files = [os.open(run, os.O_RDONLY), os.open(shown, os.O_RDONLY)]
    while program not in select.select([device, program], [], [])[0]:
        asked = os.read(device, 1 << 18)
        _, kind, number, node, _, _, pid, _ = struct.unpack_from("IIQQIIII", asked)
        by_daemon = os.path.exists(f"/proc/{daemon}/task/{pid}")
        if kind in (FORGET, BATCH_FORGET, INTERRUPT) or how == "hangs" and by_daemon:
            continue
        answered = answer(kind, node, asked[40:], by_daemon)
        error, body = (0, answered) if isinstance(answered, bytes) else (-answered, b"")
        os.write(device, struct.pack("IiQ", 16 + len(body), error, number) + body)
    os._exit(0)
os.execv(f"{folder}/program", [f"{folder}/program", *arguments])
