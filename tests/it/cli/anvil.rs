//! A development chain of its own for a test, gone with it.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
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
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(program("anvil"))
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--chain-id", &CHAIN_ID.to_string()])
            .args(["--hardfork", "cancun", "--block-time", "1", "--slots-in-an-epoch", "1", "--silent", "--prune-history", "500"])
            .args(["--block-base-fee-per-gas", "12500000000", "--gas-limit", "420000000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("anvil is installed by `make tools`");
        let anvil = Anvil { process, url: format!("http://127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "anvil does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        anvil
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
