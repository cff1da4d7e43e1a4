//! A development chain of its own for a test, gone with it.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

pub const CHAIN_ID: u64 = 51;
/// Keys of anvil's first accounts: public, worth nothing anywhere else.
pub const ADMIN_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
pub const ANYONE_KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

pub struct Anvil {
    process: Child,
    pub url: String,
}

impl Anvil {
    /// Blocks every second, finality two blocks behind the head, as XDC has it at best.
    pub fn start() -> Self {
        let mut process = Command::new(program("anvil"))
            .args(["--host", "127.0.0.1", "--port", "0", "--chain-id", &CHAIN_ID.to_string()])
            .args(["--hardfork", "cancun", "--block-time", "1", "--slots-in-an-epoch", "1", "--prune-history", "500"])
            .args(["--block-base-fee-per-gas", "12500000000", "--gas-limit", "420000000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("anvil is installed by `make tools`");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address =
            lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.split_once("Listening on ")?.1.to_owned()));
        // It logs every request; an unread pipe would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Anvil { process, url: format!("http://{}", address.expect("anvil ended before it listened")) }
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program(name: &str) -> PathBuf {
    let cache = std::env::var_os("XDC_GRID_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/xdc-grid")));
    cache.map(|cache| cache.join("bin").join(name)).filter(|path| path.exists()).unwrap_or_else(|| name.into())
}
