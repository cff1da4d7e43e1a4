//! `grid-worker batch`: one pod of a Local job. Reads its shard, fetches the model, answers every request, hands the results
//! back and ends with an exit code that says what to do next. It belongs to no grid: no key, no gateway, no chain. In a cluster it
//! holds a token: for the ConfigMaps of its job's shards, or, where it carries its input, to make ConfigMaps and read none.

mod answer;
mod api_server;
mod carried;
mod config_map;
mod folder;
mod mailbox;
mod options;
mod part;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use options::BatchOptions;

use super::{
    device::DeviceError,
    engine::{AnswerEngine, EngineProvider, EngineSettings},
    fetch::{BlobFolder, FetchError},
};
use crate::{
    download::{self, Origin},
    inference::threads_from_cgroup,
    protocol::{
        internal::InputLine,
        place::ParsePlaceError,
        shard::{self, Counts, Exit, Report},
    },
};
use answer::Answering;
use mailbox::{Mailbox, MailboxError};
use part::Gathered;

/// Bytes of a termination message that Kubernetes keeps; the report's other fields need less than the rest.
const MAX_MESSAGE: usize = 2048;

/// Why a shard was not finished.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    reason: &'static str,
    message: String,
}

impl Failure {
    fn new(exit: Exit, reason: &'static str, message: impl Into<String>) -> Self {
        Failure { exit, reason, message: message.into() }
    }

    fn stopped() -> Self {
        Failure::new(Exit::Stopped, "Stopped", "asked to stop; what was finished is handed back")
    }
}

impl From<MailboxError> for Failure {
    fn from(error: MailboxError) -> Self {
        let exit = if error.is_about_the_input() { Exit::BadShard } else { Exit::NotHandedBack };
        Failure::new(exit, error.reason(), error.to_string())
    }
}

/// Runs one shard until it is done or until SIGTERM or SIGINT, and says how the process is to end.
pub async fn run(options: BatchOptions, engines: Arc<dyn EngineProvider>) -> Exit {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let asked = stop.clone();
    let listening =
        signal(SignalKind::terminate()).and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    match listening {
        Ok((mut terminate, mut interrupt)) => {
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                asked.cancel();
            });
        }
        Err(error) => warn!(%error, "cannot wait for signals: unfinished work is lost when this process is stopped"),
    }
    run_until(options, engines, stop).await
}

/// The same until `stop`.
pub async fn run_until(options: BatchOptions, engines: Arc<dyn EngineProvider>, stop: CancellationToken) -> Exit {
    let mut counts = Counts::default();
    let outcome = work(&options, engines, &stop, &mut counts).await;
    let (exit, report) = match outcome {
        Ok(()) => (Exit::Done, Report { reason: "Done".into(), message: String::new(), counts }),
        Err(Failure { exit, reason, mut message }) => {
            let end = (0..=MAX_MESSAGE.min(message.len())).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
            message.truncate(end);
            (exit, Report { reason: reason.into(), message, counts })
        }
    };
    info!(
        index = options.index,
        reason = report.reason,
        message = report.message,
        completed = counts.completed,
        failed = counts.failed,
        exit = exit.code(),
        "the shard ends"
    );
    if let Some(path) = &options.report_file
        && let Err(error) = write_report(path, &report)
    {
        warn!(%error, path = %path.display(), "the report is not written");
    }
    exit
}

fn write_report(path: &PathBuf, report: &Report) -> std::io::Result<()> {
    std::fs::write(path, serde_json::to_vec(report)?)
}

async fn work(
    options: &BatchOptions,
    engines: Arc<dyn EngineProvider>,
    stop: &CancellationToken,
    counts: &mut Counts,
) -> Result<(), Failure> {
    let mailbox = mailbox::open(options)?;
    let found = mailbox.read().await?;
    let lines =
        shard::read_input(&found.input).map_err(|message| Failure::new(Exit::BadShard, "ShardUnreadable", message))?;
    let mut gathered = Gathered::resume(&found, &lines);
    *counts = gathered.counts();
    let open: Vec<InputLine> = lines.into_iter().filter(|line| !gathered.has(line.index)).collect();
    info!(index = options.index, requests = gathered.total(), open = open.len(), "read the shard");
    if open.is_empty() {
        // Also what a try finds whose predecessor was lost after it had handed everything back.
        return save(mailbox.as_ref(), &mut gathered).await;
    }
    let model = tokio::select! {
        model = obtain_model(options) => model?,
        () = stop.cancelled() => return Err(Failure::stopped()),
    };
    let engine = load(options, engines, model).await?;
    let answering = Answering::new(options, engine);
    let outcome = answer_all(&answering, open, options, mailbox.as_ref(), &mut gathered, stop).await;
    *counts = gathered.counts();
    // Whatever happened, what is finished is kept.
    save(mailbox.as_ref(), &mut gathered).await?;
    outcome
}

