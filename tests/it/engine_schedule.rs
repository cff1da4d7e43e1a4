//! Does it matter to an answer what the engine does beside it: batches, chunks, threads, kept prompts, slow and leaving
//! readers? It must not, to the bit. And who gets a place, when?

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use candle_core::quantized::GgmlDType;
use proptest::prelude::*;
use tokio::sync::mpsc::Receiver;
use xdc_grid::inference::{
    AdmissionError, Engine, EngineConfig, GenerateEvent, GenerateRequest, KvType, ReplayRequest, Tenant, TokenLogprobs,
};
use xdc_grid::verify::sampler::{LogitBias, SamplerParams};

use crate::{engine_files::tiny_model, support::eventually};

/// Bytes of keys and values of a block of the tiny model in single precision: 64 tokens, two layers, four heads of 32.
const BLOCK: u64 = 64 * 2 * 2 * 128 * 4;

fn load(config: EngineConfig) -> Engine {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), tiny_model(GgmlDType::Q8_0, &[])).unwrap();
    Engine::load(file.path(), config).unwrap()
}

fn config(threads: usize, blocks: u64) -> EngineConfig {
    EngineConfig { threads, kv_budget_bytes: blocks * BLOCK, max_queue: 64, ..EngineConfig::default() }
}

/// As [`config`], with as many blocks of either type.
fn config_of(kv_type: KvType, threads: usize, blocks: u64) -> EngineConfig {
    EngineConfig { kv_type, kv_budget_bytes: blocks * block(kv_type), ..config(threads, blocks) }
}

fn block(kv_type: KvType) -> u64 {
    match kv_type {
        KvType::F32 => BLOCK,
        KvType::F16 => BLOCK / 2,
    }
}

/// Requests of all kinds, of which many begin alike.
fn requests() -> Vec<GenerateRequest> {
    let warm = || SamplerParams::new(0.9, 0.95, 40);
    let samplings = [
        SamplerParams::GREEDY,
        warm(),
        SamplerParams { min_p: 0.2, ..warm() },
        SamplerParams { repetition_penalty: 1.3, ..SamplerParams::GREEDY },
        SamplerParams { presence_penalty: 0.5, frequency_penalty: 0.3, ..warm() },
        SamplerParams { logit_bias: vec![LogitBias { id: 7, bias: 0.4 }, LogitBias { id: 90, bias: -3.0 }], ..warm() },
    ];
    let prompt = |kind: u32, length: u32| (0..length).map(|i| if i < 70 { (i * 7 + kind) % 250 } else { i }).collect();
    let shapes: [(u32, u32, u32); 8] =
        [(0, 3, 20), (0, 66, 30), (0, 70, 57), (0, 100, 9), (1, 64, 40), (1, 65, 1), (1, 110, 18), (2, 40, 88)];
    let request = |(index, (kind, length, max_tokens)): (usize, (u32, u32, u32))| GenerateRequest {
        prompt: prompt(kind, length),
        max_tokens,
        sampling: samplings[index % samplings.len()].clone(),
        seed: [index as u8; 32],
        top_logprobs: (index % 3 == 0).then_some(index as u32),
        ..GenerateRequest::default()
    };
    shapes.into_iter().enumerate().map(request).collect()
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    told: Vec<(u32, u32, Option<Box<TokenLogprobs>>)>,
    text: String,
    ids: Vec<u32>,
    root: [u8; 32],
    cached: u32,
    late: bool,
}

impl Answer {
    /// Without what may depend on the time.
    fn timeless(&self) -> Self {
        Self { cached: 0, ..self.clone() }
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("{what} within a minute"));
}

async fn next(events: &mut Receiver<GenerateEvent>) -> Option<GenerateEvent> {
    tokio::time::timeout(Duration::from_secs(60), events.recv()).await.expect("an event within a minute")
}

async fn collect(mut events: Receiver<GenerateEvent>) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = next(&mut events).await {
        match event {
            GenerateEvent::Token { index, id, logprobs, .. } => answer.told.push((index, id, logprobs)),
            GenerateEvent::Done { output_ids, text, trace_root, cached_tokens, .. } => {
                answer = Answer { ids: output_ids, text, root: trace_root, cached: cached_tokens, ..answer };
            }
            GenerateEvent::DeadlineExceeded => answer.late = true,
            GenerateEvent::Failed(message) => panic!("{message}"),
            GenerateEvent::Refused(error) => panic!("{error}"),
        }
    }
    answer
}

