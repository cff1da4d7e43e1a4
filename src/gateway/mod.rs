//! The internet-facing process: dispatcher, verifier, epochs, HTTP. Holds neither a Kubernetes token nor a chain key.
