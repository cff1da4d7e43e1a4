package grid

import (
	"errors"
	"fmt"
)

// NAT makes a home network: a namespace whose only way out is a router that masquerades, as a worker at home has it.
// It reaches the node network and programs on the host; nothing reaches into it.
func NAT(o Options, label string) error {
	if !labelPattern.MatchString(label) {
		return fmt.Errorf("name %q: want up to 20 small letters, digits and dashes", label)
	}
	return withGrid(o, func(c *Cluster) error {
		h, err := c.home(label)
		if err != nil {
			return err
		}
		if err := o.Say.Step("home network "+label, func() error { return ensureHome(h) }); err != nil {
			return err
		}
		fmt.Printf("nsenter --net=/var/run/netns/%s -- COMMAND\n", h.netns())
		return nil
	})
}

// NATDown removes a home network; programs that still run in it lose their network and are left alone.
func NATDown(o Options, label string) error {
	return withGrid(o, func(c *Cluster) error {
		k, ok := c.NATs[label]
		if !ok {
			o.Say.Note("there is no home network %s", label)
			return nil
		}
		if err := removeHome(home{label, k}); err != nil {
			return err
		}
		delete(c.NATs, label)
		return c.save()
	})
}

// home finds a home network's number or takes the lowest free one, recorded before anything is made.
func (c *Cluster) home(label string) (home, error) {
	if k, ok := c.NATs[label]; ok {
		return home{label, k}, nil
	}
	used := map[int]bool{}
	for _, k := range c.NATs {
		used[k] = true
	}
	for k := 1; k <= maxNATs; k++ {
		if used[k] {
			continue
		}
		if c.NATs == nil {
			c.NATs = map[string]int{}
		}
		c.NATs[label] = k
		return home{label, k}, c.save()
	}
	return home{}, fmt.Errorf("there are %d home networks already; remove one with nat-down", maxNATs)
}

func ensureHome(h home) error {
	if exists, err := ourLink(bridge); err != nil || !exists {
		return errors.Join(err, errors.New("the node network is missing; run 'up' to repair the cluster"))
	}
	if err := ensureNetns(h.router(), h.veth(), "wan"); err != nil {
		return err
	}
	if !netnsExists(h.netns()) {
		if err := run("ip", "netns", "add", h.netns()); err != nil {
			return err
		}
	}
	if run("ip", "-n", h.netns(), "link", "show", "eth0") != nil {
		_ = run("ip", "-n", h.router(), "link", "del", "lan") // its peer went with an earlier namespace
		err := run("ip", "-n", h.router(), "link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", h.netns())
		if err != nil {
			return err
		}
	}
	if err := ipBatch(h.router(),
		"link set lo up",
		"addr replace "+h.outside()+"/24 dev wan", "link set wan up",
		"addr replace "+h.inside()+"/24 dev lan", "link set lan up",
		"route replace default via "+hostIP,
	); err != nil {
		return err
	}
	if err := ipBatch(h.netns(),
		"link set lo up",
		"addr replace "+h.clientIP()+"/24 dev eth0", "link set eth0 up",
		"route replace default via "+h.inside(),
	); err != nil {
		return err
	}
	if err := forwardIn(h.router()); err != nil {
		return err
	}
	// One transaction replaces both tables, so a repeated call changes nothing.
	return runInput(`*nat
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
-A FORWARD -i lan -o wan -j ACCEPT
-A FORWARD -i wan -o lan -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
COMMIT
`, inNetns(h.router(), "iptables-restore", "-w")...)
}

func removeHome(h home) error {
	return errors.Join(deleteLink(h.veth()), deleteNetns(h.netns()), deleteNetns(h.router()))
}