async fn generate(engine: &Engine, request: GenerateRequest) -> Answer {
    collect(engine.generate(request).await.unwrap()).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Each request's answer, alone on an engine of its own on one thread.
fn alone(kv_type: KvType) -> &'static [Answer] {
    static ALONE: [OnceLock<Vec<Answer>>; 2] = [const { OnceLock::new() }; 2];
    let all = move || {
        let answer = |request| runtime().block_on(generate(&load(config_of(kv_type, 1, 8)), request));
        requests().into_iter().map(answer).collect()
    };
    // Whoever asks first may be inside a runtime of its own.
    ALONE[kv_type as usize].get_or_init(|| std::thread::spawn(all).join().unwrap())
}

#[derive(Debug, Clone)]
struct Arrival {
    request: usize,
    tenant: Option<u8>,
    /// After how many events the reader leaves.
    leaves_after: Option<usize>,
    /// How many output tokens an earlier worker had delivered, in hundredths.
    known: usize,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let leaves = prop_oneof![3 => Just(None), 1 => (0usize..20).prop_map(Some)];
    let known = prop_oneof![3 => Just(0usize), 1 => 0usize..=100];
    let arrival = (0..requests().len(), prop::option::weighted(0.8, 0u8..2), leaves, known)
        .prop_map(|(request, tenant, leaves_after, known)| Arrival { request, tenant, leaves_after, known });
    prop::collection::vec(arrival, 1..9)
}

