package grid

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"time"
)

// Up brings the cluster to the wanted number of nodes: it makes what is missing, restarts what ended or changed, and
// leaves the rest alone.
func Up(o Options, count int) error {
	if count < 1 || count > MaxNodes {
		return fmt.Errorf("--nodes %d: want 1 to %d", count, MaxNodes)
	}
	if err := preflight(); err != nil {
		return err
	}
	bin, err := buildAll(o)
	if err != nil {
		return err
	}
	unlock, err := lock(gridID, o.Say)
	if err != nil {
		return err
	}
	defer unlock()
	if i, err := find(gridID, o.State); err == nil && i.State != o.State {
		if err := i.open(o.Say).evict(); err != nil {
			return err
		}
	}
	i, err := findOrNew(gridID, o.State)
	if err != nil {
		return err
	}
	if _, err := find(planeID(o.State), o.State); err == nil {
		return fmt.Errorf("%s holds a control plane; give the cluster a folder of its own", o.State)
	}
	before := i.Nodes
	i.Nodes = max(before, count) // until the surplus is gone
	c := i.open(o.Say)
	c.bin, c.builder = bin, o.builder()
	begin := time.Now()
	running := c.runs()
	c.quiet = running
	if err := c.up(); err != nil {
		return err
	}
	if err := c.shrink(count); err != nil {
		return err
	}
	word := "up"
	if running && before == count {
		word = "up already"
	}
	o.Say.Note("cluster is %s: %d nodes, %.1f s; export KUBECONFIG=%s", word, count, time.Since(begin).Seconds(), c.Kubeconfig())
	return nil
}

func (c *Cluster) up() error {
	if err := os.MkdirAll(c.State, 0o755); err != nil {
		return err
	}
	// Saved before anything is made, so that an interrupted run can be repaired or removed.
	if err := c.save(); err != nil {
		return err
	}
	if err := c.step("node network", c.ensureHostNetwork); err != nil {
		return err
	}
	if err := c.choosePorts(apiPort); err != nil {
		return err
	}
	if err := c.ensurePKI(); err != nil {
		return err
	}
	if err := c.writeResolvConf(); err != nil {
		return err
	}
	err := together(
		func() error { return c.step("control plane", c.controlPlane) },
		func() error { return c.step("container runtimes", c.runtimes) },
	)
	if err != nil {
		return err
	}
	return errors.Join(c.step("kubelets, DNS, volumes", func() error {
		if err := c.eachNode(c.ensureKubelet); err != nil {
			return err
		}
		if err := ensureServiceRoute(); err != nil {
			return err
		}
		if err := together(c.applyAddons, c.ensureVolumes); err != nil {
			return err
		}
		return c.waitReady()
	}), c.repairHomes())
}

// step tells a person about it, unless the cluster ran already: then only what takes time or fails is worth a word.
func (c *Cluster) step(label string, do func() error) error {
	if c.quiet {
		return do()
	}
	return c.say.Step(label, do)
}

func (c *Cluster) controlPlane() error {
	if err := c.ensureControlPlane(); err != nil {
		return err
	}
	return c.ensureControllers()
}

func (c *Cluster) runtimes() error {
	if err := c.ensureImages(); err != nil {
		return err
	}
	return c.eachNode(c.ensureRuntime)
}

func (c *Cluster) repairHomes() error {
	for label, k := range c.NATs {
		if err := ensureHome(home{label, k}); err != nil {
			return err
		}
	}
	return nil
}

// shrink takes surplus nodes away, the highest numbers first.
func (c *Cluster) shrink(count int) error {
	for c.Nodes > count {
		n := node(c.Nodes)
		if err := c.step("remove "+n.name(), func() error {
			if err := errors.Join(c.releaseNode(n), os.RemoveAll(c.path(n.name()))); err != nil {
				return err
			}
			return c.api.Delete("/api/v1/nodes/" + n.name())
		}); err != nil {
			return err
		}
		c.Nodes--
		delete(c.Devices, n.name())
		if err := c.save(); err != nil {
			return err
		}
	}
	return nil
}

// runs says whether all parts of the cluster run.
func (c *Cluster) runs() bool {
	for _, name := range c.expected() {
		if c.procs.PID(name) == 0 {
			return false
		}
	}
	return true
}

// expected lists the processes that a whole cluster has.
func (c *Cluster) expected() []string {
	names := []string{"etcd", "kube-apiserver"}
	if c.isGrid() {
		names = append(names, "kube-controller-manager", "kube-scheduler")
	}
	for _, n := range c.nodes() {
		names = append(names, n.holder(), n.name()+"-containerd", n.name()+"-kubelet", n.name()+"-kube-proxy")
		if c.Devices[n.name()] > 0 {
			names = append(names, n.devices())
		}
	}
	return names
}

func missingProgram(what string) error {
	return fmt.Errorf("this machine lacks %s: run tests/tools/install apt", what)
}

// preflight checks for what cannot be built here.
func preflight() error {
	if os.Geteuid() != 0 {
		return errors.New("the local cluster makes network namespaces and mounts: run it as root")
	}
	for _, program := range []string{"ip", "iptables", "iptables-restore", "nsenter", "unshare", "runc", "mount", "ldd"} {
		if _, err := exec.LookPath(program); err != nil {
			return missingProgram(program)
		}
	}
	return nil
}

// withGrid runs do on the machine's cluster, which must belong to the state folder.
func withGrid(o Options, do func(*Cluster) error) error {
	unlock, err := lock(gridID, o.Say)
	if err != nil {
		return err
	}
	defer unlock()
	i, err := find(gridID, o.State)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is no cluster; bring it up with 'up'")
	}
	if err != nil {
		return err
	}
	if i.State != o.State {
		return otherState(i)
	}
	bin, err := buildAll(o)
	if err != nil {
		return err
	}
	c := i.open(o.Say)
	c.bin, c.builder = bin, o.builder()
	return do(c)
}

// NodeVerbs are what can be done to a node.
var NodeVerbs = []string{"stop", "start", "cut", "heal"}

// Node loses a node (stop), boots it again (start), or takes its network away (cut) and gives it back (heal).
func Node(o Options, verb, name string) error {
	if !slices.Contains(NodeVerbs, verb) {
		return fmt.Errorf("node %s: want one of %v", verb, NodeVerbs)
	}
	return withGrid(o, func(c *Cluster) error {
		n, err := nodeByName(name, c.Nodes)
		if err != nil {
			return err
		}
		return o.Say.Step(verb+" "+n.name(), func() error {
			switch verb {
			case "stop":
				// The network goes first: a machine without power does not say goodbye.
				if err := run("ip", "link", "set", n.veth(), "down"); err != nil {
					return err
				}
				return c.killNode(n)
			case "start":
				if err := c.ensureRuntime(n); err != nil {
					return err
				}
				return c.ensureKubelet(n)
			case "cut":
				return run("ip", "link", "set", n.veth(), "down")
			default:
				return run("ip", "link", "set", n.veth(), "up")
			}
		})
	})
}
