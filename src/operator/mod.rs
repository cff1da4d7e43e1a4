//! The Kubernetes controllers, a folder per kind: dereference, validate, build, apply, status.
