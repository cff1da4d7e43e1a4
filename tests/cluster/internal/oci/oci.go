// Package oci packs programs of this machine into an OCI image archive, without a registry and without a container engine.
//
// The same inputs give the same bytes: entries are sorted, times are the epoch, owners are fixed. What the programs
// share with each other (libraries, CA certificates, users) goes into the first layer and the programs into the
// second, so images of one build share most of their content.
package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"
)

// Entry is one path in the image: a folder, a file with the given bytes, or a file copied from this machine.
type Entry struct {
	Path string // absolute, in the image
	Mode int64
	UID  int
	Data []byte
	From string // when set, the file on this machine whose bytes are taken
	Dir  bool
}

// Image is what an archive holds.
type Image struct {
	Ref        string // full reference with a tag, such as localhost/xdc-grid:dev
	Layers     [][]Entry
	Entrypoint []string
	User       string
	Env        []string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

var refPattern = regexp.MustCompile(`^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// CheckRef refuses references that a kubelet would not find in its node's image store.
func CheckRef(ref string) error {
	if !refPattern.MatchString(ref) {
		return fmt.Errorf("image reference %q: want HOST/NAME:TAG, such as localhost/xdc-grid:dev", ref)
	}
	if strings.HasSuffix(ref, ":latest") {
		return fmt.Errorf("image reference %q: Kubernetes pulls :latest always, and there is no registry; use another tag", ref)
	}
	return nil
}

// Write packs the image into a file, which appears only when it is complete.
func Write(file string, img Image, arch string) error {
	if err := CheckRef(img.Ref); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	err = pack(tmp, img, arch)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

func pack(w io.Writer, img Image, arch string) error {
	layers := make([]descriptor, 0, len(img.Layers))
	diffIDs := make([]string, 0, len(img.Layers))
	// A layer is read twice, once to know its digest and size and once into the archive, instead of a copy on disk.
	for _, entries := range img.Layers {
		h := sha256.New()
		n := &counter{w: h}
		if err := writeLayer(n, entries); err != nil {
			return err
		}
		digest := "sha256:" + hex.EncodeToString(h.Sum(nil))
		layers = append(layers, descriptor{MediaType: layerType, Digest: digest, Size: n.n})
		diffIDs = append(diffIDs, digest)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux", "created": "1970-01-01T00:00:00Z",
		"config": map[string]any{"Entrypoint": img.Entrypoint, "User": img.User, "Env": img.Env, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": describe(configType, config), "layers": layers,
	})
	if err != nil {
		return err
	}
	top := describe(manifestType, manifest)
	top.Annotations = map[string]string{
		"io.containerd.image.name":          img.Ref,
		"org.opencontainers.image.ref.name": img.Ref[strings.LastIndex(img.Ref, ":")+1:],
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{top}})
	if err != nil {
		return err
	}

	tw := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", index},
		{blob(top.Digest), manifest},
		{blob(describe(configType, config).Digest), config},
	} {
		if err := tw.WriteHeader(header(f.name, int64(len(f.data)))); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	written := map[string]bool{}
	for i, d := range layers {
		if written[d.Digest] {
			continue
		}
		written[d.Digest] = true
		if err := tw.WriteHeader(header(blob(d.Digest), d.Size)); err != nil {
			return err
		}
		if err := writeLayer(tw, img.Layers[i]); err != nil {
			return fmt.Errorf("a file changed while it was packed: %w", err)
		}
	}
	return tw.Close()
}

func blob(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func header(name string, size int64) *tar.Header {
	return &tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

func describe(kind string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	return descriptor{MediaType: kind, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(data))}
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}

// writeLayer writes the entries and the folders above them, sorted by path.
func writeLayer(w io.Writer, entries []Entry) error {
	all := map[string]Entry{}
	for _, e := range entries {
		e.Path = path.Clean(e.Path)
		for dir := path.Dir(e.Path); dir != "/" && dir != "."; dir = path.Dir(dir) {
			if _, known := all[dir]; !known {
				all[dir] = Entry{Path: dir, Mode: 0o755, Dir: true}
			}
		}
		all[e.Path] = e
	}
	paths := make([]string, 0, len(all))
	for p := range all {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	tw := tar.NewWriter(w)
	for _, p := range paths {
		if err := writeEntry(tw, all[p]); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, e Entry) error {
	h := header(strings.TrimPrefix(e.Path, "/"), int64(len(e.Data)))
	h.Mode, h.Uid, h.Gid = e.Mode, e.UID, e.UID
	if e.Dir {
		h.Name, h.Typeflag = h.Name+"/", tar.TypeDir
		return tw.WriteHeader(h)
	}
	var src io.Reader = bytes.NewReader(e.Data)
	if e.From != "" {
		f, err := os.Open(e.From)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		h.Size, src = info.Size(), f
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(tw, src)
	return err
}

// ReadName gives the reference and manifest digest of an OCI archive that names exactly one image.
func ReadName(file string) (ref, digest string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err != nil {
			return "", "", fmt.Errorf("%s is not an OCI image archive (no index.json): %w", file, err)
		}
		if path.Clean(h.Name) == "index.json" {
			break
		}
	}
	var index struct{ Manifests []descriptor }
	if err := json.NewDecoder(io.LimitReader(tr, 1<<20)).Decode(&index); err != nil {
		return "", "", fmt.Errorf("%s: index.json: %w", file, err)
	}
	if len(index.Manifests) != 1 || index.Manifests[0].Annotations["io.containerd.image.name"] == "" {
		return "", "", fmt.Errorf("%s: want one image with the annotation io.containerd.image.name; make it with 'cluster image'", file)
	}
	m := index.Manifests[0]
	return m.Annotations["io.containerd.image.name"], m.Digest, nil
}
