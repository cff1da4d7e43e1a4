//! The libp2p node: one task owns the swarm, everybody else holds a handle. Talks libp2p; never reads the ledger or a model.
