//! The XDC client: contract bindings, the outbox (explicit nonces, same bytes re-sent), finality, fees. Talks JSON-RPC and
//! nothing else.
