//! The binary as a person runs it.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command};

pub const BINARY: &str = env!("CARGO_BIN_EXE_kubectl-grid");

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A shell without anything of the surrounding one that the program looks at.
pub fn command(program: &str, kubeconfig: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_remove("GRID_NAMESPACE")
        .env_remove("GRID_GATEWAY_URL")
        .env("HOME", "/nonexistent")
        .env("KUBECONFIG", kubeconfig);
    command.kill_on_drop(true);
    command
}

/// Runs a prepared command to its end, with a text on standard input.
pub async fn finish(mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ended = tokio::time::timeout(Duration::from_secs(180), child.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{command:?} does not end")).unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Without any cluster.
pub async fn alone(words: &[&str]) -> Ran {
    let mut command = command(BINARY, "/nonexistent/kubeconfig");
    command.args(words);
    finish(command, "").await
}

/// A line for bash with the program in `$GRID`.
pub async fn shell(line: &str, kubeconfig: &Path) -> Ran {
    let mut command = command("bash", kubeconfig);
    command.env("GRID", BINARY).args(["-c", line]);
    finish(command, "").await
}
