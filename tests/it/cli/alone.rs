//! What the binary does without a cluster: usage, exit codes, completion, pipes that close.

use std::path::Path;

use super::binary::{alone, shell};

const NOWHERE: &str = "/nonexistent/kubeconfig";

#[tokio::test]
async fn help_is_no_error_and_a_slip_in_the_command_line_is_not_taken_for_not_yet() {
    for words in [&["--help"][..], &["submit", "--help"], &["--version"], &[], &["rewards"]] {
        assert_eq!(alone(words).await.code, 0, "{words:?}");
    }
    for words in [&["resluts", "x"][..], &["results"], &["results", "x", "-o", "xml"], &["submit", "--prompts", "x"]] {
        let ran = alone(words).await;
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{words:?}");
        assert!(ran.err.starts_with("error:"), "{words:?}: {}", ran.err);
    }
    assert!(alone(&["resluts", "x"]).await.err.contains("results"), "a near command is named");
}

#[tokio::test]
async fn without_a_cluster_a_sentence_says_what_to_set() {
    let ran = alone(&["results", "hello"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("KUBECONFIG") && !ran.err.contains("panicked"), "{}", ran.err);
    let ran = alone(&["nodes", "--kubeconfig", "/nonexistent/other"]).await;
    assert!(ran.code == 1 && ran.err.contains("/nonexistent/other"), "{}", ran.err);
}

#[tokio::test]
async fn the_version_of_the_program_needs_no_cluster() {
    let ran = alone(&["version"]).await;
    assert_eq!(ran.code, 0);
    assert!(ran.out.starts_with(&format!("kubectl-grid  {}", env!("CARGO_PKG_VERSION"))), "{}", ran.out);
    assert!(ran.err.contains("KUBECONFIG"), "what could not be asked is remarked on: {}", ran.err);
    let ran = alone(&["version", "--client", "-o", "name"]).await;
    assert_eq!((ran.out.trim(), ran.err.as_str()), (env!("CARGO_PKG_VERSION"), ""));
}

#[tokio::test]
async fn every_shell_has_a_completion_script_that_it_can_read() {
    for shell_name in ["bash", "zsh", "fish"] {
        let ran = alone(&["completion", shell_name]).await;
        assert!(ran.code == 0 && ran.out.contains("uncordon"), "{shell_name}");
    }
    let read = shell("source <($GRID completion bash) && complete -p kubectl-grid", Path::new(NOWHERE)).await;
    assert_eq!(read.code, 0, "{}", read.err);
}

#[tokio::test]
async fn kubectl_is_answered_under_the_name_by_which_it_asks() {
    let line = r#"d=$(mktemp -d) && ln -s "$GRID" "$d/kubectl_complete-grid" && "$d/kubectl_complete-grid" rewards sh && rm -r "$d""#;
    let ran = shell(line, Path::new(NOWHERE)).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<_> = ran.out.lines().collect();
    assert!(lines[0].starts_with("show\tShows what nodes earned"), "{}", ran.out);
    assert_eq!(lines[1..], [":4"]);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure_and_no_panic() {
    let ran = shell("set -o pipefail; $GRID completion bash | head -1 >/dev/null", Path::new(NOWHERE)).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    // Standard error closed: the message is lost, the exit code is not.
    let ran = shell("$GRID results hello 2>&-", Path::new(NOWHERE)).await;
    assert_eq!(ran.code, 1);
}