async fn answer_all(
    answering: &Answering,
    open: Vec<InputLine>,
    options: &BatchOptions,
    mailbox: &dyn Mailbox,
    gathered: &mut Gathered,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut answers = futures::stream::iter(open)
        .map(|line| answering.answer(line))
        .buffer_unordered(usize::from(options.max_sequences));
    let pause = Duration::from_secs(options.save_seconds.into());
    let mut saving = interval_at(Instant::now() + pause, pause);
    saving.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Failure::stopped()),
            _ = saving.tick(), if mailbox.keeps_copies() => {
                // Only a copy for the next try, should this one be lost: the last one must succeed, this one need not.
                if let Err(error) = save(mailbox, gathered).await {
                    warn!(message = error.message, "an interim copy of the results was not kept");
                }
            }
            answer = answers.next() => match answer {
                Some(result) => gathered.push(result?),
                None => return Ok(()),
            },
        }
    }
}

async fn save(mailbox: &dyn Mailbox, gathered: &mut Gathered) -> Result<(), Failure> {
    if !gathered.is_changed() {
        return Ok(());
    }
    let (part, results) = gathered.render();
    mailbox.write(&part, &results).await?;
    gathered.saved();
    Ok(())
}

/// The model file: found on disk and checked again, or fetched and checked.
async fn obtain_model(options: &BatchOptions) -> Result<PathBuf, Failure> {
    let digest = &options.model_sha256;
    let disk = |error: std::io::Error| {
        Failure::new(Exit::Failed, "StorageFailed", format!("{}: {error}", options.data_dir.display()))
    };
    let folder = BlobFolder::create(&options.data_dir, options.max_model_size.0).map_err(disk)?;
    let unusable = |error: ParsePlaceError| Failure::new(Exit::ModelUnreachable, "ModelUnreachable", error.to_string());
    let origin = Origin::parse(&options.model_url).map_err(unusable)?;
    folder.download(&origin, digest).await.map_err(not_fetched)
}

fn not_fetched(error: FetchError) -> Failure {
    use download::FetchError::{DigestMismatch, Forbidden, TooLarge, Unreachable};
    let exit = match &error {
        FetchError::Download(DigestMismatch { .. }) => Exit::ModelDigestMismatch,
        FetchError::Download(TooLarge { .. }) => Exit::ModelUnusable,
        FetchError::Download(Unreachable { .. } | Forbidden { .. }) => Exit::ModelUnreachable,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.reason(), error.to_string())
}

async fn load(
    options: &BatchOptions,
    engines: Arc<dyn EngineProvider>,
    path: PathBuf,
) -> Result<Arc<dyn AnswerEngine>, Failure> {
    let no_device = |error: DeviceError| Failure::new(Exit::Failed, "EngineFailed", error.to_string());
    let settings = EngineSettings {
        processor: options.device.open().map_err(no_device)?,
        threads: options.threads.map_or_else(threads_from_cgroup, usize::from),
        context_length: options.context_length,
        kv_budget_bytes: options.kv_budget.0,
        kv_type: options.kv_type,
        max_sequences: usize::from(options.max_sequences),
        max_queue: usize::from(options.max_sequences),
    };
    let unusable = |message: String| Failure::new(Exit::ModelUnusable, "ModelLoadFailed", message);
    match tokio::task::spawn_blocking(move || engines.load(&path, &settings)).await {
        Ok(loaded) => loaded.map_err(unusable),
        Err(panic) => Err(Failure::new(Exit::Failed, "ModelLoadFailed", panic.to_string())),
    }
}
