// Package pki makes the cluster's certificate authority, the certificates it signs and the service-account key pair.
//
// Everything is ECDSA P-256, so a whole cluster's keys are made in milliseconds. The files live in one folder and
// are kept across runs; whatever is missing, expired or lacks a wanted name is made anew. No clock is read here.
package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	validity = 365 * 24 * time.Hour
	// A certificate that ends within this time is replaced, so that none ends under a running cluster.
	renewBefore = 7 * 24 * time.Hour
)

// Want describes one certificate: its file name (without extension), its subject and the names it serves under.
type Want struct {
	Name   string
	CN     string
	Groups []string
	DNS    []string
	IPs    []net.IP
}

// Dir is a folder of PEM files: ca.crt, ca.key, sa.key, sa.pub and NAME.crt, NAME.key for every certificate.
type Dir string

// Cert is the path of a certificate.
func (d Dir) Cert(name string) string { return filepath.Join(string(d), name+".crt") }

// Key is the path of a private key.
func (d Dir) Key(name string) string { return filepath.Join(string(d), name+".key") }

// Ensure makes what is missing in the folder and says whether it wrote anything.
//
// A new authority makes every certificate new, because the old ones no longer verify.
func (d Dir) Ensure(now time.Time, wants []Want) (bool, error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return false, err
	}
	changed := false
	ca, caKey, err := d.load("ca")
	if err != nil || !fresh(ca, now) {
		if ca, caKey, err = d.makeCA(now); err != nil {
			return false, err
		}
		changed = true
	}
	made, err := d.ensureServiceAccountKey()
	if err != nil {
		return false, err
	}
	changed = changed || made
	for _, w := range wants {
		cert, _, err := d.load(w.Name)
		if err == nil && fresh(cert, now) && cert.CheckSignatureFrom(ca) == nil && covers(cert, w) {
			continue
		}
		if err := d.sign(now, ca, caKey, w); err != nil {
			return false, fmt.Errorf("certificate %s: %w", w.Name, err)
		}
		changed = true
	}
	return changed, nil
}

func fresh(cert *x509.Certificate, now time.Time) bool {
	return cert != nil && now.After(cert.NotBefore) && now.Add(renewBefore).Before(cert.NotAfter)
}

func covers(cert *x509.Certificate, w Want) bool {
	if cert.Subject.CommonName != w.CN || !slices.Equal(cert.Subject.Organization, w.Groups) {
		return false
	}
	for _, n := range w.DNS {
		if !slices.Contains(cert.DNSNames, n) {
			return false
		}
	}
	for _, ip := range w.IPs {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

func (d Dir) makeCA(now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	tmpl := template(now, pkix.Name{CommonName: "xdc-grid local cluster"})
	tmpl.IsCA = true
	tmpl.BasicConstraintsValid = true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return d.write("ca", tmpl, tmpl, key, key)
}

func (d Dir) sign(now time.Time, ca *x509.Certificate, caKey *ecdsa.PrivateKey, w Want) error {
	tmpl := template(now, pkix.Name{CommonName: w.CN, Organization: w.Groups})
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	tmpl.DNSNames, tmpl.IPAddresses = w.DNS, w.IPs
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	_, _, err = d.write(w.Name, tmpl, ca, key, caKey)
	return err
}

func template(now time.Time, subject pkix.Name) *x509.Certificate {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // crypto/rand never fails since Go 1.24
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour), // tolerate a clock that is set back a little
		NotAfter:     now.Add(validity),
	}
}

func (d Dir) write(name string, tmpl, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	if err := writePEM(d.Key(name), "EC PRIVATE KEY", keyDER); err != nil {
		return nil, nil, err
	}
	if err := writePEM(d.Cert(name), "CERTIFICATE", der); err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func (d Dir) load(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certDER, err := readPEM(d.Cert(name))
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := readPEM(d.Key(name))
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.ParseECPrivateKey(keyDER)
	if err != nil {
		return nil, nil, err
	}
	// An interrupted run can leave a new key beside an old certificate.
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("key and certificate do not belong together")
	}
	return cert, key, nil
}

// ensureServiceAccountKey keeps the key that signs service-account tokens: sa.key, and sa.pub to check them with.
func (d Dir) ensureServiceAccountKey() (bool, error) {
	pub := filepath.Join(string(d), "sa.pub")
	_, errPub := os.Stat(pub)
	_, errKey := readPEM(d.Key("sa"))
	if errPub == nil && errKey == nil {
		return false, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return false, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return false, err
	}
	pubDER, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return false, err
	}
	if err := writePEM(pub, "PUBLIC KEY", pubDER); err != nil {
		return false, err
	}
	return true, writePEM(d.Key("sa"), "EC PRIVATE KEY", keyDER)
}

func writePEM(path, kind string, der []byte) error {
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func readPEM(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, &fs.PathError{Op: "decode PEM", Path: path, Err: fs.ErrInvalid}
	}
	return block.Bytes, nil
}
