# Processes, threads, locks, files, sockets: what servers written in Python use.
import asyncio, ctypes, mmap, multiprocessing as mp, multiprocessing.shared_memory as shm, os, select
import signal, socket, sqlite3, subprocess, sys, tempfile, threading, time, traceback


def square(n):
    return n * n


def add(lock, value):
    for _ in range(1000):
        with lock:
            value.value += 1


def main():
    with mp.Pool(2) as pool:
        assert pool.map(square, range(50)) == [n * n for n in range(50)]
    lock, value = mp.Lock(), mp.Value("i", 0, lock=False)
    workers = [mp.Process(target=add, args=(lock, value)) for _ in range(3)]
    [w.start() for w in workers], [w.join() for w in workers]
    assert value.value == 3000, value.value
    spawned = mp.get_context("spawn").Process(target=square, args=(3,))
    spawned.start(), spawned.join()
    assert spawned.exitcode == 0
    block = shm.SharedMemory(create=True, size=1 << 16)
    block.buf[0] = 7
    block.close(), block.unlink()

    done = []
    threads = [threading.Thread(target=lambda: done.append(sum(range(10000)))) for _ in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert len(done) == 8
    assert subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True).stdout == b"42\n"

    with tempfile.TemporaryDirectory(dir="/var") as top:
        db = sqlite3.connect(top + "/db")
        db.execute("pragma journal_mode=wal")
        db.execute("create table t(n)")
        db.executemany("insert into t values(?)", [(n,) for n in range(1000)])
        db.commit()
        assert db.execute("select sum(n) from t").fetchone() == (499500,)
        db.close()
        with open(top + "/map", "w+b") as f:
            f.truncate(1 << 20)
            m = mmap.mmap(f.fileno(), 0)
            m[5:8] = b"abc"
            m.flush()
            os.posix_fallocate(f.fileno(), 0, 2 << 20)
            with open(top + "/copy", "wb") as g:
                assert os.sendfile(g.fileno(), f.fileno(), 0, 100) == 100
                os.copy_file_range(f.fileno(), g.fileno(), 100)
        os.symlink("map", top + "/link"), os.link(top + "/map", top + "/hard")
        os.mkfifo(top + "/fifo")
        assert sorted(os.listdir(top))[0] == "copy"

    names = [name for _, name in socket.if_nameindex()]
    assert names == ["lo"], names
    for family, where in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0)), (socket.AF_UNIX, "/var/py.sock")):
        server = socket.socket(family)
        server.bind(where)
        server.listen()
        peer = socket.socket(family)
        peer.connect(server.getsockname())
        got, _ = server.accept()
        peer.sendall(b"hello")
        assert got.recv(5) == b"hello"

    ticks = []
    signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    while len(ticks) < 3:
        time.sleep(0.02)
    signal.setitimer(signal.ITIMER_REAL, 0)
    poll = select.epoll()
    poll.register(os.eventfd(1), select.EPOLLIN)
    assert poll.poll(1)

    async def echo():
        server = await asyncio.start_server(lambda r, w: w.write(b"x" * 70000) or w.close(), "127.0.0.1", 0)
        reader, _ = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert len(await reader.read(-1)) == 70000
        run = await asyncio.create_subprocess_exec(sys.executable, "-V", stdout=subprocess.PIPE)
        assert (await run.communicate())[0].startswith(b"Python")
        assert await asyncio.to_thread(square, 5) == 25

    asyncio.run(echo())


if __name__ == "__main__":
    try:
        main()
        print("RUNTIME OK python", sys.version.split()[0], flush=True)
    except BaseException:
        print("RUNTIME FAILED", traceback.format_exc(), flush=True)
