package grid

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"xdc-grid/tests/cluster/internal/kube"
	"xdc-grid/tests/cluster/internal/pki"
	"xdc-grid/tests/cluster/internal/proc"
)

const (
	planePart = "control-plane"
	loopback  = "127.0.0.1"
	// frontProxy is who the API server is to aggregated API servers; no other certificate may speak for somebody else.
	frontProxy = "front-proxy"
)

// auditPolicy records every answered request of a service account, and nothing of anybody else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
`

// host is the address that the API server is reached at.
func (i instance) host() string {
	if i.isGrid() {
		return hostIP
	}
	return loopback
}

func (i instance) apiURL() string {
	return "https://" + net.JoinHostPort(i.host(), strconv.Itoa(i.APIPort))
}

// ensurePKI makes the certificates of the control plane and of all nodes.
func (c *Cluster) ensurePKI() error {
	wants := []pki.Want{
		{
			Name: "apiserver", CN: "kube-apiserver",
			DNS: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			IPs: []net.IP{net.ParseIP(loopback), net.ParseIP(serviceIP), net.ParseIP(hostIP)},
		},
		{Name: "admin", CN: "admin", Groups: []string{"system:masters"}},
	}
	if c.isGrid() {
		wants = append(wants,
			pki.Want{Name: "kube-controller-manager", CN: "system:kube-controller-manager"},
			pki.Want{Name: "kube-scheduler", CN: "system:kube-scheduler"},
			pki.Want{Name: "kube-proxy", CN: "system:kube-proxy"})
	}
	for _, n := range c.nodes() {
		wants = append(wants, pki.Want{
			Name: n.name(), CN: "system:node:" + n.name(), Groups: []string{"system:nodes"},
			DNS: []string{n.name()}, IPs: []net.IP{n.ip().AsSlice()},
		})
	}
	signed := wants
	if c.isGrid() {
		signed = append(signed, pki.Want{Name: frontProxy, CN: frontProxy})
	}
	if _, err := c.pki().Ensure(time.Now(), signed); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	for _, w := range wants[1:] {
		if err := c.writeKubeconfig(c.componentKubeconfig(w.Name), w.Name); err != nil {
			return err
		}
	}
	return c.writeKubeconfig(c.Kubeconfig(), "admin")
}

func (i instance) componentKubeconfig(user string) string { return i.path("pki", user+".kubeconfig") }

// writeKubeconfig embeds the certificates, so that the file works from wherever it is copied to.
func (c *Cluster) writeKubeconfig(file, user string) error {
	var data [3]string
	for i, f := range []string{c.pki().Cert("ca"), c.pki().Cert(user), c.pki().Key(user)} {
		raw, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		data[i] = base64.StdEncoding.EncodeToString(raw)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: xdc-grid
  cluster: {server: "%s", certificate-authority-data: "%s"}
users:
- name: %s
  user: {client-certificate-data: "%s", client-key-data: "%s"}
contexts:
- name: xdc-grid
  context: {cluster: xdc-grid, user: %s}
current-context: xdc-grid
`, c.apiURL(), data[0], user, data[1], data[2], user)
	return writeFile(file, []byte(text), 0o600)
}

// choosePorts picks free loopback ports where none are recorded, or where another program took ours meanwhile.
func (c *Cluster) choosePorts(wanted int) error {
	if wanted > 0 && c.APIPort != wanted {
		if err := c.procs.Kill("kube-apiserver"); err != nil {
			return err
		}
		c.APIPort = wanted
	}
	if c.procs.PID("kube-apiserver") == 0 && (c.APIPort == 0 || !free(c.host(), c.APIPort)) {
		if wanted > 0 {
			return fmt.Errorf("port %d of %s is used by another program", wanted, c.host())
		}
		port, err := freePort()
		if err != nil {
			return err
		}
		c.APIPort = port
	}
	if c.procs.PID("etcd") == 0 {
		for _, p := range []*int{&c.EtcdPort, &c.PeerPort} {
			if *p != 0 && free(loopback, *p) {
				continue
			}
			port, err := freePort()
			if err != nil {
				return err
			}
			*p = port
		}
	}
	return c.save()
}

