package grid

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"xdc-grid/tests/cluster/internal/proc"
)

// mounted lists this machine's mounts: their place and their file system's type, in the order they were made.
func mounted() ([][2]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list [][2]string
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		before, after, ok := strings.Cut(scan.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 {
			kind, _, _ := strings.Cut(after, " ")
			list = append(list, [2]string{strings.ReplaceAll(fields[4], `\040`, " "), kind})
		}
	}
	return list, scan.Err()
}

// cgroupRoots are the roots of the control-group trees: one per controller in version 1, one in all in version 2. Where
// both are mounted, version 1 has the controllers, and containers are listed in version 2 as well.
func cgroupRoots() (roots []string, v2 bool, err error) {
	mounts, err := mounted()
	if err != nil {
		return nil, false, err
	}
	var unified []string
	for _, m := range mounts {
		switch m[1] {
		case "cgroup":
			roots = append(roots, m[0])
		case "cgroup2":
			unified = append(unified, m[0])
		}
	}
	v2 = len(roots) == 0
	return append(roots, unified...), v2, nil
}

// ensureCgroup gives a node its own control group in every tree: kubelets that share one end each other's pods.
func ensureCgroup(n node) error {
	roots, v2, err := cgroupRoots()
	if err != nil {
		return err
	}
	if len(roots) == 0 {
		return errors.New("no control groups are mounted on this machine; kubelets cannot run without them")
	}
	for _, root := range roots {
		dir := filepath.Join(root, n.cgroup())
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if v2 {
			if err := delegate(root); err != nil {
				return err
			}
			if err := delegate(dir); err != nil {
				return err
			}
			continue
		}
		// A version 1 cpuset is born empty and takes no process before it has processors and memory.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			raw, err := os.ReadFile(filepath.Join(root, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate hands all controllers of a version 2 group on to its children.
func delegate(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var all []string
	for c := range strings.FieldsSeq(string(raw)) {
		all = append(all, "+"+c)
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(all, " ")), 0o644)
}

// killCgroup ends all processes in a node's control groups: its containers.
func killCgroup(n node) error {
	for range 5 { // a process may fork while we look
		pids, err := cgroupPIDs(n)
		if err != nil || len(pids) == 0 {
			return err
		}
		if err := proc.KillPIDs(pids); err != nil {
			return err
		}
	}
	return fmt.Errorf("processes keep appearing in the control group %s", n.cgroup())
}

func cgroupPIDs(n node) ([]int, error) {
	roots, _, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, root := range roots {
		walk := func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // groups vanish while we walk
			}
			raw, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for f := range strings.FieldsSeq(string(raw)) {
				// A process that nobody has waited for is listed still, and cannot be killed again.
				if pid, err := strconv.Atoi(f); err == nil && proc.Running(pid) {
					pids = append(pids, pid)
				}
			}
			return nil
		}
		if err := filepath.WalkDir(filepath.Join(root, n.cgroup()), walk); err != nil {
			return nil, err
		}
	}
	return pids, nil
}

// removeCgroup removes a node's empty control groups, the innermost first.
func removeCgroup(n node) error {
	roots, _, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := filepath.Join(root, n.cgroup())
		// The kernel frees a group a moment after its last process ended.
		if err := until(60*time.Second, "removing the control group "+dir, func() error { return removeTree(dir) }); err != nil {
			return err
		}
	}
	return nil
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
