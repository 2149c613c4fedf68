// Threads, a child, files, maps, sockets, the garbage collectors' own threads.
import java.io.*;
import java.net.*;
import java.nio.*;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;

class Runtime {
    public static void main(String[] args) throws Exception {
        if (args.length > 0) {
            System.out.print("child");
            return;
        }
        try {
            work();
            System.out.println("RUNTIME OK java " + System.getProperty("java.version"));
        } catch (Throwable e) {
            System.out.println("RUNTIME FAILED " + e);
            e.printStackTrace(System.out);
        }
        System.exit(0);
    }

    static void check(boolean fine, String what) {
        if (!fine) throw new IllegalStateException(what);
    }

    static void work() throws Exception {
        check(IntStream.range(0, 1_000_000).parallel().asLongStream().sum() == 499999500000L, "parallel");
        var pool = Executors.newFixedThreadPool(8);
        var jobs = new ArrayList<Future<Integer>>();
        for (int n = 0; n < 50; n++) jobs.add(pool.submit(() -> { Thread.sleep(1); return 1; }));
        int sum = 0;
        for (var job : jobs) sum += job.get();
        check(sum == 50, "pool");
        for (int n = 0; n < 200; n++) check(new byte[1 << 20].length > 0, "garbage");

        var java = System.getProperty("java.home") + "/bin/java";
        var child = new ProcessBuilder(java, "-Xshare:off", "-cp", "/", "Runtime", "child").start();
        check(new String(child.getInputStream().readAllBytes()).equals("child"), "child");

        var dir = Files.createTempDirectory(Path.of("/var"), "java");
        try (var file = FileChannel.open(dir.resolve("a"), StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            var map = file.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 20);
            map.putInt(0, 42);
            map.force();
            check(file.tryLock() != null, "lock");
            file.force(true);
        }
        Files.copy(dir.resolve("a"), dir.resolve("b"));
        check(Files.size(dir.resolve("b")) == 1 << 20, "copy");
        try (var watch = FileSystems.getDefault().newWatchService()) {
            dir.register(watch, StandardWatchEventKinds.ENTRY_CREATE);
            Files.createFile(dir.resolve("c"));
            check(watch.poll(10, TimeUnit.SECONDS) != null, "watch");
        }
        check(NetworkInterface.networkInterfaces().anyMatch(i -> i.getName().equals("lo")), "interfaces");
        // Not ::1: Java takes IPv6 for missing where there is no /proc/net/if_inet6.
        for (var where : List.of("127.0.0.1")) {
            try (var server = new ServerSocket(0, 5, InetAddress.getByName(where));
                 var peer = new Socket(where, server.getLocalPort());
                 var got = server.accept()) {
                peer.getOutputStream().write("hello".getBytes());
                check(new String(got.getInputStream().readNBytes(5)).equals("hello"), where);
            }
        }
        try (var selector = Selector.open(); var server = ServerSocketChannel.open()) {
            server.bind(new InetSocketAddress("127.0.0.1", 0)).configureBlocking(false);
            server.register(selector, SelectionKey.OP_ACCEPT);
            try (var peer = SocketChannel.open(server.getLocalAddress())) {
                check(selector.select(10_000) == 1, "selector");
            }
        }
    }
}
