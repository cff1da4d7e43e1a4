package grid

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"xdc-grid/tests/cluster/internal/kube"
)

const volumes = 24

//go:embed addons.yaml
var addons string

// applyAddons applies the name server and the storage class. Each document of addons.yaml begins with its API path.
func (c *Cluster) applyAddons() error {
	text := strings.ReplaceAll(addons, "$REPLICAS", fmt.Sprint(c.dnsReplicas()))
	for doc := range strings.SplitSeq(text, "---\n") {
		path, body, ok := strings.Cut(doc, "\n")
		path, isPath := strings.CutPrefix(path, "# /")
		if !ok || !isPath {
			return fmt.Errorf("addons.yaml: a document does not begin with its API path: %q", path)
		}
		if err := c.api.Apply("/"+path, []byte(body)); err != nil {
			return err
		}
	}
	return nil
}

// dnsReplicas lets the name server survive the loss of one node.
func (c *Cluster) dnsReplicas() int { return min(2, c.Nodes) }

// ensureVolumes keeps a pool of static volumes: folders of this machine, which is every node's machine. A volume whose
// claim is gone is emptied and offered again.
func (c *Cluster) ensureVolumes() error {
	const path = "/api/v1/persistentvolumes"
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct{ Phase string }
		}
	}
	if err := c.api.Get(path, &list); err != nil {
		return err
	}
	phase := map[string]string{}
	for _, v := range list.Items {
		phase[v.Metadata.Name] = v.Status.Phase
	}
	for k := 1; k <= volumes; k++ {
		name := fmt.Sprintf("local-%02d", k)
		dir := c.path("volumes", name)
		switch phase[name] {
		case "Released", "Failed":
			if err := c.api.Delete(path + "/" + name); err != nil {
				return err
			}
			gone := func() error {
				var v any
				if err := c.api.Get(path+"/"+name, &v); !errors.Is(err, kube.ErrNotFound) {
					return errors.Join(errors.New("still there"), err)
				}
				return nil
			}
			if err := until(120*time.Second, "deleting volume "+name, gone); err != nil {
				return err
			}
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		case "":
		default:
			if _, err := os.Stat(dir); err == nil {
				continue
			}
		}
		if err := c.makeVolume(name, dir, path); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) makeVolume(name, dir, path string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Pods run as their own users, and Kubernetes never changes the owner of a hostPath volume.
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"capacity": map[string]string{"storage": "10Gi"}, "accessModes": []string{"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"},
			"storageClassName": "standard", "persistentVolumeReclaimPolicy": "Retain",
			"hostPath": map[string]string{"path": dir, "type": "Directory"},
		},
	})
	if err != nil {
		return err
	}
	return c.api.Apply(path+"/"+name, body)
}

// waitReady waits until all nodes and the name server are ready.
func (c *Cluster) waitReady() error {
	if err := until(240*time.Second, "nodes ready", c.nodesReady); err != nil {
		return err
	}
	return until(240*time.Second, "cluster DNS", func() error {
		var d struct {
			Metadata struct{ Generation int }
			Status   struct{ ObservedGeneration, UpdatedReplicas, AvailableReplicas int }
		}
		if err := c.api.Get("/apis/apps/v1/namespaces/kube-system/deployments/coredns", &d); err != nil {
			return err
		}
		have := min(d.Status.AvailableReplicas, d.Status.UpdatedReplicas)
		if want := c.dnsReplicas(); have < want || d.Status.ObservedGeneration < d.Metadata.Generation {
			return fmt.Errorf("%d of %d CoreDNS pods are available; see kubectl -n kube-system describe pods", have, want)
		}
		return nil
	})
}

func (c *Cluster) nodesReady() error {
	states, err := c.nodeStates()
	if err != nil {
		return err
	}
	for _, n := range c.nodes() {
		for _, name := range []string{n.name() + "-kubelet", n.name() + "-kube-proxy", n.name() + "-containerd"} {
			if c.procs.PID(name) == 0 {
				return permanent{errors.New(name + " ended" + c.procs.Tail(name))}
			}
		}
		if s := states[n.name()].since(c.started[n.name()+"-kubelet"]); s != "Ready" {
			return errors.New(n.name() + ": " + s + c.procs.Tail(n.name()+"-kubelet"))
		}
	}
	return nil
}

// nodeState is what the API server knows about a node: Ready, or why not, and as of when.
type nodeState struct {
	text string
	seen time.Time
}

// since says Ready only if the node said so after its kubelet was started; the API server keeps an older word.
func (s nodeState) since(start time.Time) string {
	switch {
	case s.text == "":
		return "not registered"
	case s.text == "Ready" && s.seen.Before(start.Truncate(time.Second)): // API times are whole seconds
		return "its kubelet has not reported since it was started"
	}
	return s.text
}

// nodeStates gives the nodes' states by name.
func (c *Cluster) nodeStates() (map[string]nodeState, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct {
					Type, Status, Message string
					LastHeartbeatTime     time.Time
				}
			}
		}
	}
	if err := c.api.Get("/api/v1/nodes", &list); err != nil {
		return nil, err
	}
	states := map[string]nodeState{}
	for _, n := range list.Items {
		state := nodeState{text: "no status yet"}
		for _, cond := range n.Status.Conditions {
			if cond.Type == "Ready" {
				state = nodeState{text: cond.Message, seen: cond.LastHeartbeatTime}
				if cond.Status == "True" {
					state.text = "Ready"
				}
			}
		}
		states[n.Metadata.Name] = state
	}
	return states, nil
}

func (c *Cluster) writeResolvConf() error {
	return writeFile(filepath.Join(c.State, "resolv.conf"), []byte("nameserver "+dnsIP+"\n"), 0o644)
}
