package pki

import (
	"crypto/x509"
	"net"
	"os"
	"testing"
	"time"
)

var wants = []Want{
	{Name: "apiserver", CN: "kube-apiserver", DNS: []string{"localhost"}, IPs: []net.IP{net.IPv4(10, 84, 0, 1)}},
	{Name: "admin", CN: "admin", Groups: []string{"system:masters"}},
}

func ensure(t *testing.T, d Dir, now time.Time, w []Want) bool {
	t.Helper()
	changed, err := d.Ensure(now, w)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func TestCertificatesVerifyForTheirNames(t *testing.T) {
	d, now := Dir(t.TempDir()), time.Now()
	ensure(t, d, now, wants)
	ca, _, err := d.load("ca")
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := d.load("apiserver")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, name := range []string{"localhost", "10.84.0.1"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.84.0.2", CurrentTime: now}); err == nil {
		t.Error("a name that was not asked for verified")
	}
}

func TestASecondRunWritesNothing(t *testing.T) {
	d, now := Dir(t.TempDir()), time.Now()
	if !ensure(t, d, now, wants) {
		t.Error("the first run said that it wrote nothing")
	}
	if ensure(t, d, now, wants) {
		t.Error("the second run wrote something")
	}
}

func TestWhatIsMissingOrStaleIsMadeAnew(t *testing.T) {
	d, now := Dir(t.TempDir()), time.Now()
	ensure(t, d, now, wants)
	if !ensure(t, d, now, append(wants, Want{Name: "node-1", CN: "system:node:node-1"})) {
		t.Error("a new certificate was not made")
	}
	if err := os.Remove(d.Key("admin")); err != nil {
		t.Fatal(err)
	}
	if !ensure(t, d, now, wants) {
		t.Error("a lost key was not replaced")
	}
	more := []Want{{Name: "apiserver", CN: "kube-apiserver", IPs: []net.IP{net.IPv4(10, 84, 0, 9)}}}
	if !ensure(t, d, now, more) {
		t.Error("a certificate without the wanted address was kept")
	}
	if !ensure(t, d, now.Add(validity-time.Hour), wants) {
		t.Error("certificates about to end were kept")
	}
}

func TestAKeyThatDoesNotFitItsCertificateIsReplaced(t *testing.T) {
	d, now := Dir(t.TempDir()), time.Now()
	ensure(t, d, now, wants)
	if err := os.Rename(d.Key("admin"), d.Key("apiserver")); err != nil {
		t.Fatal(err)
	}
	ensure(t, d, now, wants)
	if _, _, err := d.load("apiserver"); err != nil {
		t.Error(err)
	}
}
