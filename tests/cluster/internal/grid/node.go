package grid

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"xdc-grid/tests/cluster/internal/oci"
	"xdc-grid/tests/cluster/internal/proc"
)

const (
	pauseRef   = "localhost/pause:1"
	corednsRef = "localhost/coredns:1"
)

// cniDirs are where distributions put the CNI plugins.
var cniDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

// nodeMounts are the folders that a node has for itself in its own mount namespace. Three kubelets that share
// /var/lib/kubelet would answer each other's device plugins; and with the namespace go all mounts made in it.
func (c *Cluster) nodeMounts(n node) [][2]string {
	return [][2]string{
		{c.path(n.name(), "kubelet"), "/var/lib/kubelet"},
		{c.path(n.name(), "cni"), "/var/lib/cni"},
		{c.path(n.name(), "pod-logs"), "/var/log/pods"},
		{c.path(n.name(), "container-logs"), "/var/log/containers"},
		{n.runDir(), "/run/containerd"},
		{filepath.Join(n.runDir(), "netns"), netnsDir},
		{filepath.Join(n.runDir(), "mount"), "/run/mount"}, // where mount(8) keeps notes
	}
}

func (n node) holder() string { return n.name() + "-namespace" }

// inNode prefixes a command so that it runs in the node's network and mount namespaces. Not "ip netns exec", which
// mounts a /sys without control groups.
func (c *Cluster) inNode(n node) []string {
	mnt := fmt.Sprintf("--mount=/proc/%d/ns/mnt", c.procs.PID(n.holder()))
	return []string{"nsenter", "--net=/proc/" + fmt.Sprint(c.procs.PID(n.holder())) + "/ns/net", mnt, "--"}
}

// ensureRuntime brings a node to where a kubelet can start: network, control group, namespaces, containerd, images.
func (c *Cluster) ensureRuntime(n node) error {
	if err := c.ensureNodeNetwork(n); err != nil {
		return err
	}
	if c.procs.PID(n.holder()) == 0 {
		// Whatever else of the node still runs is in namespaces that nothing can join any more.
		if err := c.killNode(n); err != nil {
			return err
		}
		if err := c.startHolder(n); err != nil {
			return err
		}
	}
	if err := ensureCgroup(n); err != nil {
		return err
	}
	if err := c.startContainerd(n); err != nil {
		return err
	}
	for _, ref := range []string{pauseRef, corednsRef} {
		if err := c.importImage(n, c.imageFile(ref)); err != nil {
			return err
		}
	}
	return nil
}

// startHolder makes the node's mount namespace and a process that holds it open.
func (c *Cluster) startHolder(n node) error {
	if err := os.RemoveAll(n.runDir()); err != nil { // empty after a boot, as on a real machine
		return err
	}
	var script strings.Builder
	script.WriteString("set -e\numount -n -R -l " + netnsDir + " 2>/dev/null || :\n")
	for _, m := range c.nodeMounts(n) {
		if err := os.MkdirAll(m[0], 0o755); err != nil {
			return err
		}
		if err := c.makeDir(m[1]); err != nil {
			return err
		}
		fmt.Fprintf(&script, "mount -n --bind '%s' '%s'\n", m[0], m[1])
	}
	script.WriteString("mount -n --make-rshared /\nexec sleep infinity\n")
	argv := append(inNetns(n.netns(), "unshare", "--mount", "--propagation", "private", "--"), "sh", "-c", script.String())
	if err := c.start(proc.Spec{Name: n.holder(), Part: n.name(), Argv: argv}); err != nil {
		return err
	}
	return until(60*time.Second, n.name()+": namespaces", func() error {
		pid := c.procs.PID(n.holder())
		if pid == 0 {
			return permanent{errors.New(n.name() + ": its namespaces could not be made" + c.procs.Tail(n.holder()))}
		}
		// The same process becomes sleep when all mounts are done.
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || strings.TrimSpace(string(comm)) != "sleep" {
			return errors.New("mounts are not done")
		}
		return nil
	})
}

// makeDir makes a folder on the host for a node to mount over, and remembers to remove it.
func (c *Cluster) makeDir(dir string) error {
	c.mu.Lock() // nodes start side by side
	defer c.mu.Unlock()
	var missing []string
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			break
		}
		missing = append(missing, d)
	}
	if len(missing) == 0 {
		return nil
	}
	for _, d := range missing {
		if !slices.Contains(c.MadeDirs, d) {
			c.MadeDirs = append(c.MadeDirs, d)
		}
	}
	if err := c.save(); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

