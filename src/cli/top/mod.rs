//! `kubectl grid top`: nodes and jobs at a glance, again every two seconds. `picture` is pure and makes rows of objects; `screen`
//! knows the terminal; this file reads.

mod picture;
mod screen;

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use kube::{Api, api::ListParams};

use self::picture::{Picture, Seen};
use super::{
    CliError, Exit,
    output::{self, Format, note},
    session::Session,
};
use crate::api::{grid_node::GridNode, inference_job::InferenceJob};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid top
  # Once, for a script
  kubectl grid top --once -A
  kubectl grid top -o json

Without a terminal, and with -o json, yaml or name, it looks once. Ctrl-C ends it.
Exit codes: 0 done, 1 error.")]
pub struct TopArgs {
    /// Looks once instead of every few seconds.
    #[arg(long)]
    once: bool,
    /// Jobs of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Jobs that are over as well.
    #[arg(long)]
    all: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub async fn run(session: &Session, args: &TopArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let live = !args.once && args.output == Format::Table && std::io::stdout().is_terminal();
    if !live {
        let picture = Picture::of(&look(session, args).await?, None, args.all);
        output::print(out, args.output, &picture, || picture.names(), |out| picture.draw(args.all_namespaces, out))?;
        return Ok(Exit::Done);
    }
    tokio::select! {
        ended = forever(session, args, out) => ended,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
    }
}

async fn forever(session: &Session, args: &TopArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let mut last: Option<(Instant, Seen)> = None;
    loop {
        let started = Instant::now();
        let text = match look(session, args).await {
            Ok(seen) => {
                let before = last.as_ref().map(|(at, seen)| (started.duration_since(*at), seen));
                let mut text = Vec::new();
                Picture::of(&seen, before, args.all).draw(args.all_namespaces, &mut text)?;
                last = Some((started, seen));
                text
            }
            // It may come back; the last picture would only look alive.
            Err(error @ CliError::Unreachable(_)) => format!("{error}\n").into_bytes(),
            Err(error) => return Err(error),
        };
        screen::redraw(&String::from_utf8_lossy(&text), screen::size(), out)?;
        tokio::time::sleep(Duration::from_secs(args.interval)).await;
    }
}

async fn look(session: &Session, args: &TopArgs) -> Result<Seen, CliError> {
    let jobs: Api<InferenceJob> = match args.all_namespaces {
        true => Api::all(session.client.clone()),
        false => Api::namespaced(session.client.clone(), &session.namespace),
    };
    let nodes: Api<GridNode> = Api::all(session.client.clone());
    let everything = ListParams::default();
    let (jobs, nodes) = tokio::join!(jobs.list(&everything), nodes.list(&everything));
    let jobs = jobs.map_err(|error| CliError::from_kube(error, "InferenceJob", "", None))?.items;
    // Who runs jobs need not be allowed to see the machines.
    let nodes = match nodes.map_err(|error| CliError::from_kube(error, "GridNode", "", None)) {
        Ok(nodes) => Some(nodes.items),
        Err(CliError::Forbidden { .. }) => None,
        Err(error) => return Err(error),
    };
    if nodes.is_none() && args.once {
        note(format_args!("you may not list GridNodes; only jobs are shown"));
    }
    Ok(Seen { nodes, jobs })
}
