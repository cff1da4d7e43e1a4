package grid

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	chain     = "XDC-GRID"
	netnsDir  = "/run/netns"
	ipForward = "/proc/sys/net/ipv4/ip_forward"
)

// ensureHostNetwork makes the bridge that carries the node network and keeps pods off the internet.
func (c *Cluster) ensureHostNetwork() error {
	if err := c.makeDir(netnsDir); err != nil {
		return err
	}
	exists, err := ourLink(bridge)
	if err != nil {
		return err
	}
	if !exists {
		// The fixed address keeps neighbours' ARP entries valid when ports come and go.
		if err := run("ip", "link", "add", bridge, "address", "02:54:0a:54:00:01", "group", ifGroup, "type", "bridge"); err != nil {
			return err
		}
	}
	if err := ipBatch("", "addr replace "+hostCIDR+" dev "+bridge, "link set "+bridge+" up"); err != nil {
		return err
	}
	if err := c.enableForwarding(); err != nil {
		return err
	}
	return ensureRules()
}

// ourLink says whether an interface exists; one that we did not make is an error.
func ourLink(name string) (bool, error) {
	raw, err := os.ReadFile(filepath.Join("/sys/class/net", name, "netdev_group"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if strings.TrimSpace(string(raw)) != ifGroup {
		return true, fmt.Errorf("the network interface %s exists and is not ours; rename or remove it, the local cluster needs that name", name)
	}
	return true, nil
}

func (c *Cluster) enableForwarding() error {
	raw, err := os.ReadFile(ipForward)
	if err != nil {
		return err
	}
	if old := strings.TrimSpace(string(raw)); old != "1" {
		if c.OldSysctl == nil {
			c.OldSysctl = map[string]string{}
		}
		if _, known := c.OldSysctl[ipForward]; !known {
			c.OldSysctl[ipForward] = old
			if err := c.save(); err != nil {
				return err
			}
		}
		return os.WriteFile(ipForward, []byte("1"), 0o644)
	}
	return nil
}

// ensureRules lets the nodes talk to each other on hosts that filter bridged traffic, and refuses, rather than
// loses, what pods send to anywhere else.
func ensureRules() error {
	rules := [][]string{
		{"-i", bridge, "-o", bridge, "-j", "ACCEPT"},
		{"-i", bridge, "!", "-o", bridge, "-j", "REJECT"},
	}
	if run("iptables", "-w", "-n", "-L", chain) != nil {
		if err := run("iptables", "-w", "-N", chain); err != nil {
			return err
		}
	}
	for _, r := range rules {
		if run(append([]string{"iptables", "-w", "-C", chain}, r...)...) == nil {
			continue
		}
		if err := run(append([]string{"iptables", "-w", "-A", chain}, r...)...); err != nil {
			return err
		}
	}
	if run("iptables", "-w", "-C", "FORWARD", "-j", chain) == nil {
		return nil
	}
	return run("iptables", "-w", "-I", "FORWARD", "1", "-j", chain)
}

// removeHostNetwork undoes ensureHostNetwork; deleting the bridge takes its routes along.
func (c *Cluster) removeHostNetwork() error {
	var errs []error
	if run("iptables", "-w", "-n", "-L", chain) == nil {
		for run("iptables", "-w", "-C", "FORWARD", "-j", chain) == nil {
			if err := run("iptables", "-w", "-D", "FORWARD", "-j", chain); err != nil {
				errs = append(errs, err)
				break
			}
		}
		errs = append(errs, run("iptables", "-w", "-F", chain), run("iptables", "-w", "-X", chain))
	}
	errs = append(errs, deleteLink(bridge))
	for file, old := range c.OldSysctl {
		errs = append(errs, os.WriteFile(file, []byte(old), 0o644))
	}
	return errors.Join(errs...)
}

func deleteLink(name string) error {
	if exists, err := ourLink(name); err != nil || !exists {
		return nil // a stranger's interface is none of our business
	}
	return run("ip", "link", "del", name)
}

func netnsExists(name string) bool {
	_, err := os.Stat(filepath.Join(netnsDir, name))
	return err == nil
}

// ensureNetns makes a network namespace joined to the bridge by a pair of interfaces.
func ensureNetns(name, veth, inner string) error {
	// An interrupted "ip netns add" leaves a plain file that is no namespace.
	if netnsExists(name) && run("ip", "-n", name, "link", "show", "lo") != nil {
		if err := run("ip", "netns", "del", name); err != nil {
			return err
		}
	}
	if !netnsExists(name) {
		if err := run("ip", "netns", "add", name); err != nil {
			return err
		}
	}
	exists, err := ourLink(veth)
	if err != nil {
		return err
	}
	if exists && run("ip", "-n", name, "link", "show", inner) != nil { // its peer went with a namespace
		if err := run("ip", "link", "del", veth); err != nil {
			return err
		}
		exists = false
	}
	if !exists {
		err := run("ip", "link", "add", veth, "group", ifGroup, "type", "veth", "peer", "name", inner, "netns", name)
		if err != nil {
			return err
		}
	}
	return run("ip", "link", "set", veth, "master", bridge, "up")
}

func deleteNetns(name string) error {
	if !netnsExists(name) {
		return nil
	}
	return run("ip", "netns", "del", name)
}

// ipBatch runs several ip commands in one process, in a namespace if one is named.
func ipBatch(netns string, lines ...string) error {
	args := []string{"ip"}
	if netns != "" {
		args = append(args, "-n", netns)
	}
	return runInput(strings.Join(lines, "\n")+"\n", append(args, "-batch", "-")...)
}

func inNetns(netns string, argv ...string) []string {
	return append([]string{"nsenter", "--net=" + filepath.Join(netnsDir, netns), "--"}, argv...)
}

func forwardIn(netns string) error {
	return run(inNetns(netns, "sh", "-c", "echo 1 > "+ipForward)...)
}

// ensureNodeNetwork gives a node its namespace, address and routes to the pods of all other nodes.
func (c *Cluster) ensureNodeNetwork(n node) error {
	if err := ensureNetns(n.netns(), n.veth(), "eth0"); err != nil {
		return err
	}
	lines := []string{
		"link set lo up",
		fmt.Sprintf("addr replace %s/24 dev eth0", n.ip()),
		"link set eth0 up",
		"route replace default via " + hostIP,
	}
	for _, other := range c.nodes() {
		if other != n {
			lines = append(lines, fmt.Sprintf("route replace %s via %s", other.podCIDR(), other.ip()))
		}
	}
	if err := ipBatch(n.netns(), lines...); err != nil {
		return err
	}
	if err := forwardIn(n.netns()); err != nil {
		return err
	}
	// Programs on the host answer pods, and reach them, through the pod's node.
	return run("ip", "route", "replace", n.podCIDR(), "via", n.ip().String())
}

// ensureServiceRoute lets programs on the host use service addresses, through node-1's kube-proxy.
func ensureServiceRoute() error {
	return run("ip", "route", "replace", serviceCIDR, "via", node(1).ip().String())
}

func removeNodeNetwork(n node) error {
	return errors.Join(deleteLink(n.veth()), deleteNetns(n.netns()))
}