func (c *Cluster) startContainerd(n node) error {
	config, conflist := c.path(n.name(), "containerd.toml"), c.path(n.name(), "cni-conf", "10-pods.conflist")
	plugins := slices.IndexFunc(cniDirs, func(d string) bool { _, err := os.Stat(filepath.Join(d, "bridge")); return err == nil })
	if plugins < 0 {
		return missingProgram("the CNI plugins")
	}
	if err := writeFile(conflist, fmt.Appendf(nil, `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`, n.podCIDR()), 0o644); err != nil {
		return err
	}
	if err := writeFile(config, fmt.Appendf(nil, `version = 3
root = "%s"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "%s"
[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE nobody may lower a process's OOM score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["%s"]
    conf_dir = "%s"
`, c.path(n.name(), "containerd"), pauseRef, cniDirs[plugins], filepath.Dir(conflist)), 0o644); err != nil {
		return err
	}
	name := n.name() + "-containerd"
	argv := append(c.inNode(n), filepath.Join(c.bin.containerd, "containerd"), "-c", config)
	// containerd looks for its shim on PATH, and starts runc and the CNI plugins, which start iptables.
	env := []string{"PATH=" + c.bin.containerd + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if err := c.start(proc.Spec{Name: name, Part: n.name(), Argv: argv, Env: env}, config); err != nil {
		return err
	}
	return until(120*time.Second, name+" answers", func() error {
		if c.procs.PID(name) == 0 {
			return permanent{errors.New(name + " ended" + c.procs.Tail(name))}
		}
		return run(c.ctr(n, "version")...)
	})
}

func (c *Cluster) ctr(n node, args ...string) []string {
	return append([]string{filepath.Join(c.bin.containerd, "ctr"), "-a", n.socket(), "-n", "k8s.io"}, args...)
}

// ensureKubelet starts a node's kubelet, kube-proxy and fake GPUs.
func (c *Cluster) ensureKubelet(n node) error {
	config, resolv := c.path(n.name(), "kubelet.yaml"), c.path("resolv.conf")
	if err := writeFile(config, fmt.Appendf(nil, `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "%s"}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /%s
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [%s]
clusterDomain: cluster.local
resolvConf: "%s"
volumePluginDir: /var/lib/kubelet/volume-plugins
tlsCertFile: "%s"
tlsPrivateKeyFile: "%s"
# The disk is shared with everything else on the machine: only a nearly full one counts.
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%, nodefs.inodesFree: 1%%}
imageGCHighThresholdPercent: 100
`, c.pki().Cert("ca"), n.cgroup(), dnsIP, resolv, c.pki().Cert(n.name()), c.pki().Key(n.name())), 0o644); err != nil {
		return err
	}
	prefix, kubeconfig := c.inNode(n), c.componentKubeconfig(n.name())
	if err := c.component("kubelet", n.name(), prefix, []string{config, kubeconfig, c.pki().Cert(n.name())},
		"--config", config, "--kubeconfig", kubeconfig, "--hostname-override", n.name(),
		"--root-dir", "/var/lib/kubelet", "--node-ip", n.ip().String(),
	); err != nil {
		return err
	}
	if err := c.ensureDevices(n); err != nil {
		return err
	}
	proxy := c.componentKubeconfig("kube-proxy")
	return c.component("kube-proxy", n.name(), prefix, []string{proxy},
		"--kubeconfig", proxy, "--hostname-override", n.name(),
		"--cluster-cidr", podCIDR, "--proxy-mode", "iptables",
		// These are the whole machine's and not ours to set.
		"--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0")
}

// killNode ends everything that runs on a node, containers included; its mounts go with its namespace. Control groups
// of dead containers would hold up the next kubelet for seconds each.
func (c *Cluster) killNode(n node) error {
	if err := c.procs.KillPart(n.name()); err != nil {
		return err
	}
	if err := killCgroup(n); err != nil {
		return err
	}
	return removeCgroup(n)
}

// releaseNode ends a node and undoes what was made for it outside the state folder.
func (c *Cluster) releaseNode(n node) error {
	if err := c.killNode(n); err != nil {
		return err
	}
	return errors.Join(removeNodeNetwork(n), os.RemoveAll(n.runDir()))
}

func (c *Cluster) imageFile(ref string) string {
	name, _, _ := strings.Cut(filepath.Base(ref), ":")
	return c.path("images", name+".tar")
}

// ensureImages packs the two images that every cluster needs.
func (c *Cluster) ensureImages() error {
	if err := os.MkdirAll(c.path("images"), 0o755); err != nil {
		return err
	}
	for ref, program := range map[string]string{
		pauseRef:   filepath.Join(c.bin.pause, "pause"),
		corednsRef: filepath.Join(c.bin.coredns, "coredns"),
	} {
		img := oci.Image{
			Ref: ref, User: fmt.Sprintf("%d:%d", oci.Nonroot, oci.Nonroot),
			Entrypoint: []string{"/" + filepath.Base(program)},
			Layers:     [][]oci.Entry{{{Path: "/" + filepath.Base(program), Mode: 0o755, From: program}}},
		}
		if err := oci.Write(c.imageFile(ref), img, goarch()); err != nil {
			return err
		}
	}
	return nil
}
