//! Lives with many misfortunes at once: processes that die one after the other, lost, late, repeated and refused calls of the API
//! server, the chain and the gateway, a cache that is behind, and changes that nobody sees. What befalls a run follows from its
//! seed and its number alone, so both together repeat it.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use futures::FutureExt;

use super::{
    life::Fate,
    scene::{Kind, Scene},
    sweep::{Names, Outcome, live_and_die},
    unseen::Unseen,
};
use crate::support::faults::{Fault, Faults};

/// Nodes and jobs have the most that can go wrong.
const KINDS: [Kind; 6] = [Kind::Network, Kind::Model, Kind::Node, Kind::Node, Kind::Job, Kind::Job];
/// Processes of a run that something befalls; the next one is left in peace.
const PROCESSES: usize = 3;
/// Looks of a process in which the world changes behind its back; later it is left in peace.
const RESTLESS: usize = 10;
/// After so many failures the rest says nothing new.
const ENOUGH: usize = 10;

/// Calls at the API server, at the chain and at the gateway in which a life of this kind has something to lose.
fn calls(kind: Kind) -> [usize; 3] {
    match kind {
        Kind::Network => [10, 20, 3],
        Kind::Model => [9, 1, 3],
        Kind::Node => [115, 55, 16],
        Kind::Job => [19, 1, 7],
    }
}

/// What befell all runs together.
#[derive(Default)]
struct Tally {
    runs: AtomicUsize,
    faults: AtomicUsize,
    deaths: AtomicUsize,
    stale: AtomicUsize,
    unseen: AtomicUsize,
    untouched: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

/// One run, and what befell it so far.
#[derive(Clone)]
struct Run {
    seed: u64,
    number: u64,
    stale: Arc<AtomicUsize>,
    processes: Arc<Mutex<Vec<(Faults, Faults)>>>,
    happened: Arc<Mutex<Vec<Unseen>>>,
}

impl Run {
    fn new(seed: u64, number: u64) -> Self {
        Run { seed, number, stale: Arc::default(), processes: Arc::default(), happened: Arc::default() }
    }

    /// A number that looks random and is the same for the same words.
    fn draw(&self, what: &str, below: usize) -> usize {
        let hash = blake3::hash(format!("{}/{}/{what}", self.seed, self.number).as_bytes());
        let bytes: [u8; 8] = hash.as_bytes()[..8].try_into().unwrap();
        (u64::from_le_bytes(bytes) % below as u64) as usize
    }

    fn kind(&self) -> Kind {
        KINDS[self.draw("kind", KINDS.len())]
    }

    /// What befalls the next process.
    fn fate(&self) -> Fate {
        let process = self.processes.lock().unwrap().len();
        if process >= PROCESSES {
            return Fate::none();
        }
        let of = |what: &str| format!("process {process}/{what}");
        let [api_calls, chain_calls, _] = calls(self.kind());
        // Two faults: the second may meet what the first left.
        let api = self.faults(&[&of("first"), &of("second")], api_calls);
        let chain = match self.draw(&of("chain"), 3) {
            0 => self.faults(&[&of("chain call")], chain_calls),
            _ => Faults::none(),
        };
        self.processes.lock().unwrap().push((api.clone(), chain.clone()));
        let (this, name) = (self.clone(), of("behind"));
        let behind = move |look: usize| {
            let behind = if this.draw(&format!("{name}/{look}"), 3) == 0 {
                1 + this.draw(&format!("{name}/{look}/by"), 4)
            } else {
                0
            };
            this.stale.fetch_add(usize::from(behind > 0), Ordering::SeqCst);
            behind
        };
        let (this, name) = (self.clone(), of("unseen"));
        let unseen = move |look: usize| {
            let happens = look < RESTLESS && this.draw(&format!("{name}/{look}"), 6) == 0;
            let possible = Unseen::to(this.kind());
            let chosen = happens.then(|| possible[this.draw(&format!("{name}/{look}/which"), possible.len())]);
            this.happened.lock().unwrap().extend(chosen);
            chosen
        };
        Fate { api, chain, behind: Box::new(behind), unseen: Box::new(unseen) }
    }

