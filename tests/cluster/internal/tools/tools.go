// Package tools builds the programs of a Kubernetes node from Go modules, once per source digest, into a cache that all
// clones of the repository share.
package tools

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Tool is a Go module of this folder and how it is built.
type Tool struct {
	Name     string
	Dir      string   // below the source folder
	Packages []string // what to build; each gives one program named after its last path element
	Flags    []string
	Minutes  string // how long a cold build takes on two cores, for the person who waits
}

// Kubernetes is etcd, the control plane, kubelet and kube-proxy in one program called node.
var Kubernetes = Tool{
	Name: "kubernetes", Dir: "node", Packages: []string{"."}, Minutes: "5 min",
	Flags: []string{"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2"},
}

// Containerd is the container runtime, its shim and its client.
var Containerd = Tool{
	Name: "containerd", Dir: "containerd", Minutes: "1 min",
	Packages: []string{
		"github.com/containerd/containerd/v2/cmd/containerd",
		"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
		"github.com/containerd/containerd/v2/cmd/ctr",
	},
	Flags: []string{
		"-tags=no_btrfs,no_zfs,no_devmapper",
		"-ldflags=-s -w -X github.com/containerd/containerd/v2/version.Version=v2.4.2",
	},
}

// CoreDNS is the cluster's name server.
var CoreDNS = Tool{Name: "coredns", Dir: "coredns", Packages: []string{"."}, Minutes: "1 min", Flags: []string{"-ldflags=-s -w"}}

// Devices is the device plugin and DRA driver of GPUs that do not exist; it is built when a node is given some.
var Devices = Tool{Name: "devices", Dir: "devices", Packages: []string{"."}, Minutes: "1 min", Flags: []string{"-ldflags=-s -w"}}

// Pause is the program of a pod's sandbox; the cluster's own module holds it.
var Pause = Tool{Name: "pause", Dir: "pause", Packages: []string{"."}, Minutes: "1 s", Flags: []string{"-ldflags=-s -w"}}

// Nobody debugs these programs, and without inlining the compiler takes a third less time. What the API server spends its time in stays inlined.
// Helm is built with the same flags and the same versions of the modules that it shares with these, so that each package is compiled once.
//
//go:embed compiler.flags
var compilerFlagLines string

var compilerFlags = strings.Split(strings.TrimSpace(compilerFlagLines), "\n")

// Builder builds tools.
type Builder struct {
	Source string // the folder that holds the tools' modules
	Cache  string // the tool cache
	// Step is called around each build that really happens, to tell a person.
	Step func(label string, do func() error) error
}

// DefaultCache is ${XDC_GRID_CACHE:-$HOME/.cache/xdc-grid}.
func DefaultCache() (string, error) {
	if dir := os.Getenv("XDC_GRID_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no place for the tool cache: set XDC_GRID_CACHE: %w", err)
	}
	return filepath.Join(home, ".cache", "xdc-grid"), nil
}

// Ensure gives the folder with the tool's programs, building them if this source was never built here.
func (b Builder) Ensure(t Tool) (string, error) {
	key, err := t.key(filepath.Join(b.Source, t.Dir))
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.Name, err)
	}
	out := filepath.Join(b.Cache, "tools", t.Name+"-"+key)
	if exists(out) {
		return out, nil
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(out + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(out) { // another command built it while we waited for the lock
		return out, nil
	}
	label := fmt.Sprintf("build %s (once; about %s)", t.Name, t.Minutes)
	return out, b.Step(label, func() error { return b.build(t, out) })
}

func (b Builder) build(t Tool, out string) error {
	tmp := out + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	args := append([]string{"build", "-C", filepath.Join(b.Source, t.Dir), "-trimpath"}, compilerFlags...)
	args = append(args, t.Flags...)
	args = append(append(args, "-o", tmp+"/"), t.Packages...)
	cmd := exec.Command("go", args...)
	// Static programs: they run in images without a C library, and in every namespace.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly -buildvcs=false")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build of %s: %w\n%s", t.Name, err, lastLines(string(output), 12))
	}
	return os.Rename(tmp, out)
}

// key digests the sources and the build flags, so that a change of either builds anew and nothing else does.
func (t Tool) key(dir string) (string, error) {
	h := sha256.New()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return "", err
	}
	n := 0
	for _, f := range files {
		name := filepath.Base(f)
		if name != "go.mod" && name != "go.sum" && (!strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go")) {
			continue
		}
		raw, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", name, len(raw))
		h.Write(raw)
		n++
	}
	if n == 0 {
		return "", errors.New("no Go sources in " + dir)
	}
	fmt.Fprintf(h, "%q %q %q", t.Packages, compilerFlags, t.Flags)
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return "  " + strings.Join(lines, "\n  ")
}
