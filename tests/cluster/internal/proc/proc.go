// Package proc starts the cluster's long-running processes and ends exactly those.
//
// Every process is recorded by pid and start time, so a recycled pid is never taken for ours, and carries a marker in
// its environment, so one whose record was lost (or that a process of ours started, such as a container shim) is
// found too. Processes outlive the command that started them.
package proc

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const marker = "XDC_GRID_PROC="

// Table is a folder of records of one cluster's processes.
type Table struct {
	Dir   string // records
	Logs  string // one file per process
	Token string // unique to this cluster; part of the marker
}

// Spec is a process that should run.
type Spec struct {
	Name string
	Part string // what it belongs to, such as node-1, or control-plane
	Argv []string
	Env  []string // in addition to this command's
}

type record struct {
	PID   int
	Start uint64 // clock ticks since boot
	Boot  string
	Part  string
	Spec  string // digest of the command line and environment
}

// Ensure starts the process unless it runs with this very command line, and says whether it started it.
func (t Table) Ensure(s Spec) (bool, error) {
	want := digest(s)
	if r, ok := t.read(s.Name); ok {
		if r.alive() {
			if r.Spec == want {
				return false, nil
			}
			if err := end([]int{r.PID}, r.alive); err != nil {
				return false, err
			}
		}
	}
	return true, t.start(s, want)
}

func (t Table) start(s Spec, want string) error {
	for _, dir := range []string{t.Dir, t.Logs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	log, err := os.Create(t.Log(s.Name))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.Argv[0], s.Argv[1:]...)
	cmd.Env = append(append(os.Environ(), s.Env...), marker+t.Token+"/"+s.Part)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	st, err := stat(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // so that one that ends early is not a zombie that looks alive
	if err != nil {
		return fmt.Errorf("%s ended at once%s", s.Name, t.Tail(s.Name))
	}
	raw, err := json.Marshal(record{PID: cmd.Process.Pid, Start: st.start, Boot: bootID(), Part: s.Part, Spec: want})
	if err != nil {
		return err
	}
	tmp := t.path(s.Name) + ".new"
	if err := os.WriteFile(tmp, raw, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, t.path(s.Name))
}

// PID is the process's id, or 0 when it does not run.
func (t Table) PID(name string) int {
	if r, ok := t.read(name); ok && r.alive() {
		return r.PID
	}
	return 0
}

// Names lists what is recorded, running or not.
func (t Table) Names() []string {
	var names []string
	files, _ := filepath.Glob(filepath.Join(t.Dir, "*.json"))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".json"))
	}
	return names
}

// Any says whether anything of the cluster runs, recorded or only marked.
func (t Table) Any() bool {
	return slices.ContainsFunc(t.Names(), func(n string) bool { return t.PID(n) != 0 }) ||
		slices.ContainsFunc(t.marked(""), Running)
}

// Kill ends one recorded process and forgets it.
func (t Table) Kill(name string) error {
	r, ok := t.read(name)
	if ok && r.alive() {
		if err := end([]int{r.PID}, r.alive); err != nil {
			return err
		}
	}
	if err := os.Remove(t.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// KillPart ends everything of one part, recorded or only marked; an empty part means all.
func (t Table) KillPart(part string) error {
	belongs := func(r record) bool { return part == "" || r.Part == part }
	for _, name := range t.Names() {
		if r, ok := t.read(name); ok && belongs(r) && r.alive() {
			_ = syscall.Kill(r.PID, syscall.SIGKILL)
		}
	}
	// Twice, because a process may be starting another while the first pass looks.
	for range 2 {
		pids := t.marked(part)
		alive := func() bool { return slices.ContainsFunc(pids, Running) }
		if err := end(pids, alive); err != nil {
			return err
		}
	}
	for _, name := range t.Names() {
		if r, ok := t.read(name); ok && belongs(r) {
			if err := t.Kill(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// marked finds processes by the marker in the environment they were started with.
func (t Table) marked(part string) []int {
	want := []byte(marker + t.Token + "/" + part)
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if bytes.Equal(v, want) || part == "" && bytes.HasPrefix(v, want) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// KillPIDs ends the given processes, such as those of a control group of ours.
func KillPIDs(pids []int) error {
	return end(pids, func() bool { return slices.ContainsFunc(pids, Running) })
}

func end(pids []int, alive func() bool) error {
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	deadline := time.Now().Add(60 * time.Second)
	for alive() {
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v did not end within 60 s of SIGKILL", pids)
		}
		time.Sleep(5 * time.Millisecond) // a poll: ends as soon as the condition holds
	}
	return nil
}

// Log is the file with the process's output.
func (t Table) Log(name string) string { return filepath.Join(t.Logs, name+".log") }

// Tail gives the lines of the process's log that tell why it failed, ready to append to an error.
func (t Table) Tail(name string) string {
	raw, err := os.ReadFile(t.Log(name))
	if err != nil {
		return ""
	}
	lines := relevant(strings.Split(strings.TrimSpace(string(raw)), "\n"), 8)
	return "\n  " + t.Log(name) + ":\n    " + strings.Join(lines, "\n    ")
}

// relevant picks the last n lines that look like errors, or else the last n.
func relevant(lines []string, n int) []string {
	var errs []string
	for _, l := range lines {
		low := strings.ToLower(l)
		klog := len(l) > 4 && (l[0] == 'E' || l[0] == 'F') && l[1] >= '0' && l[1] <= '9'
		if klog || strings.Contains(low, "level=error") || strings.Contains(low, "level=fatal") ||
			strings.Contains(low, `"level":"fatal"`) || strings.Contains(low, `"level":"error"`) ||
			strings.HasPrefix(low, "error") || strings.HasPrefix(low, "panic") {
			errs = append(errs, l)
		}
	}
	if len(errs) == 0 {
		errs = lines
	}
	if len(errs) > n {
		errs = errs[len(errs)-n:]
	}
	for i, l := range errs {
		if len(l) > 400 {
			errs[i] = l[:400] + "…"
		}
	}
	return errs
}

func (t Table) path(name string) string { return filepath.Join(t.Dir, name+".json") }

func (t Table) read(name string) (record, bool) {
	var r record
	raw, err := os.ReadFile(t.path(name))
	if err != nil || json.Unmarshal(raw, &r) != nil {
		return record{}, false
	}
	return r, true
}

func (r record) alive() bool {
	st, err := stat(r.PID)
	return err == nil && st.start == r.Start && st.state != 'Z' && st.state != 'X' && r.Boot == bootID()
}

// Running says whether a process exists and is more than a remainder that its parent has not noticed.
func Running(pid int) bool {
	st, err := stat(pid)
	return err == nil && st.state != 'Z' && st.state != 'X'
}

type status struct {
	state byte
	start uint64
}

func stat(pid int) (status, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return status{}, err
	}
	return parseStat(string(raw))
}

// parseStat reads the state (field 3) and start time (field 22) of proc(5); the command name before them may hold
// spaces and parentheses.
func parseStat(line string) (status, error) {
	_, rest, ok := cutLast(line, ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return status{}, errors.New("not a line of /proc/PID/stat")
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	return status{state: f[0][0], start: start}, err
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

var bootID = sync.OnceValue(func() string {
	raw, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(raw))
})

func digest(s Spec) string {
	h := sha256.New()
	for _, list := range [][]string{s.Argv, s.Env} {
		for _, v := range list {
			h.Write([]byte(v))
			h.Write([]byte{0})
		}
		h.Write([]byte{1})
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}
