package grid

import (
	"net/netip"
	"testing"
)

func TestNodesAndRoutersNeverShareAnAddressOrAnInterface(t *testing.T) {
	addresses, links := map[string]bool{hostIP: true}, map[string]bool{bridge: true}
	take := func(ip, link string) {
		t.Helper()
		if addresses[ip] || links[link] {
			t.Fatalf("%s on %s is taken", ip, link)
		}
		if len(link) > 15 {
			t.Fatalf("%s is longer than the kernel allows", link)
		}
		addresses[ip], links[link] = true, true
		if !netip.MustParsePrefix(hostCIDR).Contains(netip.MustParseAddr(ip)) {
			t.Fatalf("%s is not in the node network", ip)
		}
	}
	for n := node(1); n <= MaxNodes; n++ {
		take(n.ip().String(), n.veth())
	}
	for k := 1; k <= maxNATs; k++ {
		h := home{label: "x", k: k}
		take(h.outside(), h.veth())
	}
}

func TestPodRangesLieInTheClusterRangeAndApart(t *testing.T) {
	all := netip.MustParsePrefix(podCIDR)
	for n := node(1); n <= MaxNodes; n++ {
		p := netip.MustParsePrefix(n.podCIDR())
		if !all.Overlaps(p) || p.Overlaps(netip.MustParsePrefix((n + 1).podCIDR())) {
			t.Errorf("%s", p)
		}
	}
	for _, other := range []string{hostCIDR, serviceCIDR, "10.86.0.0/16"} {
		if all.Overlaps(netip.MustParsePrefix(other)) {
			t.Errorf("pods overlap %s", other)
		}
	}
	services := netip.MustParsePrefix(serviceCIDR)
	if !services.Contains(netip.MustParseAddr(dnsIP)) || !services.Contains(netip.MustParseAddr(serviceIP)) {
		t.Error("a service address lies outside the service range")
	}
}

func TestANodeIsFoundByNameOrNumber(t *testing.T) {
	for _, name := range []string{"node-2", "2"} {
		if n, err := nodeByName(name, 3); err != nil || n != 2 {
			t.Errorf("%s: %d %v", name, n, err)
		}
	}
	if _, err := nodeByName("node-4", 3); err == nil {
		t.Error("a node that is not there was found")
	}
}
