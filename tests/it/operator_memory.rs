//! What the operator keeps of each object, and what a page of a listing takes while it is read: bytes of heap, counted and not measured,
//! so that they are the same on every machine. Every test of this binary allocates through the counter; it counts per thread.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt::Debug,
};

use kube::{
    Resource,
    core::ObjectList,
    runtime::{
        reflector::{self, Store},
        watcher::Event,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use xdc_grid::operator::{
    grid_node::known::KnownNode,
    inference_job::known::{KnownJob, Live, Room},
    runner::Guarded,
    watches,
};

// ------------------------------------------------------------------------------------------------ the counter

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// What glibc takes for a block of `size` bytes: a word of its own, in steps of 16, at least 32.
fn taken(size: usize) -> isize {
    isize::try_from((size + 8).next_multiple_of(16).max(32)).unwrap_or(isize::MAX)
}

fn count(bytes: isize) {
    // A thread that ends has no counters any more.
    let held = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        held.get()
    });
    if let Ok(held) = held {
        let _ = MOST.try_with(|most| most.set(most.get().max(held)));
    }
}

// SAFETY: everything is the system allocator's; the counters hold plain numbers and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(taken(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(taken(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-taken(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(taken(size) - taken(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}

fn held() -> isize {
    HELD.with(Cell::get)
}

/// The most that this thread held at once while `act` ran, beyond what it held before.
fn most<T>(act: impl FnOnce() -> T) -> isize {
    let before = held();
    MOST.with(|most| most.set(before));
    let made = act();
    let most = MOST.with(Cell::get) - before;
    drop(made);
    most
}

// ------------------------------------------------------------------------------------------------ the objects

const MANY: usize = 10_000;

fn metadata(name: &str, number: usize, namespace: Option<&str>) -> Value {
    let fields = json!({"f:spec": {"f:workload": {"f:input": {"f:inline": {}}, "f:modelRef": {"f:name": {}}}}});
    json!({
        "name": name, "namespace": namespace, "uid": format!("0b5c2f9e-7f0a-4b8e-9d57-{number:012}"),
        "resourceVersion": "1234567", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"team": "research"},
        "managedFields": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "xdcgrid.io/v1alpha1", "fieldsType": "FieldsV1", "fieldsV1": fields}],
    })
}

fn conditions(types: &[&str]) -> Value {
    let of = |type_: &&str| {
        let message = "in a sentence that a person can read, and so of some length";
        json!({"type": type_, "status": "True", "reason": "SomeReason", "message": message, "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    types.iter().map(of).collect()
}

/// One that nobody has looked at.
fn new_job(number: usize) -> Value {
    let mut job = job(number, false);
    job["status"] = Value::Null;
    job
}

/// A job with a kilobyte of prompts.
fn job(number: usize, ended: bool) -> Value {
    let prompts = "Tell me in one sentence what this number is known for.\n".repeat(18);
    let types: &[&str] = match ended {
        true => &["Accepted", "Admitted", "ModelReady", "OutputPublished", "Verified", "Complete", "Settled"],
        false => &["Accepted", "Admitted", "ModelReady"],
    };
    json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob",
        "metadata": metadata(&format!("job-{number:06}"), number, Some("research")),
        "spec": {"workload": {
            "modelRef": {"name": "smollm2-135m-instruct"}, "input": {"format": "Lines", "inline": prompts},
            "output": {"configMap": {"name": format!("job-{number:06}-results")}},
        }},
        "status": {
            "phase": "Complete", "conditions": conditions(types), "completionTime": ended.then_some("2026-01-01T00:00:00Z"),
            "requests": {"total": 18, "completed": 18, "failed": 0}, "modelDigest": "11".repeat(32), "inputSha256": "22".repeat(32),
        },
    })
}

fn node(number: usize) -> Value {
    let types = [
        "Ready",
        "WorkerAvailable",
        "PeerConnected",
        "Registered",
        "CapabilityVerified",
        "ReportingCurrent",
        "ModelsReady",
    ];
    json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridNode", "metadata": metadata(&format!("node-{number:04}"), number, None),
        "spec": {
            "networkRef": {"name": "main"}, "mode": "Managed", "models": ["smollm2-135m-instruct"], "roles": ["Compute"],
            "accelerators": {"extendedResource": {"name": "nvidia.com/gpu", "count": 1}},
        },
        "status": {
            "peerID": "16Uiu2HAmPRR6AWmKz5QVUMFbCaByyGZHNbePs3QPaLCBx7ctVnB6", "conditions": conditions(&types),
            "nodeAddress": "0x00000000000000000000000000000000000aaaa1",
        },
    })
}

