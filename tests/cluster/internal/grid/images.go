package grid

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"xdc-grid/tests/cluster/internal/oci"
)

func goarch() string { return runtime.GOARCH }

// Pack writes an image archive from programs of this machine.
func Pack(o Options, file, ref string, programs []string) error {
	return o.Say.Step("image "+ref, func() error {
		img, err := oci.Programs(ref, programs)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return oci.Write(file, img, goarch())
	})
}

// Load puts an image archive into every node's image store; a node that has this very image is left alone.
func Load(o Options, file string) error {
	ref, _, err := oci.ReadName(file)
	if err != nil {
		return err
	}
	return withGrid(o, func(c *Cluster) error {
		return o.Say.Step("load "+ref, func() error {
			return c.eachNode(func(n node) error { return c.importImage(n, file) })
		})
	})
}

// Tag gives an image of every node's store another name as well, as a registry has one build under two versions.
func Tag(o Options, ref, name string) error {
	return withGrid(o, func(c *Cluster) error {
		return o.Say.Step("tag "+name, func() error {
			return c.eachNode(func(n node) error {
				if err := run(c.ctr(n, "images", "tag", "--force", ref, name)...); err != nil {
					return fmt.Errorf("%s: %w", n.name(), err)
				}
				return nil
			})
		})
	})
}

// importImage is a no-op when the node has the image with this digest under this name.
func (c *Cluster) importImage(n node, file string) error {
	ref, digest, err := oci.ReadName(file)
	if err != nil {
		return err
	}
	list, err := output(c.ctr(n, "images", "ls", "name=="+ref)...)
	if err != nil {
		return fmt.Errorf("%s: its containerd does not answer; run 'up' to repair the cluster: %w", n.name(), err)
	}
	if strings.Contains(list, digest) {
		return nil
	}
	if err := run(c.ctr(n, "images", "import", file)...); err != nil {
		return fmt.Errorf("%s: %w", n.name(), err)
	}
	return nil
}

func (c *Cluster) eachNode(do func(node) error) error {
	var all []func() error
	for _, n := range c.nodes() {
		all = append(all, func() error { return do(n) })
	}
	return together(all...)
}