func free(host string, port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// component starts one program of the multi-call binary; files are what it reads at its start, so that it is
// restarted when they change.
func (c *Cluster) component(name, part string, prefix, files []string, args ...string) error {
	argv := append(append(append([]string{}, prefix...), filepath.Join(c.bin.kubernetes, "node"), name), args...)
	spec := proc.Spec{Name: name, Part: part, Argv: argv}
	if part == planePart {
		// A test machine has more memory than processors: a sixth of the API server's time went to its garbage collector.
		spec.Env = []string{"GOGC=300"}
	} else {
		spec.Name = part + "-" + name
	}
	return c.start(spec, files...)
}

func (c *Cluster) start(s proc.Spec, files ...string) error {
	h := sha256.New()
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		h.Write(raw)
	}
	s.Env = append(s.Env, "XDC_GRID_CONFIG="+hex.EncodeToString(h.Sum(nil)[:8]))
	started, err := c.procs.Ensure(s)
	if err != nil || !started {
		return err
	}
	c.mu.Lock()
	c.started[s.Name] = time.Now()
	c.mu.Unlock()
	if c.quiet {
		c.say.Note("  restarted %s", s.Name)
	}
	return nil
}

// ensureControlPlane starts etcd and the API server, and for a full cluster the controllers and the scheduler.
func (c *Cluster) ensureControlPlane() error {
	ca := c.pki().Cert("ca")
	etcdURL := fmt.Sprintf("http://%s:%d", loopback, c.EtcdPort)
	peerURL := fmt.Sprintf("http://%s:%d", loopback, c.PeerPort)
	if err := c.component("etcd", planePart, nil, nil,
		"--data-dir", c.path("etcd"), "--name", "local", "--log-level", "warn",
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "local="+peerURL,
		// A test cluster may lose its last writes in a power cut; a single member need not wait a second to elect itself.
		"--unsafe-no-fsync", "--heartbeat-interval", "50", "--election-timeout", "250",
		"--quota-backend-bytes", strconv.Itoa(4<<30),
	); err != nil {
		return err
	}
	args := []string{
		"--etcd-servers", etcdURL,
		"--secure-port", strconv.Itoa(c.APIPort), "--bind-address", c.host(),
		"--client-ca-file", ca,
		"--tls-cert-file", c.pki().Cert("apiserver"), "--tls-private-key-file", c.pki().Key("apiserver"),
		"--service-account-key-file", c.path("pki", "sa.pub"), "--service-account-signing-key-file", c.pki().Key("sa"),
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-cluster-ip-range", serviceCIDR,
		"--authorization-mode", "Node,RBAC", "--allow-privileged", "--profiling=false",
	}
	if c.isGrid() {
		args = append(args,
			"--advertise-address", c.host(),
			"--enable-admission-plugins", "NodeRestriction",
			"--kubelet-client-certificate", c.pki().Cert("admin"), "--kubelet-client-key", c.pki().Key("admin"),
			"--kubelet-certificate-authority", ca, "--kubelet-preferred-address-types", "InternalIP",
			// For aggregated APIs, such as an autoscaler's metrics.
			"--requestheader-client-ca-file", ca, "--requestheader-allowed-names", frontProxy,
			"--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
			"--requestheader-extra-headers-prefix", "X-Remote-Extra-",
			"--proxy-client-cert-file", c.pki().Cert(frontProxy), "--proxy-client-key-file", c.pki().Key(frontProxy),
			// Five minutes, the default, is longer than a test of a lost node should take.
			"--default-not-ready-toleration-seconds", "30", "--default-unreachable-toleration-seconds", "30")
	} else {
		// No controllers run here: nobody would make the service accounts that pods are checked for, and the
		// loopback address cannot be published as the kubernetes Service's endpoint.
		args = append(args, "--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none")
		// What service accounts do is written down, so that a test can hold it against what they may do.
		policy := c.path("audit-policy.yaml")
		if err := writeFile(policy, []byte(auditPolicy), 0o644); err != nil {
			return err
		}
		args = append(args, "--audit-policy-file", policy, "--audit-log-path", c.path("audit.log"))
	}
	if err := c.component("kube-apiserver", planePart, nil, []string{ca, c.pki().Cert("apiserver")}, args...); err != nil {
		return err
	}
	if err := c.connect(); err != nil {
		return err
	}
	return until(240*time.Second, "API server ready", func() error {
		for _, name := range []string{"etcd", "kube-apiserver"} {
			if c.procs.PID(name) == 0 {
				return permanent{errors.New(name + " ended" + c.procs.Tail(name))}
			}
		}
		return c.api.Ready()
	})
}

