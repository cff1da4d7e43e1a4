// Package grid is the local cluster itself: where everything lives, how it is brought up, repaired and taken down.
//
// It may start processes, make network namespaces, a bridge, iptables rules and control groups; all of them carry our
// names and are undone by Down. It never touches a process or an interface that it did not create.
package grid

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
)

const (
	bridge      = "xgn0"
	ifGroup     = "84108510" // marks our interfaces from their creation on, so that a stranger's xgn0 is left alone
	hostIP      = "10.84.0.1"
	hostCIDR    = "10.84.0.1/24"
	podCIDR     = "10.85.0.0/16"
	serviceCIDR = "10.96.0.0/16"
	serviceIP   = "10.96.0.1"
	dnsIP       = "10.96.0.10"
	apiPort     = 16443

	// MaxNodes leaves 10.84.0.100 and up to NAT routers.
	MaxNodes = 80
	maxNATs  = 100

	runRoot = "/run/xdc-grid"
)

// node is the number of a node, from 1.
type node int

func (n node) name() string    { return fmt.Sprintf("node-%d", int(n)) }
func (n node) netns() string   { return "xg-" + n.name() }
func (n node) veth() string    { return fmt.Sprintf("xgv%d", int(n)) }
func (n node) cgroup() string  { return "xg-" + n.name() }
func (n node) ip() netip.Addr  { return netip.AddrFrom4([4]byte{10, 84, 0, byte(10 + int(n))}) }
func (n node) podCIDR() string { return fmt.Sprintf("10.85.%d.0/24", int(n)) }

// runDir is what the node sees as /run/containerd.
func (n node) runDir() string { return filepath.Join(runRoot, gridID, n.name()) }

func (n node) socket() string { return filepath.Join(n.runDir(), "containerd.sock") }

// home is a namespace behind a NAT router: k is the router's number, from 1.
type home struct {
	label string
	k     int
}

func (h home) netns() string    { return "xg-nat-" + h.label }
func (h home) router() string   { return "xg-rt-" + h.label }
func (h home) veth() string     { return fmt.Sprintf("xgh%d", h.k) }
func (h home) outside() string  { return fmt.Sprintf("10.84.0.%d", 99+h.k) }
func (h home) inside() string   { return fmt.Sprintf("10.86.%d.1", h.k) }
func (h home) clientIP() string { return fmt.Sprintf("10.86.%d.2", h.k) }

var labelPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$`)

// nodeByName finds node-N of a cluster with count nodes.
func nodeByName(name string, count int) (node, error) {
	for n := node(1); int(n) <= count; n++ {
		if name == n.name() || name == fmt.Sprint(int(n)) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("no node %q: the cluster has node-1 to node-%d", name, count)
}
