//! Clients that others wrote: OpenAI's own, and schemathesis, which makes requests of the description.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::{MODEL, Serving};

fn tool(name: &str, program: &str) -> PathBuf {
    let default = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/xdc-grid");
    let cache = std::env::var_os("XDC_GRID_CACHE").map_or_else(default, PathBuf::from);
    let path = cache.join(name).join("bin").join(program);
    assert!(path.exists(), "{} is missing: run `tests/tools/install {name}`", path.display());
    path
}

async fn succeeds(command: &mut Command, within: u64) {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(Duration::from_secs(within), output).await.expect("the client ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

#[tokio::test]
async fn openais_own_client_is_served() {
    let s = Serving::start(&["--api-key", "none"]).await;
    for script in ["openai_client.py", "openai_serve.py"] {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(script);
        succeeds(Command::new(tool("openai", "python")).arg(script).arg(s.url("")).arg(MODEL), 180).await;
    }
}

#[tokio::test]
async fn requests_made_of_the_description_get_what_it_says() {
    let s = Serving::start(&["--api-key", "key", "--max-tokens", "2", "--request-seconds", "30"]).await;
    let folder = tempfile::tempdir().unwrap();
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                  response_headers_conformance,negative_data_rejection,unsupported_method,ignored_auth";
    let mut command = Command::new(tool("schemathesis", "schemathesis"));
    command.current_dir(&folder).args(["run", &s.url("/openapi.json"), "--header", "Authorization: Bearer key"]);
    command.args(["--checks", checks, "--seed", "7", "--max-examples", "25", "--phases", "examples,coverage,fuzzing"]);
    command.args(["--no-color", "--generation-database", "none", "--request-timeout", "30", "--max-time", "45"]);
    succeeds(&mut command, 240).await;
}
