//! The program itself: signals, exit codes, and `bench`.

use std::{process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::MODEL;
use crate::engine::model_path;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grid-worker"));
    command.args(arguments).env_clear().stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The address in the line of the log that names it.
async fn address(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let reading = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the log names the address");
            if let Some((_, rest)) = line.split_once("listening address=") {
                return rest.split_whitespace().next().unwrap().to_owned();
            }
        }
    };
    let address = timeout(Duration::from_secs(180), reading).await.unwrap();
    // Whatever it logs later must not block it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    address
}

#[tokio::test]
async fn sigterm_ends_the_process_when_its_answers_are_done() {
    let path = model_path();
    let arguments =
        ["serve", path.to_str().unwrap(), "--listen", "127.0.0.1:0", "--threads", "2", "--drain-seconds", "100"];
    let mut child = program(&arguments).spawn().unwrap();
    let url = format!("http://{}", address(&mut child).await);
    let client = reqwest::Client::new();
    let ready = async {
        while client.get(format!("{url}/ready")).send().await.is_ok_and(|response| response.status() != 200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(120), ready).await.unwrap();
    let body = json!({"model": MODEL, "prompt": "1 2 3", "max_tokens": 40, "stream": true, "logit_bias": {"0": -100}});
    let response = client.post(format!("{url}/v1/completions")).json(&body).send().await.unwrap();
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    // SAFETY: a signal to a process that this test started and still holds.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let status = timeout(Duration::from_secs(180), child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn what_cannot_be_served_is_an_error_with_a_cure() {
    for (arguments, word) in [
        (&["serve", "/no/such.gguf", "--listen", "127.0.0.1:0"][..], "/no/such.gguf"),
        (&["serve", "https://localhost/m.gguf", "--listen", "127.0.0.1:0"][..], "--sha256"),
        (&["serve", "m.gguf", "--api-key", ""][..], "--api-key"),
    ] {
        let output = timeout(Duration::from_secs(180), program(arguments).output()).await.unwrap().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn a_bench_tells_speed_memory_and_what_a_day_earns() {
    let path = model_path();
    let short = ["--runs", "1", "--sequences", "2", "--prompt-tokens", "16", "--output-tokens", "4", "--threads", "2"];
    let prices = ["--price-per-billion-units", "2", "--price-xdc", "0.5"];
    let arguments: Vec<&str> = ["bench", path.to_str().unwrap()].into_iter().chain(short).chain(prices).collect();
    let run = async |more: &[&str]| {
        let mut command = program(&arguments);
        let output = timeout(Duration::from_secs(180), command.args(more).output()).await.unwrap().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        (String::from_utf8(output.stdout).unwrap(), told)
    };
    let (report, told) = run(&["-o", "json"]).await;
    for step in
        ["getting the model", "loading", "warming up", "run 1 of 1: reading a prompt of 16", "2 answers at a time"]
    {
        assert!(told.contains(step), "{told}");
    }
    let report: Value = serde_json::from_str(&report).unwrap();
    for rate in ["prefill", "decode", "decodeTogether", "replay"] {
        assert!(report[rate]["median"].as_f64() > Some(0.0) && report[rate]["n"] == 1, "{rate}: {report}");
    }
    assert!(report["peakMemoryBytes"].as_u64() > report["fileBytes"].as_u64());
    let earnings = &report["earnings"];
    assert_eq!(earnings["costPerToken"], 269);
    let [units, xdc, money] = ["unitsPerDay", "xdcPerDay", "moneyPerDay"].map(|name| earnings[name].as_f64().unwrap());
    assert!((xdc - units / 1e9 * 2.0).abs() < 1e-6 * xdc && (money - xdc * 0.5).abs() < 1e-6 * xdc);
    let (table, _) = run(&[]).await;
    for word in ["write, 2 at a time", "check an answer", "tokens/s", "XDC", "memory"] {
        assert!(table.contains(word), "{table}");
    }
}