// connect makes the client of the cluster's API server.
func (c *Cluster) connect() (err error) {
	c.api, err = kube.New(c.apiURL(), c.pki().Cert("ca"), c.pki().Cert("admin"), c.pki().Key("admin"))
	return err
}

// ensureControllers starts what acts on the API server's objects.
func (c *Cluster) ensureControllers() error {
	ca := c.pki().Cert("ca")
	kcm := c.componentKubeconfig("kube-controller-manager")
	if err := c.component("kube-controller-manager", planePart, nil, []string{ca, kcm},
		"--kubeconfig", kcm, "--secure-port", "0", "--leader-elect=false",
		"--service-account-private-key-file", c.pki().Key("sa"), "--root-ca-file", ca,
		"--cluster-signing-cert-file", ca, "--cluster-signing-key-file", c.pki().Key("ca"),
		"--use-service-account-credentials", "--node-monitor-grace-period", "20s",
		// Fifteen seconds, the default, is longer than a test of an autoscaler should wait for a look.
		"--horizontal-pod-autoscaler-sync-period", "5s",
		"--kube-api-qps", "100", "--kube-api-burst", "200",
	); err != nil {
		return err
	}
	sched := c.componentKubeconfig("kube-scheduler")
	return c.component("kube-scheduler", planePart, nil, []string{ca, sched},
		"--kubeconfig", sched, "--secure-port", "0", "--leader-elect=false",
		"--kube-api-qps", "100", "--kube-api-burst", "200")
}

// ensureJobController starts the Job controller and the garbage collector beside a control plane that has no other: what
// a benchmark compares with. Neither is held back by its client, so that what is measured is what it can do.
func (c *Cluster) ensureJobController() error {
	return c.component("kube-controller-manager", planePart, nil, []string{c.Kubeconfig()},
		"--kubeconfig", c.Kubeconfig(), "--secure-port", "0", "--leader-elect=false",
		"--controllers", "job-controller,garbage-collector-controller", "--concurrent-job-syncs", "16",
		"--kube-api-qps", "5000", "--kube-api-burst", "10000",
	)
}

// ControlPlane brings up etcd and an API server on the loopback interface, beside anything else that runs, and gives
// its kubeconfig. A port of 0 takes any free one.
func ControlPlane(o Options, port int, controllers bool) (string, error) {
	id := planeID(o.State)
	if _, err := os.Stat(filepath.Join(o.State, gridID+".json")); err == nil {
		return "", fmt.Errorf("%s holds a full cluster; give the control plane a folder of its own", o.State)
	}
	bin, err := o.kubernetesOnly()
	if err != nil {
		return "", err
	}
	unlock, err := lock(id, o.Say)
	if err != nil {
		return "", err
	}
	defer unlock()
	i, err := findOrNew(id, o.State)
	if err != nil {
		return "", err
	}
	c := i.open(o.Say)
	c.bin, c.quiet = bin, c.runs()
	return c.Kubeconfig(), c.step("control plane", func() error {
		if err := c.choosePorts(port); err != nil {
			return err
		}
		if err := c.ensurePKI(); err != nil {
			return err
		}
		if err := c.ensureControlPlane(); err != nil || !controllers {
			return err
		}
		return c.ensureJobController()
	})
}