// ------------------------------------------------------------------------------------------------ the tests

/// Bytes for each of `MANY` objects, in the cache of a watch, through `pass`, and in whatever that keeps of its events.
fn kept<K>(object: impl Fn(usize) -> Value, mut pass: impl FnMut(Event<Guarded<K>>) -> Event<Guarded<K>>) -> isize
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + 'static,
{
    let before = held();
    let (store, mut writer): (Store<Guarded<K>>, _) = reflector::store();
    let mut apply = |event: Event<Guarded<K>>| {
        writer.apply_watcher_event(&pass(event));
    };
    apply(Event::Init);
    for number in 0..MANY {
        let text = object(number).to_string();
        let mut found: Guarded<K> = serde_json::from_str(&text).unwrap();
        assert!(found.0.is_ok(), "{:?}", found.0.err());
        watches::without_version(&mut found);
        apply(Event::InitApply(found));
    }
    apply(Event::InitDone);
    assert_eq!(store.len(), MANY);
    (held() - before) / isize::try_from(MANY).unwrap()
}

fn kept_of_jobs(job: impl Fn(usize) -> Value) -> isize {
    let (live, room) = (Live::default(), Room::default());
    let pass = |event: Event<Guarded<KnownJob>>| {
        let event = room.fit(event);
        live.is_news(&event);
        event
    };
    kept::<KnownJob>(job, pass)
}

/// As text the same job has more than three kilobytes.
#[test]
fn an_ended_job_takes_less_than_a_kilobyte() {
    let bytes = kept_of_jobs(|number| job(number, true));
    println!("{bytes} bytes for each job that has ended");
    assert!(bytes <= 1_024, "{bytes} bytes for each job");
}

#[test]
fn a_job_that_waits_takes_little_more() {
    let bytes = kept_of_jobs(|number| job(number, false));
    println!("{bytes} bytes for each job that waits");
    assert!(bytes <= 1_500, "{bytes} bytes for each job");
}

/// Ten thousand at once are looked at one after the other; of most of them no more is kept until then than later.
#[test]
fn a_job_that_nobody_has_looked_at_takes_little_more_where_there_are_many() {
    let bytes = kept_of_jobs(new_job);
    println!("{bytes} bytes for each new job");
    assert!(bytes <= 2_000, "{bytes} bytes for each job");
}

#[test]
fn a_node_takes_less_than_a_kilobyte() {
    let bytes = kept::<KnownNode>(node, |event| event);
    println!("{bytes} bytes for each node");
    assert!(bytes <= 1_024, "{bytes} bytes for each node");
}

/// While a listing is read there are the text of a page and what is made of it. What is made of each job in between must be gone when the
/// next one is read.
#[test]
fn of_a_page_of_jobs_that_is_read_little_is_held_beside_its_text() {
    let jobs: Vec<Value> = (0..usize::try_from(watches::PAGE).unwrap()).map(|number| job(number, true)).collect();
    let page = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": jobs});
    let text = page.to_string();
    let beside = most(|| serde_json::from_str::<ObjectList<Guarded<KnownJob>>>(&text).unwrap());
    println!("{} jobs of {} bytes together: {beside} bytes beside them", jobs.len(), text.len());
    assert!(beside < isize::try_from(text.len()).unwrap() / 2, "{beside} bytes beside {}", text.len());
}
