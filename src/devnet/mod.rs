//! `xdc-devnet`: a development chain that plays the XDC Network, for tests and for users' laptops. A JSON-RPC server in front of anvil that
//! applies what anvil does not: XDC's pool rules, its gas for calldata, its constant base fee, its finality and header fields; and that breaks
//! things on request, so that a client's behaviour under faults can be seen.
//!
//! `rules` is pure and says what XDC does; everything else here is IO: `node` answers clients, `blocks` makes and replaces blocks, `upstream`
//! and `anvil` are the node behind and its process, `server` is HTTP. May touch: one anvil and one port. Never: a real chain, a key, `chain`
//! (which it is there to test). No image and no chart has it. `docs/xdc-devnet.md` is for its users.

mod anvil;
mod blocks;
mod error;
mod node;
mod options;
pub mod rules;
mod run;
mod server;
mod upstream;

pub use error::DevnetError;
pub use options::{DevnetOptions, EXAMPLES};
pub use run::{Devnet, run};