/// Sends all arrivals, reads them together and compares those whose readers stayed.
async fn run(engine: &Engine, alone: &[Answer], arrivals: &[Arrival]) -> Result<(), TestCaseError> {
    let requests = requests();
    let mut readers = Vec::new();
    for arrival in arrivals {
        let ids = &alone[arrival.request].ids;
        let prefix = ids[..ids.len() * arrival.known / 100].to_vec();
        let tenant = arrival.tenant.map(|tenant| Tenant::of(&[tenant]));
        let request = GenerateRequest { prefix, tenant, ..requests[arrival.request].clone() };
        let mut events = engine.generate(request).await.unwrap();
        readers.push(async move {
            let Some(count) = arrival.leaves_after else { return Some(collect(events).await) };
            for _ in 0..count {
                next(&mut events).await?;
            }
            None
        });
    }
    let answers = futures::future::join_all(readers).await;
    for (arrival, answer) in arrivals.iter().zip(answers).filter_map(|(arrival, answer)| Some((arrival, answer?))) {
        let expected = &alone[arrival.request];
        let known = expected.ids.len() * arrival.known / 100;
        let expected = Answer { told: expected.told[known..].to_vec(), ..expected.timeless() };
        prop_assert_eq!(answer.timeless(), expected, "{:?}", arrival);
        let GenerateRequest { prompt, sampling, seed, .. } = requests[arrival.request].clone();
        let replay = ReplayRequest { top_logprobs: None, prompt, output: answer.ids.clone(), sampling, seed };
        let outcome = engine.replay(replay).await.unwrap();
        prop_assert_eq!((outcome.first_mismatch, outcome.max_margin), (None, 0.0), "{:?}", arrival);
        prop_assert_eq!(outcome.trace_root, answer.root);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_is_the_same_whatever_is_computed_beside_and_before_it(
        schedules in prop::collection::vec(arrivals(), 1..4),
        threads in 1usize..4,
        max_sequences in 1usize..6,
        step_tokens in prop::sample::select(vec![1, 5, 64, 100, 256]),
        blocks in 2u64..9,
        kv_type in prop::sample::select(KvType::ALL.to_vec()),
    ) {
        // Schedules one after the other on one engine: later ones find what earlier ones have left.
        let engine = load(EngineConfig { max_sequences, step_tokens, ..config_of(kv_type, threads, blocks) });
        for schedule in schedules {
            runtime().block_on(run(&engine, alone(kv_type), &schedule))?;
            prop_assert!(engine.load_now().kv_used_bytes <= blocks * block(kv_type));
        }
    }
}

fn of(tenant: &str, prompt: Vec<u32>, max_tokens: u32) -> GenerateRequest {
    let tenant = Some(Tenant::of(tenant.as_bytes()));
    GenerateRequest { prompt, max_tokens, tenant, ..GenerateRequest::default() }
}

#[tokio::test]
async fn a_tenants_prompt_is_computed_once_and_nobody_elses_is_any_faster() {
    for kv_type in KvType::ALL {
        ask_for_one_prompt(kv_type).await;
    }
}

async fn ask_for_one_prompt(kv_type: KvType) {
    let engine = load(config_of(kv_type, 1, 16));
    let prompt: Vec<u32> = (0..100).collect();
    let cold = generate(&engine, of("a", prompt.clone(), 4)).await;
    let warm = generate(&engine, of("a", prompt.clone(), 4)).await;
    assert_eq!((cold.cached, warm.cached), (0, 64));
    assert_eq!(cold.timeless(), warm.timeless());
    assert_eq!(generate(&engine, of("b", prompt.clone(), 4)).await.cached, 0);
    let nobody = GenerateRequest { tenant: None, ..of("a", prompt.clone(), 4) };
    assert_eq!(generate(&engine, nobody.clone()).await.cached, 0);
    assert_eq!(generate(&engine, nobody).await.cached, 0);
    // The last token of a prompt is always computed: its row is the first one that is needed.
    assert_eq!(generate(&engine, of("a", prompt[..64].to_vec(), 1)).await.cached, 0);
    assert_eq!(generate(&engine, of("a", prompt[..65].to_vec(), 1)).await.cached, 64);
    let totals = engine.totals();
    assert_eq!((totals.prefix_tokens, totals.prefix_hit_tokens), (99 * 3 + 63 + 64, 128));
    until("a block is kept for each of the two tenants", || {
        let load = engine.load_now();
        (load.kv_used_bytes, load.kv_reusable_bytes) == (2 * block(kv_type), 2 * block(kv_type))
    })
    .await;
}

#[tokio::test]
async fn the_answer_is_kept_for_the_next_turn_of_a_conversation() {
    let engine = load(config(1, 16));
    let first = generate(&engine, of("a", (0..50).collect(), 30)).await;
    let next: Vec<u32> = (0..50).chain(first.ids).chain([3, 1, 4]).collect();
    assert_eq!(generate(&engine, of("a", next, 2)).await.cached, 64);
}

#[tokio::test]
async fn kept_blocks_make_room_when_it_is_needed() {
    let engine = load(config(1, 3));
    for kind in 0..6 {
        let answer = generate(&engine, of("a", (kind..kind + 70).collect(), 4)).await;
        assert_eq!(answer.ids.len(), 4);
        assert!(engine.load_now().kv_used_bytes <= 3 * BLOCK);
    }
    until("blocks are kept", || engine.load_now().kv_reusable_bytes > 0).await;
    assert_eq!(generate(&engine, of("a", (0..70).collect(), 4)).await.cached, 0, "it was given up long ago");
    engine.benchmark().await.unwrap();
}

#[tokio::test]
async fn a_request_waits_until_its_keys_and_values_fit() {
    let engine = load(EngineConfig { max_sequences: 4, ..config(1, 3) });
    let request = || GenerateRequest { tenant: None, ..of("", (0..70).collect(), 40) };
    let answers = futures::future::join_all((0..3).map(|_| generate(&engine, request()))).await;
    assert!(answers.iter().all(|answer| answer.ids.len() == 40));
    until("all steps are counted", || engine.totals().decoded_tokens == 3 * 39).await;
    let totals = engine.totals();
    assert_eq!(totals.steps, totals.step_sequences, "two of them do not fit at once");
}

#[tokio::test]
async fn the_same_memory_holds_twice_the_tokens_in_half_precision() {
    for (kv_type, most) in [(KvType::F32, 64), (KvType::F16, 128)] {
        let engine = load(EngineConfig { kv_type, ..config(1, 1) });
        let request = |tokens: u32| of("a", (0..tokens - 4).collect(), 4);
        assert_eq!(generate(&engine, request(most)).await.ids.len(), 4);
        assert_eq!(engine.load_now().kv_budget_bytes, BLOCK);
        if most < 128 {
            let refused = engine.generate(request(most + 1)).await.unwrap_err();
            assert_eq!(refused, AdmissionError::Memory { needed: 2 * BLOCK, budget: BLOCK });
        }
    }
}

#[tokio::test]
async fn sequences_that_fit_are_computed_together() {
    let engine = load(EngineConfig { max_sequences: 4, ..config(1, 8) });
    // A model this small may end the first answer before the last request is there; one that never shared a step would never do so.
    for round in 1..=200 {
        let before = engine.totals();
        // Another tenant each time, which finds nothing computed before.
        let request = |start: u32| of(&round.to_string(), (start..start + 10).collect(), 40);
        let answers = futures::future::join_all((0..4).map(|start| generate(&engine, request(start)))).await;
        assert!(answers.iter().all(|answer| answer.ids.len() == 40));
        let computed = || engine.totals().decoded_tokens + engine.totals().prefilled_tokens;
        until("all tokens are counted", || computed() == round * 4 * (10 + 39)).await;
        let totals = engine.totals();
        let (sequences, steps) = (totals.step_sequences - before.step_sequences, totals.steps - before.steps);
        if sequences > 2 * steps {
            return;
        }
    }
    panic!("no step was shared: {:?}", engine.totals());
}

#[tokio::test]
async fn a_tenant_with_many_requests_does_not_hold_up_another() {
    let engine = load(EngineConfig { max_sequences: 1, ..config(1, 8) });
    let mut many = Vec::new();
    for start in 0..12 {
        many.push(engine.generate(of("many", (start..start + 90).collect(), 38)).await.unwrap());
    }
    let one = generate(&engine, of("one", vec![1, 2, 3], 2)).await;
    assert_eq!(one.ids.len(), 2);
    let mut last = many.pop().unwrap();
    assert!(last.try_recv().is_err(), "the last of twelve was computed before the other tenant's only one");
    for events in many {
        assert_eq!(collect(events).await.ids.len(), 38);
    }
    assert_eq!(collect(last).await.ids.len(), 38);
}

#[tokio::test]
async fn a_slow_reader_gives_its_place_to_others_and_still_gets_the_same_answer() {
    let engine = load(EngineConfig { max_sequences: 1, ..config(2, 8) });
    let sampling = SamplerParams { frequency_penalty: 0.4, ..SamplerParams::new(0.8, 1.0, 0) };
    let request = GenerateRequest { sampling, ..of("slow", (0..40).collect(), 88) };
    let expected = generate(&engine, request.clone()).await;
    assert_eq!(expected.ids.len(), 88, "more than its channel holds");
    until("its place is free", || engine.load_now().running == 0).await;
    let slow = engine.generate(request).await.unwrap();
    // Else the other tenant, which had less so far, would go first.
    eventually("it runs", async || (engine.load_now().running == 1).then_some(())).await;
    // One place and a reader that does not read: the other's turn comes nevertheless.
    let other = generate(&engine, of("other", vec![5, 6, 7], 3)).await;
    assert_eq!(other.ids.len(), 3);
    assert_eq!(engine.totals().parked, 1);
    assert_eq!(collect(slow).await.timeless(), expected.timeless());
}

#[tokio::test]
async fn a_request_ends_at_its_deadline_whether_it_waits_or_runs() {
    let engine = load(EngineConfig { max_sequences: 1, ..config(1, 8) });
    let now = Instant::now();
    let late = GenerateRequest { deadline: Some(now), ..of("a", vec![1, 2, 3], 5) };
    let answer = generate(&engine, late).await;
    assert!(answer.late && answer.told.is_empty());
    // A reader that never reads keeps it from ending by itself.
    let soon = GenerateRequest { deadline: Some(now + Duration::from_millis(700)), ..of("a", vec![1, 2, 3], 120) };
    let running = engine.generate(soon.clone()).await.unwrap();
    let waiting = generate(&engine, soon).await;
    assert!(waiting.late && waiting.told.is_empty());
    let running = collect(running).await;
    assert!(running.late && !running.told.is_empty() && running.ids.is_empty());
    assert_eq!(engine.totals().late, 3);
    until("the places are free", || engine.load_now().running + engine.load_now().queued == 0).await;
}

#[tokio::test]
async fn logprobs_are_those_of_the_model_whatever_the_sampler_does() {
    let engine = load(config(1, 8));
    let ask = |sampling, top| {
        let request = of("a", (0..20).collect(), 6);
        generate(&engine, GenerateRequest { sampling, top_logprobs: top, ..request })
    };
    let logprobs = |answer: &Answer| -> Vec<TokenLogprobs> {
        answer.told.iter().map(|(_, _, logprobs)| *logprobs.clone().unwrap()).collect()
    };
    assert!(ask(SamplerParams::GREEDY, None).await.told.iter().all(|(_, _, logprobs)| logprobs.is_none()));
    let greedy = ask(SamplerParams::GREEDY, Some(20)).await;
    for ((_, id, _), logprobs) in greedy.told.iter().zip(logprobs(&greedy)) {
        assert_eq!((logprobs.top.len(), logprobs.top[0]), (20, (*id, logprobs.logprob)));
        assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(logprobs.top.iter().map(|(_, logprob)| logprob.exp()).sum::<f32>() <= 1.0);
    }
    let replay = ReplayRequest {
        prompt: (0..20).collect(),
        output: greedy.ids.clone(),
        sampling: SamplerParams::GREEDY,
        seed: [0; 32],
        top_logprobs: Some(20),
    };
    assert_eq!(engine.replay(replay).await.unwrap().logprobs, logprobs(&greedy), "an audit finds what was told");
    let forced = SamplerParams { logit_bias: vec![LogitBias { id: 77, bias: 100.0 }], ..SamplerParams::GREEDY };
    let forced = ask(forced, Some(0)).await;
    assert_eq!(forced.ids, [77; 6]);
    let first = &logprobs(&forced)[0];
    assert!(first.top.is_empty() && first.logprob < logprobs(&greedy)[0].logprob, "before the bias it was unlikely");
}
