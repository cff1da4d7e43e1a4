package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func pause(t *testing.T) Image {
	t.Helper()
	return Image{
		Ref: "localhost/t:1", Entrypoint: []string{"/t"},
		Layers: [][]Entry{
			{{Path: "/etc/b", Mode: 0o644, Data: []byte("b")}, {Path: "/tmp", Mode: 0o1777, Dir: true}},
			{{Path: "/t", Mode: 0o755, Data: []byte("program")}},
		},
	}
}

func files(t *testing.T, r io.Reader) map[string]*bytes.Buffer {
	t.Helper()
	found := map[string]*bytes.Buffer{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		b := &bytes.Buffer{}
		if _, err := io.Copy(b, tr); err != nil {
			t.Fatal(err)
		}
		found[h.Name] = b
	}
}

func TestTheSameInputsGiveTheSameBytes(t *testing.T) {
	var a, b bytes.Buffer
	for _, w := range []*bytes.Buffer{&a, &b} {
		if err := pack(w, pause(t), "amd64"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two archives of one image differ")
	}
}

func TestEveryBlobIsNamedByItsDigest(t *testing.T) {
	var a bytes.Buffer
	if err := pack(&a, pause(t), "amd64"); err != nil {
		t.Fatal(err)
	}
	blobs := 0
	for name, data := range files(t, &a) {
		digest, ok := strings.CutPrefix(name, "blobs/sha256/")
		if !ok {
			continue
		}
		blobs++
		if sum := sha256.Sum256(data.Bytes()); hex.EncodeToString(sum[:]) != digest {
			t.Errorf("%s has another digest", name)
		}
	}
	if blobs != 4 {
		t.Errorf("%d blobs, want manifest, config and two layers", blobs)
	}
}

func TestALayerHasTheFoldersAboveItsFilesAndAStickyTmp(t *testing.T) {
	var a bytes.Buffer
	if err := writeLayer(&a, pause(t).Layers[0]); err != nil {
		t.Fatal(err)
	}
	var names []string
	tr := tar.NewReader(&a)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Name == "tmp/" && h.Mode != 0o1777 {
			t.Errorf("tmp has mode %o", h.Mode)
		}
	}
	if want := []string{"etc/", "etc/b", "tmp/"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

func TestAnArchiveTellsItsNameAndDigest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.tar")
	if err := Write(file, pause(t), "amd64"); err != nil {
		t.Fatal(err)
	}
	ref, digest, err := ReadName(file)
	if err != nil || ref != "localhost/t:1" || !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("%q %q %v", ref, digest, err)
	}
	if err := os.WriteFile(file, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadName(file); err == nil {
		t.Error("a file that is no archive was read")
	}
}

func TestReferencesThatNoNodeWouldFindAreRefused(t *testing.T) {
	for ref, ok := range map[string]bool{
		"localhost/xdc-grid:dev": true, "localhost:5000/a/b:1": true,
		"xdc-grid:dev": false, "localhost/xdc-grid": false, "localhost/xdc-grid:latest": false, "": false,
	} {
		if err := CheckRef(ref); (err == nil) != ok {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

func TestLddOutputBecomesPaths(t *testing.T) {
	out := "\tlinux-vdso.so.1 (0x00007ffc)\n" +
		"\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f01)\n" +
		"\t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n"
	libs, err := parseLdd("p", out)
	if err != nil || !slices.Equal(libs, []string{"/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/ld-linux-x86-64.so.2"}) {
		t.Errorf("%v %v", libs, err)
	}
	if _, err := parseLdd("p", "\tlibcuda.so.1 => not found\n"); err == nil || !strings.Contains(err.Error(), "libcuda.so.1") {
		t.Errorf("a missing library gave %v", err)
	}
}
