package servers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// Redis is a private Redis server. It keeps an append-only file and syncs it before it answers, so
// that what it has answered survives Crash. A Redis is not for concurrent use; its server is.
type Redis struct {
	program  string
	sentinel bool
	dir      string
	port     int
	password string
	settings []string
	process  *process // nil while it is stopped
}

// StartRedis starts an empty server and waits until it answers. Settings are lines of redis.conf, as in
// "maxmemory 100mb". ctx bounds the start alone: the server runs until Close.
func StartRedis(ctx context.Context, settings ...string) (*Redis, error) {
	settings = append([]string{"save \"\"", "appendonly yes", "appendfsync always"}, settings...)
	return startRedis(ctx, &Redis{password: rand.Text(), settings: settings})
}

func startRedis(ctx context.Context, r *Redis) (*Redis, error) {
	// As the PATH has it: redis-server may be a link to a program that goes by the name it is called.
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("redis-server is not installed: %w", err)
	}
	r.program = program
	if r.dir, err = tempDir("redis", ""); err != nil {
		return nil, err
	}
	for range 5 { // others look for free ports too
		if r.port, err = redisPort(); err != nil {
			break
		}
		if err = r.configure(); err != nil {
			break
		}
		if err = r.Start(ctx); err == nil {
			return r, nil
		}
	}
	return nil, errors.Join(err, r.Close())
}

// redisPort finds a port that is free and, for the cluster bus, the one 10,000 above it too.
func redisPort() (int, error) {
	for range 100 {
		port, err := freePort()
		if err != nil {
			return 0, err
		}
		if port+busOffset > 65535 {
			port -= busOffset
		}
		if isFree(port) && isFree(port+busOffset) {
			return port, nil
		}
	}
	return 0, errors.New("no two ports are free that are 10,000 apart")
}

const busOffset = 10000