    /// One fault for each of `whats`, at one of the first `calls` calls.
    fn faults(&self, whats: &[&str], calls: usize) -> Faults {
        let draw = |what: &&str| {
            let fault = Fault::ALL[self.draw(&format!("{what}/fault"), Fault::ALL.len())];
            (self.draw(&format!("{what}/call"), calls), fault)
        };
        let plan: Vec<(usize, Fault)> = whats.iter().map(draw).collect();
        Faults::choosing(move |call| plan.iter().find(|(at, _)| *at == call.index).map(|(_, fault)| *fault))
    }

    /// What befalls a call of the gateway, if anything.
    fn at_gateway(&self) -> Option<(usize, Fault)> {
        const FAULTS: [Fault; 3] = [Fault::LoseRequest, Fault::LoseAnswer, Fault::Refuse(503)];
        let [_, _, calls] = calls(self.kind());
        let befalls = self.draw("gateway", 2) == 0;
        befalls.then(|| (self.draw("gateway/call", calls), FAULTS[self.draw("gateway/fault", FAULTS.len())]))
    }

    async fn live(&self, scene: &Scene, name: &str) -> Outcome {
        if let Some((call, fault)) = self.at_gateway() {
            scene.gateway.fail_at(call, fault);
        }
        let outcome = Box::pin(live_and_die(scene, self.kind(), name, || scene.life(self.fate()))).await;
        scene.gateway.fail_no_more();
        outcome
    }

    /// For whoever wants to know what it was, and have it again.
    fn told(&self) -> String {
        let processes = self.processes.lock().unwrap();
        let mut lines = vec![format!("run {} of seed {}: {:?}", self.number, self.seed, self.kind())];
        for (number, (api, chain)) in processes.iter().enumerate() {
            let at_api = api.told().into_iter().map(|hit| format!("API server, {hit}"));
            let at_chain = chain.told().into_iter().map(|hit| format!("chain, {hit}"));
            lines.extend(at_api.chain(at_chain).map(|hit| format!("process {number}: {hit}")));
        }
        lines.extend(
            self.at_gateway().map(|(call, fault)| format!("gateway: {fault:?} at call {call}, if it came so far")),
        );
        lines.push(format!(
            "unseen: {:?}; looks with a cache that may be behind: {}",
            self.happened.lock().unwrap(),
            self.stale()
        ));
        lines.push(format!("again: GRID_FAULT_SEED={} GRID_FAULT_RUN={}", self.seed, self.number));
        lines.join("\n  ")
    }

    fn stale(&self) -> usize {
        self.stale.load(Ordering::SeqCst)
    }

