// Goroutines on several threads, a child, files, sockets, interfaces, timers.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func check(err error) {
	if err != nil {
		fmt.Println("RUNTIME FAILED", err)
		os.Exit(1)
	}
}

func main() {
	if len(os.Args) > 1 {
		fmt.Println("child")
		return
	}
	runtime.GOMAXPROCS(4)
	var sum int64
	var all sync.WaitGroup
	for n := 0; n < 200; n++ {
		all.Add(1)
		go func() { defer all.Done(); time.Sleep(time.Millisecond); atomic.AddInt64(&sum, 1) }()
	}
	all.Wait()
	if sum != 200 {
		check(fmt.Errorf("sum %d", sum))
	}
	out, err := exec.Command("/go", "child").Output()
	check(err)
	if strings.TrimSpace(string(out)) != "child" {
		check(fmt.Errorf("child said %q", out))
	}
	dir, err := os.MkdirTemp("/var", "go")
	check(err)
	file := filepath.Join(dir, "a")
	check(os.WriteFile(file, make([]byte, 1<<20), 0o600))
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	check(err)
	check(f.Sync())
	g, err := os.Create(file + "2")
	check(err)
	_, err = io.Copy(g, f)
	check(err)
	check(os.Rename(file, file+"3"))
	check(os.RemoveAll(dir))
	found, err := net.Interfaces()
	check(err)
	if len(found) != 1 || found[0].Name != "lo" {
		check(fmt.Errorf("interfaces %v", found))
	}
	for _, where := range [][2]string{{"tcp", "127.0.0.1:0"}, {"tcp", "[::1]:0"}, {"unix", "/var/go.sock"}} {
		listener, err := net.Listen(where[0], where[1])
		check(err)
		go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Write(body)
		}))
		client := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) {
			return net.Dial(where[0], listener.Addr().String())
		}}}
		answer, err := client.Post("http://app/", "text/plain", strings.NewReader(strings.Repeat("x", 100000)))
		check(err)
		body, err := io.ReadAll(answer.Body)
		check(err)
		if len(body) != 100000 {
			check(fmt.Errorf("%d bytes", len(body)))
		}
	}
	fmt.Println("RUNTIME OK", runtime.Version())
}
