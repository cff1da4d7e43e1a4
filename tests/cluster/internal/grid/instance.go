package grid

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"xdc-grid/tests/cluster/internal/kube"
	"xdc-grid/tests/cluster/internal/pki"
	"xdc-grid/tests/cluster/internal/proc"
	"xdc-grid/tests/cluster/internal/tools"
)

const gridID = "grid" // one full cluster per machine: its bridge and addresses are fixed

// instance is what must be known to repair or remove a cluster. It is written before anything is made, to /run
// (which survives a deleted state folder) and to the state folder (which survives a reboot).
type instance struct {
	ID        string
	Token     string // in the marker of every process
	State     string // absolute
	Nodes     int
	APIPort   int
	EtcdPort  int
	PeerPort  int
	NATs      map[string]int    `json:",omitempty"`
	Devices   map[string]int    `json:",omitempty"` // fake GPUs by node
	MadeDirs  []string          `json:",omitempty"` // folders outside our own that were not there before
	OldSysctl map[string]string `json:",omitempty"`
}

// Cluster is an opened instance.
type Cluster struct {
	instance
	mu      sync.Mutex
	procs   proc.Table
	say     *Progress
	bin     programs
	builder tools.Builder // of programs that few clusters need
	quiet   bool
	api     *kube.Client
	started map[string]time.Time // what this command started, and when
}

// programs are the folders of the built tools.
type programs struct {
	kubernetes, containerd, coredns, pause string
}

// Options are what the command line gives.
type Options struct {
	State  string
	Source string // folder of tests/cluster
	Cache  string
	Say    *Progress
}

func (i instance) runDir() string { return filepath.Join(runRoot, i.ID) }

func (i instance) path(parts ...string) string {
	return filepath.Join(append([]string{i.State}, parts...)...)
}

// Kubeconfig is the administrator's kubeconfig file.
func (i instance) Kubeconfig() string { return i.path("kubeconfig") }

func (i instance) pki() pki.Dir { return pki.Dir(i.path("pki")) }

func (i instance) isGrid() bool { return i.ID == gridID }

// nodes lists the cluster's nodes.
func (i instance) nodes() []node {
	list := make([]node, 0, i.Nodes)
	for n := node(1); int(n) <= i.Nodes; n++ {
		list = append(list, n)
	}
	return list
}

func planeID(state string) string {
	sum := sha256.Sum256([]byte(state))
	return "cp-" + hex.EncodeToString(sum[:6])
}

// find loads an instance that belongs to the state folder; fs.ErrNotExist when there is none.
func find(id, state string) (instance, error) {
	for _, file := range []string{filepath.Join(runRoot, id, "instance.json"), filepath.Join(state, id+".json")} {
		raw, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return instance{}, err
		}
		var i instance
		if err := json.Unmarshal(raw, &i); err != nil {
			return instance{}, fmt.Errorf("%s: %w", file, err)
		}
		return i, nil
	}
	return instance{}, fs.ErrNotExist
}

// findOrNew loads the instance or begins one.
func findOrNew(id, state string) (instance, error) {
	i, err := find(id, state)
	if err == nil {
		if i.State != state {
			return instance{}, otherState(i)
		}
		return i, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return instance{}, err
	}
	return instance{ID: id, State: state, Token: rand.Text()}, nil
}

func otherState(i instance) error {
	return fmt.Errorf("the cluster that runs on this machine belongs to %s; end it first: down --state %s", i.State, i.State)
}

func (i instance) save() error {
	raw, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	for _, file := range []string{filepath.Join(i.runDir(), "instance.json"), i.path(i.ID + ".json")} {
		if err := writeFile(file, raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (i instance) open(say *Progress) *Cluster {
	return &Cluster{
		instance: i,
		say:      say,
		started:  map[string]time.Time{},
		procs:    proc.Table{Dir: filepath.Join(i.runDir(), "procs"), Logs: i.path("log"), Token: i.Token},
	}
}

// writeFile replaces a file as a whole and makes its folder.
func writeFile(file string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, mode); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// lock serialises the commands that change one cluster; the kernel releases it when a command dies.
func lock(id string, say *Progress) (func(), error) {
	path := filepath.Join(runRoot, id+".lock")
	for {
		if err := os.MkdirAll(runRoot, 0o755); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return nil, err
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			say.Note("waiting for another cluster command to end")
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
				f.Close()
				return nil, err
			}
		}
		// "down" removes the file: whoever waited for it then holds a lock that nobody else sees.
		held, errHeld := f.Stat()
		named, errNamed := os.Stat(path)
		if errHeld == nil && errNamed == nil && os.SameFile(held, named) {
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}

func (o Options) builder() tools.Builder {
	return tools.Builder{Source: o.Source, Cache: o.Cache, Step: o.Say.Step}
}

// Build builds whatever is missing in the tool cache.
func Build(o Options) error {
	_, err := buildAll(o)
	return err
}

func buildAll(o Options) (programs, error) {
	var p programs
	b := o.builder()
	err := together(
		func() (err error) { p.kubernetes, err = b.Ensure(tools.Kubernetes); return },
		func() (err error) { p.containerd, err = b.Ensure(tools.Containerd); return },
		func() (err error) { p.coredns, err = b.Ensure(tools.CoreDNS); return },
		func() (err error) { p.pause, err = b.Ensure(tools.Pause); return },
	)
	return p, err
}

// kubernetesOnly builds what a control plane alone needs.
func (o Options) kubernetesOnly() (programs, error) {
	dir, err := o.builder().Ensure(tools.Kubernetes)
	return programs{kubernetes: dir}, err
}