    fn count(&self, tally: &Tally) {
        let processes = self.processes.lock().unwrap();
        let all = || processes.iter().flat_map(|(api, chain)| [api, chain]);
        let faults: usize = all().map(|faults| faults.told().len()).sum();
        let unseen = self.happened.lock().unwrap().len();
        tally.runs.fetch_add(1, Ordering::SeqCst);
        tally.faults.fetch_add(faults, Ordering::SeqCst);
        tally.deaths.fetch_add(all().filter(|faults| faults.is_dead()).count(), Ordering::SeqCst);
        tally.stale.fetch_add(self.stale(), Ordering::SeqCst);
        tally.unseen.fetch_add(unseen, Ordering::SeqCst);
        tally.untouched.fetch_add(usize::from(faults + unseen + self.stale() == 0), Ordering::SeqCst);
    }
}

/// A life without misfortune. Says how much there is to lose, for `calls`.
async fn undisturbed(scene: &Scene, kind: Kind, name: &str) -> Outcome {
    let fate = Fate::none();
    let (api, chain) = (fate.api.clone(), fate.chain.clone());
    let mut fate = Some(fate);
    let process = || scene.life(fate.take().expect("a process without faults does not die"));
    scene.gateway.fail_at(usize::MAX - 1, Fault::LoseRequest);
    let outcome = Box::pin(live_and_die(scene, kind, name, process)).await;
    println!(
        "{kind:?}: {} calls of the API server, {} of the chain, {} of the gateway",
        api.calls(),
        chain.calls(),
        scene.gateway.calls()
    );
    scene.gateway.fail_no_more();
    outcome
}

/// Runs from `numbers`, one after the other, in a scene of their own; after a failure in a new one, because the old one is
/// spoiled.
async fn lane(first: &Scene, numbers: &Mutex<std::ops::Range<u64>>, scenes: &AtomicUsize, seed: u64, tally: &Tally) {
    'scene: loop {
        let number = u8::try_from(scenes.fetch_add(1, Ordering::SeqCst)).expect("fewer failures than scenes");
        let (scene, mut names) = (first.beside(number).await, Names::of(number));
        let mut expected = Vec::new();
        for kind in Kind::ALL {
            expected.push((kind, undisturbed(&scene, kind, &names.next(kind)).await));
        }
        loop {
            let next = numbers.lock().unwrap().next();
            let Some(next) = next.filter(|_| tally.failures.lock().unwrap().len() < ENOUGH) else { return };
            let run = Run::new(seed, next);
            let name = names.next(run.kind());
            let outcome = AssertUnwindSafe(run.live(&scene, &name)).catch_unwind().await;
            run.count(tally);
            let wanted = expected.iter().find(|(kind, _)| *kind == run.kind()).map(|(_, outcome)| outcome);
            let failure = match &outcome {
                Ok(outcome) if Some(outcome) == wanted => continue,
                Ok(outcome) => format!("{}\n  expected {wanted:#?}\n  but got {outcome:#?}", run.told()),
                Err(_) => format!("{}\n  it panicked, see above", run.told()),
            };
            println!("{failure}");
            tally.failures.lock().unwrap().push(failure);
            continue 'scene;
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// `GRID_FAULT_RUNS=1000 GRID_FAULT_SEED=$RANDOM` asks for more; seed and number of a failure (`GRID_FAULT_RUN`) repeat it alone.
#[tokio::test]
async fn random_faults_at_random_calls_end_as_if_nothing_had_happened() {
    let (seed, runs) = (number("GRID_FAULT_SEED").unwrap_or(1), number("GRID_FAULT_RUNS").unwrap_or(24));
    let numbers = number("GRID_FAULT_RUN").map_or(0..runs, |only| only..only + 1);
    // Runs wait for the API server most of the time.
    let lanes = number("GRID_FAULT_LANES").unwrap_or(4).min(numbers.end - numbers.start);
    println!("GRID_FAULT_SEED={seed} GRID_FAULT_RUNS={runs}, {lanes} at once");
    let (scene, tally) = (Scene::set().await, Tally::default());
    let (numbers, scenes, began) = (Mutex::new(numbers), AtomicUsize::new(1), Instant::now());
    let lanes = (0..lanes).map(|_| lane(&scene, &numbers, &scenes, seed, &tally));
    futures::future::join_all(lanes).await;
    let of = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    println!(
        "{} runs in {:.0?}: {} faults, {} of which ended a process, {} looks with a cache that may be behind, {} changes unseen, {} runs untouched",
        of(&tally.runs),
        began.elapsed(),
        of(&tally.faults),
        of(&tally.deaths),
        of(&tally.stale),
        of(&tally.unseen),
        of(&tally.untouched)
    );
    let failures = tally.failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} runs failed:\n{}", failures.len(), failures.join("\n\n"));
    assert!(of(&tally.faults) >= of(&tally.runs) / 2, "faults fall where nothing is called any more");
}
