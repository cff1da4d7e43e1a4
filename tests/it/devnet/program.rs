//! The program `xdc-devnet`: how it starts, what it says when it cannot, and that it leaves nothing behind.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use xdc_grid::{
    devnet::{Devnet, DevnetError, DevnetOptions},
    telemetry::install_crypto_provider,
};

use super::*;
use crate::support::{devnet::anvil, eventually, free_port};

/// The program as a person starts it.
struct Program {
    process: Child,
    url: String,
    anvil: String,
    said: String,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_xdc-devnet"))
            .args(["--listen", "127.0.0.1:0", "--block-time", "0"])
            .args(arguments)
            .env("ANVIL", anvil())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let last =
            lines.by_ref().inspect(|line| said.push_str(line)).find(|line| line.starts_with("xdc-devnet: chain"));
        let last = last.unwrap_or_else(|| panic!("it never said where it listens: {said}"));
        let mut urls = last.split([' ', ',']).filter(|word| word.starts_with("http://"));
        let (url, anvil) = (urls.next().unwrap().to_owned(), urls.next().unwrap().to_owned());
        Program { process, url, anvil, said }
    }

    async fn head(&self) -> u64 {
        number(&ask(&self.url, "eth_blockNumber").await.unwrap())
    }

    /// As `kill` does; the exit status.
    fn terminate(&mut self) -> std::process::ExitStatus {
        // SAFETY: no memory is involved, and the child has not been waited for.
        unsafe { libc::kill(self.process.id().try_into().unwrap(), libc::SIGTERM) };
        self.process.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn ask(url: &str, method: &str) -> Option<Value> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": []}).to_string();
    let answer =
        reqwest::Client::new().post(url).body(body).header("content-type", "application/json").send().await.ok()?;
    Some(answer.json::<Value>().await.ok()?["result"].clone())
}

async fn start_error(change: impl FnOnce(&mut DevnetOptions)) -> DevnetError {
    install_crypto_provider();
    let mut options = DevnetOptions { anvil: anvil(), ..DevnetOptions::default() };
    change(&mut options);
    Devnet::start(options).await.unwrap_err()
}

#[tokio::test]
async fn the_program_ends_its_anvil_and_goes_on_from_its_state() {
    install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("chain.json");
    let arguments = ["--state", state.to_str().unwrap(), "--accounts", "2"];
    let mut program = Program::start(&arguments);
    assert!(
        program.said.contains("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
        "{}",
        program.said
    );
    let mine = reqwest::Client::new().post(format!("{}/devnet/mine", program.url)).body(r#"{"blocks": 4}"#);
    assert_eq!(mine.send().await.unwrap().json::<Value>().await.unwrap(), json!({"head": 4}));
    assert!(ask(&program.anvil, "eth_blockNumber").await.is_some());
    assert!(program.terminate().success());
    assert_eq!(ask(&program.anvil, "eth_blockNumber").await, None, "anvil outlived xdc-devnet");
    let mut again = Program::start(&arguments);
    assert_eq!(again.head().await, 4);
    // No time to tell anvil anything: the kernel does.
    again.process.kill().unwrap();
    eventually("anvil to end", async || ask(&again.anvil, "eth_blockNumber").await.is_none().then_some(())).await;
}

#[tokio::test]
async fn blocks_come_by_themselves_at_the_pace_that_was_asked_for() {
    let net = TestNet::start_with(|options| options.block_time = 1).await;
    eventually("two blocks", async || (net.head().await >= 2).then_some(())).await;
}

#[tokio::test]
async fn a_dropped_chain_takes_its_anvil_with_it() {
    install_crypto_provider();
    let port = free_port();
    let net = TestNet::start_with(|options| options.anvil_port = port).await;
    let behind = format!("http://127.0.0.1:{port}");
    assert!(ask(&behind, "eth_blockNumber").await.is_some());
    drop(net);
    eventually("anvil to end", async || ask(&behind, "eth_blockNumber").await.is_none().then_some(())).await;
}

#[tokio::test]
async fn it_says_what_is_missing_or_taken() {
    let error = start_error(|options| options.anvil = "/nowhere/anvil".into()).await;
    assert!(matches!(error, DevnetError::NoAnvil { .. }) && error.to_string().contains("--anvil"), "{error}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = start_error(|options| options.listen = address).await;
    assert!(matches!(error, DevnetError::Listen { .. }) && error.to_string().contains("--listen"), "{error}");

    let error = start_error(|options| options.anvil_port = address.port()).await;
    assert!(matches!(error, DevnetError::AnvilEnded { .. }) && error.to_string().contains("--anvil-port"), "{error}");
}

#[tokio::test]
async fn it_sits_in_front_of_an_anvil_that_runs_already() {
    let anvil = crate::chain_anvil::Anvil::start().await;
    let net = TestNet::start_with(|options| options.upstream = Some(anvil.url.clone())).await;
    net.mine(3).await;
    assert_eq!(net.head().await, 3);
    let error = start_error(|options| (options.upstream, options.chain_id) = (Some(anvil.url.clone()), 50)).await;
    assert!(matches!(error, DevnetError::WrongChainId { expected: 50, found: 51 }), "{error}");
    let error = start_error(|options| options.upstream = Some("http://127.0.0.1:1".to_owned())).await;
    assert!(matches!(error, DevnetError::Upstream { .. }), "{error}");
}

/// The commands between the fences of docs/xdc-devnet.md that talk to a running chain.
fn commands_of_the_page() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/xdc-devnet.md")).unwrap();
    page.lines().filter(|line| line.starts_with("curl ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_commands_of_its_page_work() {
    let net = TestNet::start().await;
    let commands = commands_of_the_page();
    assert!(commands.len() >= 12, "{commands:?}");
    for command in commands {
        let command = command.replace("localhost:8545", net.url.trim_start_matches("http://"));
        let output =
            tokio::process::Command::new("bash").args(["-c", &command]).env("no_proxy", "*").output().await.unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
    assert_eq!(net.faults().await, json!([]));
}
