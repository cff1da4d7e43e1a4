//! Tracing, metrics and the admin endpoints that every binary has. Logs never hold prompts, answers or keys.

#[cfg(feature = "http")]
pub mod admin;
pub mod readiness;

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Options that every binary has.
#[derive(Debug, Clone, clap::Args)]
pub struct LogOptions {
    /// What to log, in `tracing` filter syntax.
    #[arg(long, env = "GRID_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How log lines look.
    #[arg(long, env = "GRID_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
}

/// Starts logging to standard error. Fails on a filter that cannot be read.
pub fn init(options: &LogOptions) -> Result<(), String> {
    let filter = EnvFilter::try_new(&options.log).map_err(|error| format!("--log {:?}: {error}", options.log))?;
    let registry = tracing_subscriber::registry().with(filter);
    let outcome = match options.log_format {
        // Colours are for a terminal, not for a log file.
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            registry.with(fmt::layer().with_ansi(colours).with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
    };
    outcome.map_err(|error| error.to_string())
}

/// Chooses the process-wide TLS provider. libp2p and kube would otherwise each bring one, and rustls then refuses to guess.
/// First thing in every main and in every test that opens TLS.
pub fn install_crypto_provider() {
    // An error only means that it was installed before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