func isFree(port int) bool {
	l, err := net.Listen("tcp", loopback(port)) //nolint:noctx // it does not wait
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// configure writes redis.conf: a file, since the arguments of a program are for all to see. Sentinel
// writes to it as well.
func (r *Redis) configure() error {
	lines := append([]string{
		"bind 127.0.0.1",
		"port " + strconv.Itoa(r.port),
		"dir " + r.dir,
		"requirepass " + r.password,
	}, r.settings...)
	return os.WriteFile(r.config(), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

func (r *Redis) config() string { return filepath.Join(r.dir, "redis.conf") }

// Addr is the server's host:port. It stays the same over restarts.
func (r *Redis) Addr() string { return loopback(r.port) }

// Password is the server's.
func (r *Redis) Password() string { return r.password }

// URL is where the server's database is, for redis.ParseURL.
func (r *Redis) URL() string { return "redis://:" + r.password + "@" + r.Addr() + "/0" }

// Start starts a stopped server, on the port that it had, and waits until it has read its data.
func (r *Redis) Start(ctx context.Context) error {
	if r.process != nil {
		return errors.New("redis runs already")
	}
	args := []string{r.config()}
	if r.sentinel {
		args = append(args, "--sentinel")
	}
	process, err := startProcess(r.program, r.dir, "", args...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := process.waitReady(ctx, r.probe); err != nil {
		return errors.Join(err, process.stop(context.WithoutCancel(ctx), os.Kill))
	}
	r.process = process
	return nil
}

func (r *Redis) probe(ctx context.Context) error {
	if conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.Addr()); err != nil { // go-redis logs what it cannot dial
		return err
	} else if err := conn.Close(); err != nil {
		return err
	}
	return r.do(ctx, "ping").Err()
}

// do asks the server on a connection of its own, once.
func (r *Redis) do(ctx context.Context, args ...any) *redis.Cmd {
	c := redis.NewClient(&redis.Options{
		Addr: r.Addr(), Password: r.password, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
	})
	defer func() { _ = c.Close() }()
	return c.Do(ctx, args...)
}

// Stop stops the server as SHUTDOWN does: connections are cut, what is stored is on disk.
func (r *Redis) Stop(ctx context.Context) error { return r.stop(ctx, syscall.SIGTERM) }

// Crash kills the server. The next Start reads what the append-only file has.
func (r *Redis) Crash(ctx context.Context) error { return r.stop(ctx, os.Kill) }

func (r *Redis) stop(ctx context.Context, sig os.Signal) error {
	if r.process == nil {
		return nil
	}
	err := r.process.stop(ctx, sig)
	r.process = nil
	return err
}

// Close stops the server and removes its data.
func (r *Redis) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	return errors.Join(r.stop(ctx, os.Kill), os.RemoveAll(r.dir))
}

// RedisCluster is a private Redis Cluster: masters that share the slots evenly, without replicas.
type RedisCluster struct {
	Nodes []*Redis
}

// StartRedisCluster starts a cluster of so many masters, at least three, and waits until each knows of
// all slots.
func StartRedisCluster(ctx context.Context, masters int, settings ...string) (*RedisCluster, error) {
	c := &RedisCluster{}
	password := rand.Text()
	settings = append([]string{
		"save \"\"", "appendonly yes", "appendfsync always", "cluster-enabled yes", "cluster-node-timeout 5000", "masterauth " + password,
	}, settings...)
	for range masters {
		node, err := startRedis(ctx, &Redis{password: password, settings: settings})
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.Nodes = append(c.Nodes, node)
	}
	if err := c.join(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

const clusterSlots = 16384

func (c *RedisCluster) join(ctx context.Context) error {
	for i, node := range c.Nodes {
		slots := []any{"cluster", "addslots"} // CLUSTER ADDSLOTSRANGE came with Redis 7
		for slot := i * clusterSlots / len(c.Nodes); slot < (i+1)*clusterSlots/len(c.Nodes); slot++ {
			slots = append(slots, slot)
		}
		if err := node.do(ctx, slots...).Err(); err != nil {
			return fmt.Errorf("cluster addslots: %w", err)
		}
		// Distinct epochs: nodes that share one have to agree on who gives way.
		if err := node.do(ctx, "cluster", "set-config-epoch", i+1).Err(); err != nil {
			return fmt.Errorf("cluster set-config-epoch: %w", err)
		}
		if err := node.do(ctx, "cluster", "meet", "127.0.0.1", c.Nodes[0].port).Err(); err != nil && i > 0 {
			return fmt.Errorf("cluster meet: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for _, node := range c.Nodes {
		if err := node.process.waitReady(ctx, func(ctx context.Context) error { return c.probe(ctx, node) }); err != nil {
			return err
		}
	}
	return nil
}

func (c *RedisCluster) probe(ctx context.Context, node *Redis) error {
	info, err := node.do(ctx, "cluster", "info").Text()
	if err != nil {
		return err
	}
	for _, line := range []string{"cluster_state:ok", fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes)), fmt.Sprintf("cluster_slots_ok:%d\r", clusterSlots)} {
		if !strings.Contains(info, line) {
			return fmt.Errorf("cluster info does not say %q", strings.TrimSpace(line))
		}
	}
	return nil
}

// Addrs are the nodes' host:ports.
func (c *RedisCluster) Addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i, node := range c.Nodes {
		addrs[i] = node.Addr()
	}
	return addrs
}

// Password is every node's.
func (c *RedisCluster) Password() string { return c.Nodes[0].password }

// Close stops the nodes and removes their data.
func (c *RedisCluster) Close() error {
	var errs []error
	for _, node := range c.Nodes {
		errs = append(errs, node.Close())
	}
	return errors.Join(errs...)
}

// RedisSentinel is a private Redis with a replica, and a Sentinel that promotes the replica when the
// master has been down for a second.
type RedisSentinel struct {
	Master   *Redis // at the start
	Replica  *Redis
	sentinel *Redis
}

// SentinelMaster is the name under which Sentinel knows the master.
const SentinelMaster = "vehicle"

// StartRedisSentinel starts the three and waits until Sentinel has found the replica.
func StartRedisSentinel(ctx context.Context) (*RedisSentinel, error) {
	s := &RedisSentinel{}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *RedisSentinel) start(ctx context.Context) (err error) {
	password := rand.Text()
	settings := []string{"save \"\"", "appendonly yes", "appendfsync always", "masterauth " + password, "repl-diskless-sync-delay 0"}
	if s.Master, err = startRedis(ctx, &Redis{password: password, settings: settings}); err != nil {
		return err
	}
	replicaOf := fmt.Sprintf("replicaof 127.0.0.1 %d", s.Master.port)
	if s.Replica, err = startRedis(ctx, &Redis{password: password, settings: append(settings, replicaOf)}); err != nil {
		return err
	}
	s.sentinel, err = startRedis(ctx, &Redis{password: password, sentinel: true, settings: []string{
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 1", SentinelMaster, s.Master.port),
		fmt.Sprintf("sentinel auth-pass %s %s", SentinelMaster, password),
		fmt.Sprintf("sentinel down-after-milliseconds %s 1000", SentinelMaster),
		fmt.Sprintf("sentinel failover-timeout %s 5000", SentinelMaster),
	}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return s.sentinel.process.waitReady(ctx, s.probe)
}

func (s *RedisSentinel) probe(ctx context.Context) error {
	replicas, err := s.sentinel.do(ctx, "sentinel", "replicas", SentinelMaster).Slice()
	if err != nil {
		return err
	}
	if text := fmt.Sprint(replicas); !strings.Contains(text, "master-link-status:ok") && !strings.Contains(text, "master-link-status ok") {
		return errors.New("sentinel sees no replica that is in step")
	}
	return nil
}

// SentinelAddr is Sentinel's host:port.
func (s *RedisSentinel) SentinelAddr() string { return s.sentinel.Addr() }

// Password is that of the servers and of Sentinel.
func (s *RedisSentinel) Password() string { return s.Master.password }

// Close stops the three and removes their data.
func (s *RedisSentinel) Close() error {
	var errs []error
	for _, r := range []*Redis{s.sentinel, s.Replica, s.Master} {
		if r != nil {
			errs = append(errs, r.Close())
		}
	}
	return errors.Join(errs...)
}
