//! Anvil's process: started with XDC's chain parameters, watched, and ended with us.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::{
    error::DevnetError,
    options::DevnetOptions,
    rules::{BASE_FEE, BLOCK_GAS_LIMIT},
};

const START: Duration = Duration::from_secs(30);
/// Anvil writes its state file before it ends.
const STOP: Duration = Duration::from_secs(5);
/// Lines of its banner and of its complaints that are kept.
const MAX_LINES: usize = 4_096;
const MAX_COMPLAINTS: usize = 20;
/// Blocks whose state can be asked for. Older ones anvil would write into its user's home, by the hundred thousand and for ever.
const KEPT_STATES: u32 = 500;

/// Killed when dropped.
#[derive(Debug)]
pub struct Anvil {
    process: Child,
    url: String,
    accounts: Vec<String>,
    complaints: Complaints,
}

#[derive(Debug, Clone, Default)]
struct Complaints(Arc<Mutex<VecDeque<String>>>);

impl Anvil {
    /// Starts the program and waits until it listens.
    pub async fn start(options: &DevnetOptions) -> Result<Self, DevnetError> {
        let mut process = spawn(options)?;
        let complaints = Complaints::default();
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(complaints.clone().collect(stderr));
        }
        let Some(stdout) = process.stdout.take() else {
            return Err(DevnetError::AnvilEnded { detail: "it has no output".to_owned() });
        };
        let mut lines = BufReader::new(stdout).lines();
        let seconds = START.as_secs();
        let banner = tokio::time::timeout(START, read_banner(&mut lines)).await;
        let (banner, address) = banner.map_err(|_| DevnetError::AnvilSilent { seconds })?;
        let Some(address) = address else {
            // Its last words come through another pipe, which ends with the process.
            let _ = tokio::time::timeout(STOP, process.wait()).await;
            return Err(DevnetError::AnvilEnded { detail: complaints.told().await });
        };
        // An unread pipe would stop it.
        tokio::spawn(drain(lines));
        let url = format!("http://{address}");
        Ok(Anvil { process, url, accounts: account_lines(banner), complaints })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The part of its banner that lists accounts and their keys.
    pub fn accounts(&self) -> &[String] {
        &self.accounts
    }

    /// Returns when the process has ended without being told to.
    pub async fn gone(&mut self) -> DevnetError {
        let status = self.process.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        let told = self.complaints.told().await;
        DevnetError::AnvilGone { detail: format!("{status}; {told}") }
    }

    /// Asks it to end, which makes it write its state file, and insists after a while.
    pub async fn stop(mut self) {
        if let Some(id) = self.process.id().and_then(|id| i32::try_from(id).ok()) {
            // SAFETY: no memory is involved. The child has not been waited for (`id` is none after that), so the number is still its own.
            unsafe { libc::kill(id, libc::SIGTERM) };
        }
        if tokio::time::timeout(STOP, self.process.wait()).await.is_err() {
            tracing::warn!("anvil did not end when told to, and is killed");
            let _ = self.process.kill().await;
        }
    }
}

fn spawn(options: &DevnetOptions) -> Result<Child, DevnetError> {
    let program = &options.anvil;
    let mut command = Command::new(program);
    command.args(arguments(options)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: Ctrl-C is for us, who then tell anvil.
    command.process_group(0).kill_on_drop(true);
    // SAFETY: between fork and exec nothing happens but this system call, which takes no lock and no memory.
    #[cfg(target_os = "linux")]
    unsafe {
        // We may be killed before we can tell it.
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    command.spawn().map_err(|source| match source.kind() {
        ErrorKind::NotFound => DevnetError::NoAnvil { program: program.clone() },
        _ => DevnetError::AnvilUnusable { program: program.clone(), source },
    })
}

fn arguments(options: &DevnetOptions) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["--host", "127.0.0.1", "--no-mining", "--hardfork", "cancun", "--no-request-size-limit"]
            .map(str::to_owned)
            .into();
    let mut set = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    set("--port", options.anvil_port.to_string());
    set("--chain-id", options.chain_id.to_string());
    set("--accounts", options.accounts.to_string());
    set("--gas-limit", BLOCK_GAS_LIMIT.to_string());
    set("--block-base-fee-per-gas", BASE_FEE.0.to_string());
    set("--slots-in-an-epoch", "1".to_owned());
    set("--prune-history", KEPT_STATES.to_string());
    if let Some(state) = &options.state {
        set("--state", state.display().to_string());
    }
    arguments
}

/// Reads up to the line with the address; none when the output ends before.
async fn read_banner(lines: &mut Lines<BufReader<ChildStdout>>) -> (Vec<String>, Option<String>) {
    let mut banner = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, address)) = line.split_once("Listening on ") {
            return (banner, Some(address.trim().to_owned()));
        }
        if banner.len() < MAX_LINES {
            banner.push(line);
        }
    }
    (banner, None)
}

fn account_lines(banner: Vec<String>) -> Vec<String> {
    let accounts = banner.into_iter().skip_while(|line| !line.contains("Available Accounts"));
    accounts.take_while(|line| line.trim() != "Wallet").map(|line| line.replace(" ETH)", " XDC)")).collect()
}

async fn drain(mut lines: Lines<BufReader<ChildStdout>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!(target: "anvil", "{line}");
    }
}

impl Complaints {
    async fn collect(self, stderr: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            tracing::debug!(target: "anvil", "{line}");
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back(line);
            if kept.len() > MAX_COMPLAINTS {
                kept.pop_front();
            }
        }
    }

    /// What it said last.
    async fn told(&self) -> String {
        // The reader of the pipe may still be on its way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = kept.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        if told.is_empty() { "it said nothing".to_owned() } else { told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_banner_only_accounts_and_keys_are_kept() {
        let banner = [
            "",
            "    _   ___",
            "Available Accounts",
            "==",
            "(0) 0xf39f (9.0 ETH)",
            "Private Keys",
            "(0) 0xac09",
            "",
            "Wallet",
            "Mnemonic: test",
        ];
        let kept = account_lines(banner.map(str::to_owned).into());
        assert_eq!(kept, ["Available Accounts", "==", "(0) 0xf39f (9.0 XDC)", "Private Keys", "(0) 0xac09", ""]);
    }

    #[test]
    fn anvil_gets_xdcs_parameters() {
        let options = DevnetOptions { state: Some("chain.json".into()), chain_id: 50, ..DevnetOptions::default() };
        let line = arguments(&options).join(" ");
        for part in [
            "--chain-id 50",
            "--hardfork cancun",
            "--block-base-fee-per-gas 12500000000",
            "--gas-limit 420000000",
            "--prune-history 500",
            "--state chain.json",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}
