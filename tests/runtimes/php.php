<?php // Processes, files with locks, sockets, a database where the module is there.
set_error_handler(function ($n, $text, $file, $line) { throw new Exception("$text (line $line)"); });
try {
    $child = proc_open([PHP_BINARY, '-r', 'echo strrev(stream_get_contents(STDIN));'], [['pipe', 'r'], ['pipe', 'w']], $pipes);
    fwrite($pipes[0], 'abc'); fclose($pipes[0]);
    if (stream_get_contents($pipes[1]) !== 'cba') throw new Exception('child');
    proc_close($child);
    $file = tempnam('/var', 'php');
    $f = fopen($file, 'c+');
    if (!flock($f, LOCK_EX)) throw new Exception('flock');
    fwrite($f, str_repeat('x', 100000)); fflush($f); flock($f, LOCK_UN);
    if (filesize($file) !== 100000) throw new Exception('size');
    foreach (['tcp://127.0.0.1:0', 'tcp://[::1]:0', 'unix:///var/php.sock'] as $where) {
        $server = stream_socket_server($where);
        $name = stream_socket_get_name($server, false);
        $peer = stream_socket_client($where[0] === 'u' ? $where : "tcp://$name");
        $got = stream_socket_accept($server);
        fwrite($peer, "hello\n");
        if (fgets($got) !== "hello\n") throw new Exception($where);
    }
    if (function_exists('pcntl_fork')) {
        $pid = pcntl_fork();
        if ($pid === 0) exit(7);
        pcntl_waitpid($pid, $status);
        if (pcntl_wexitstatus($status) !== 7) throw new Exception('fork');
    }
    session_save_path('/var'); session_start(); $_SESSION['a'] = random_bytes(8); session_write_close();
    echo 'RUNTIME OK php ', PHP_VERSION, "\n";
} catch (Throwable $e) {
    echo 'RUNTIME FAILED ', $e->getMessage(), "\n";
}
