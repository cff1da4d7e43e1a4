package grid

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Down removes whatever the state folder's cluster or control plane made; a second call finds nothing to do. Logs stay.
func Down(o Options) error {
	found := false
	for _, id := range []string{planeID(o.State), gridID} {
		did, err := downOne(o, id)
		if err != nil {
			return err
		}
		found = found || did
	}
	if !found {
		o.Say.Note("nothing of %s runs", o.State)
		if i, err := find(gridID, o.State); err == nil {
			o.Say.Note("the cluster of %s is left alone", i.State)
		}
	}
	_ = os.Remove(runRoot) // only when it is empty
	return nil
}

func downOne(o Options, id string) (bool, error) {
	if _, err := find(id, o.State); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	unlock, err := lock(id, o.Say)
	if err != nil {
		return false, err
	}
	defer unlock()
	i, err := find(id, o.State)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if i.State != o.State {
		// A cluster whose folder was deleted has no other way to be removed.
		if _, err := os.Stat(i.State); err == nil {
			return false, nil
		}
	}
	c := i.open(o.Say)
	label := "remove the cluster"
	if !c.isGrid() {
		label = "remove the control plane"
	}
	return true, o.Say.Step(label, c.remove)
}

// remove takes everything away, files included.
func (c *Cluster) remove() error {
	if err := c.release(); err != nil {
		return err // the record stays, so that down can be called again
	}
	return c.forget()
}

// release ends the processes and undoes what was made outside the state folder. It goes on after an error, so that one
// stubborn part does not keep the rest.
func (c *Cluster) release() error {
	errs := []error{c.procs.KillPart("")}
	if c.isGrid() {
		nodes, err := c.traces()
		errs = append(errs, err, c.unmount())
		for _, n := range nodes {
			errs = append(errs, c.releaseNode(n))
		}
		for label, k := range c.NATs {
			errs = append(errs, removeHome(home{label, k}))
		}
		errs = append(errs, c.removeHostNetwork(), c.removeMadeDirs())
	}
	return errors.Join(errs...)
}

// evict makes room on the machine for another folder's cluster when nothing of this one runs any more, as after its
// session ended. Its files stay, and so does a cluster that runs.
func (c *Cluster) evict() error {
	if c.procs.Any() {
		return otherState(c.instance)
	}
	return c.say.Step("clear away the dead cluster of "+c.State, func() error {
		if err := c.release(); err != nil {
			return err
		}
		return os.RemoveAll(c.runDir())
	})
}

// traces lists the nodes that have left anything, which after an interruption may be more than are recorded.
func (c *Cluster) traces() ([]node, error) {
	roots, _, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	var list []node
	for n := node(1); n <= MaxNodes; n++ {
		places := []string{filepath.Join(netnsDir, n.netns()), "/sys/class/net/" + n.veth(), n.runDir(), c.path(n.name())}
		for _, root := range roots {
			places = append(places, filepath.Join(root, n.cgroup()))
		}
		if int(n) <= c.Nodes || slices.ContainsFunc(places, exists) {
			list = append(list, n)
		}
	}
	return list, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// unmount detaches what may be mounted below our folders in this namespace. Normally nothing is: mounts are made in
// the nodes' own namespaces.
func (c *Cluster) unmount() error {
	mounts, err := mounted()
	if err != nil {
		return err
	}
	slices.Reverse(mounts)
	var errs []error
	for _, m := range mounts {
		for _, ours := range []string{c.State + "/", c.runDir() + "/"} {
			if strings.HasPrefix(m[0], ours) {
				errs = append(errs, run("umount", "-n", "-l", m[0]))
			}
		}
	}
	return errors.Join(errs...)
}

func (c *Cluster) removeMadeDirs() error {
	// The longest paths lie deepest.
	dirs := slices.Clone(c.MadeDirs)
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) })
	for _, d := range dirs {
		if d == netnsDir { // "ip netns" mounts it over itself
			if left, err := os.ReadDir(d); err == nil && len(left) == 0 {
				_ = run("umount", "-n", d)
			}
		}
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.say.Note("kept %s: %v", d, errors.Unwrap(err))
		}
	}
	return nil
}

// forget removes our files and leaves everybody else's in the state folder alone.
func (c *Cluster) forget() error {
	var errs []error
	for _, n := range c.nodes() {
		errs = append(errs, os.RemoveAll(c.path(n.name())))
	}
	for _, name := range []string{"etcd", "pki", "images", "volumes", "kubeconfig", "resolv.conf", c.ID + ".json"} {
		// The kernel lets go of a container's files a moment after its last process ended.
		path := c.path(name)
		errs = append(errs, until(60*time.Second, "removing "+path, func() error { return os.RemoveAll(path) }))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.RemoveAll(c.runDir()); err != nil {
		return err
	}
	return os.Remove(filepath.Join(runRoot, c.ID+".lock"))
}

// Status tells what runs.
func Status(o Options) error {
	any := false
	for _, id := range []string{gridID, planeID(o.State)} {
		i, err := find(id, o.State)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		any = true
		if i.State != o.State {
			fmt.Printf("cluster of another folder: %s\n", i.State)
			continue
		}
		i.open(o.Say).printStatus()
	}
	if !any {
		fmt.Println("down")
	}
	return nil
}

func (c *Cluster) printStatus() {
	fmt.Printf("kubeconfig %s\nserver     %s\n", c.Kubeconfig(), c.apiURL())
	for _, name := range c.expected() {
		state := "ended"
		if pid := c.procs.PID(name); pid != 0 {
			state = fmt.Sprintf("pid %d", pid)
		}
		fmt.Printf("%-28s %s\n", name, state)
	}
	if err := c.connect(); err != nil {
		return
	}
	states, err := c.nodeStates()
	if err != nil {
		fmt.Printf("%-28s %v\n", "API server", err)
		return
	}
	for _, n := range c.nodes() {
		fmt.Printf("%-28s %s\n", n.name(), states[n.name()].since(time.Time{}))
	}
	for label, k := range c.NATs {
		fmt.Printf("%-28s behind %s\n", "home network "+label, home{label, k}.outside())
	}
}
