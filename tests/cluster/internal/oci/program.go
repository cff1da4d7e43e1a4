package oci

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// Nonroot is the user and group that programs run as in our images.
const Nonroot = 65532

var (
	caBundles  = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"}
	lddLibrary = regexp.MustCompile(`^\s*(?:(\S+) => )?(/\S+|not found)(?: \(0x[0-9a-f]+\))?$`)
)

// Programs describes an image with the given programs under /usr/local/bin; the first is its entry point.
func Programs(ref string, programs []string) (Image, error) {
	if len(programs) == 0 {
		return Image{}, errors.New("an image needs at least one program")
	}
	base, err := baseLayer()
	if err != nil {
		return Image{}, err
	}
	libraries := map[string]bool{}
	var top []Entry
	names := map[string]string{}
	for _, p := range programs {
		name := filepath.Base(p)
		if other, taken := names[name]; taken {
			return Image{}, fmt.Errorf("%s and %s have the same name in the image", other, p)
		}
		names[name] = p
		needs, err := Libraries(p)
		if err != nil {
			return Image{}, err
		}
		for _, lib := range needs {
			libraries[lib] = true
		}
		top = append(top, Entry{Path: "/usr/local/bin/" + name, Mode: 0o755, From: p})
	}
	sorted := make([]string, 0, len(libraries))
	for lib := range libraries {
		sorted = append(sorted, lib)
	}
	sort.Strings(sorted)
	for _, lib := range sorted {
		base = append(base, Entry{Path: lib, Mode: 0o755, From: lib}) // opening it follows the link
	}
	return Image{
		Ref:        ref,
		Layers:     [][]Entry{base, top},
		Entrypoint: []string{"/usr/local/bin/" + filepath.Base(programs[0])},
		User:       fmt.Sprintf("%d:%d", Nonroot, Nonroot),
		Env:        []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/nonroot", "SSL_CERT_FILE=" + caBundles[0]},
	}, nil
}

func baseLayer() ([]Entry, error) {
	var bundle string
	for _, b := range caBundles {
		if _, err := os.Stat(b); err == nil {
			bundle = b
			break
		}
	}
	if bundle == "" {
		return nil, errors.New("no CA certificates on this machine: install the package ca-certificates")
	}
	text := func(p, s string) Entry { return Entry{Path: p, Mode: 0o644, Data: []byte(s)} }
	return []Entry{
		{Path: caBundles[0], Mode: 0o644, From: bundle},
		text("/etc/passwd", fmt.Sprintf("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:%d:%d:nonroot:/home/nonroot:/sbin/nologin\n", Nonroot, Nonroot)),
		text("/etc/group", fmt.Sprintf("root:x:0:\nnonroot:x:%d:\n", Nonroot)),
		text("/etc/nsswitch.conf", "hosts: files dns\n"),
		{Path: "/home/nonroot", Mode: 0o755, UID: Nonroot, Dir: true},
		{Path: "/tmp", Mode: 0o1777, Dir: true},
	}, nil
}

// Libraries lists the shared libraries and the loader that a program needs, as ldd names them. A static program needs none.
func Libraries(program string) ([]string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("%s is not a Linux program: %w", program, err)
	}
	imports, err := f.ImportedLibraries()
	interp := f.Section(".interp") != nil
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	if len(imports) == 0 && !interp {
		return nil, nil
	}
	cmd := exec.Command("ldd", program)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	return parseLdd(program, string(out))
}

func parseLdd(program, out string) ([]string, error) {
	var libs []string
	for line := range strings.Lines(out) {
		m := lddLibrary.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue // the kernel's vdso has no file
		}
		if m[2] == "not found" {
			return nil, fmt.Errorf("%s needs %s, which is not on this machine", program, m[1])
		}
		libs = append(libs, m[2])
	}
	return libs, nil
}
