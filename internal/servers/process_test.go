package servers

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// hostEnv makes a process of this test binary one that starts a server, says where it is, and does nothing more.
const hostEnv = "SERVERS_TEST_HOST"

func TestMain(m *testing.M) {
	if os.Getenv(hostEnv) == "" {
		os.Exit(m.Run())
	}
	pg, err := StartPostgres(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(pg.URL())
	fmt.Println(pg.dir)
	select {}
}

func TestAServerEndsWithTheProcessThatStartedIt(t *testing.T) {
	t.Parallel()
	host := exec.CommandContext(t.Context(), os.Args[0])
	host.Env = append(os.Environ(), hostEnv+"=1")
	host.Stderr = os.Stderr
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	read := func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("the host says nothing")
		}
		return lines.Text()
	}
	where, dir := read(), read()
	if _, err := url.Parse(where); err != nil {
		t.Fatal(err)
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
		conn, err := pgx.Connect(t.Context(), where)
		if err == nil {
			_ = conn.Close(t.Context())
		}
		_, statErr := os.Stat(dir)
		if err != nil && os.IsNotExist(statErr) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 30s, connecting: %v; its folder: %v", err, statErr)
		}
	}
}
