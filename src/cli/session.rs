//! The connection to the cluster, as kubectl's own flags describe it.

use std::path::PathBuf;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::CliError;

/// Flags that mean the same as kubectl's.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClusterOptions {
    /// Path of the kubeconfig (default: $KUBECONFIG, then ~/.kube/config, then the pod's own account).
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace (default: the context's).
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// A client and the namespace that commands work in.
#[derive(Clone)]
pub struct Session {
    pub client: Client,
    pub namespace: String,
}

impl Session {
    pub async fn open(options: &ClusterOptions) -> Result<Self, CliError> {
        let config = config(options).await?;
        let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| CliError::Kubeconfig(error.to_string()))?;
        Ok(Session { client, namespace })
    }
}

async fn config(options: &ClusterOptions) -> Result<Config, CliError> {
    let unusable = |error: &dyn std::fmt::Display| CliError::Kubeconfig(format!("no usable kubeconfig: {error}"));
    let selection = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    match &options.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .map_err(|error| CliError::Kubeconfig(format!("cannot read {}: {error}", path.display())))?;
            Config::from_custom_kubeconfig(kubeconfig, &selection).await.map_err(|error| unusable(&error))
        }
        None if options.context.is_some() => {
            Config::from_kubeconfig(&selection).await.map_err(|error| unusable(&error))
        }
        None => Config::infer().await.map_err(|error| unusable(&error)),
    }
}
