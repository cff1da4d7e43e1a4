//! What the module promises, on queues and workers drawn at random.

use proptest::prelude::*;

use super::{
    super::{
        Locality, Needs, Rates, Serving, Work, eligible, fits,
        queue::Backlog,
        testing::{any_backlogs, any_workers, backlog, dice, id, loading, model, needs, peer, work, worker},
    },
    *,
};

fn key(number: usize) -> String {
    format!("job-{number}")
}

fn filled(backlogs: &[(Backlog, Vec<Work>)]) -> Queue {
    let mut queue = Queue::default();
    for (number, (spec, works)) in backlogs.iter().enumerate() {
        queue.put_backlog(&key(number), spec.clone());
        works.iter().for_each(|work| queue.put(&key(number), work));
    }
    queue
}

fn interactive(owner: &str) -> Backlog {
    Backlog { class: Class::Interactive, ..backlog(owner) }
}

/// `count` requests of these owners, a job each.
fn jobs(owners: &[&str], count: u32) -> Queue {
    let works = |job: usize| (0..count).map(|number| work(1000 * job as u32 + number)).collect();
    filled(&owners.iter().enumerate().map(|(job, owner)| (backlog(owner), works(job))).collect::<Vec<_>>())
}

/// As the plan may give it: the filters, and never to the worker to be avoided while there is another.
fn may_start(worker: &Worker, all: &[Worker], spec: &Backlog, work: &Work) -> bool {
    let other =
        |other: &Worker| other.id != worker.id && !work.exclude.contains(&other.id) && fits(other, &spec.needs).is_ok();
    let avoided = work.avoid.as_ref() == Some(&worker.id) && all.iter().any(other);
    eligible(worker, &spec.needs, work).is_ok() && !avoided
}

/// The workers after a plan; fails when a slot was given twice or a filter broken.
fn apply(workers: &[Worker], backlogs: &[(Backlog, Vec<Work>)], plan: &Plan) -> Vec<Worker> {
    let mut after = workers.to_vec();
    for assignment in &plan.assignments {
        let number: usize = assignment.backlog["job-".len()..].parse().unwrap();
        let (spec, works) = &backlogs[number];
        let work = works.iter().find(|work| work.request == assignment.request).unwrap();
        let index = after.iter().position(|worker| worker.id == assignment.worker).unwrap();
        assert!(!spec.suspended && may_start(&after[index], &after, spec, work));
        after[index].free_slots -= 1;
    }
    after
}

fn of_job(plan: &Plan, job: usize) -> usize {
    plan.assignments.iter().filter(|assignment| assignment.backlog == key(job)).count()
}

/// Requests in the order in which one worker with one slot starts them, each over before the next.
fn starts(queue: &mut Queue, count: usize) -> Vec<Assignment> {
    let mut started = Vec::new();
    for _ in 0..count {
        let Some(next) = queue.plan(&[worker(1, 1)], &mut dice(1)).assignments.pop() else { break };
        queue.finished(&next.request, 30);
        started.push(next);
    }
    started
}

#[test]
fn an_interactive_request_overtakes_a_long_queue() {
    let mut queue = jobs(&["batch"], 50);
    queue.put_backlog("online", interactive("person"));
    queue.put("online", &work(9999));
    let plan = queue.plan(&[worker(1, 1)], &mut dice(1));
    assert_eq!(plan.assignments[0].request, id(9999));
}

#[test]
fn a_namespace_with_one_job_is_not_starved_by_one_with_many() {
    let mut owners = vec!["deep"; 200];
    owners.push("shallow");
    let mut queue = jobs(&owners, 5);
    let plan = queue.plan(&[worker(1, 8)], &mut dice(1));
    assert_eq!((plan.assignments.len(), of_job(&plan, 200)), (8, 4));
}

#[test]
fn jobs_of_a_namespace_take_turns_and_the_oldest_is_first() {
    let mut queue = jobs(&["a", "a", "a"], 2);
    let order: Vec<String> = starts(&mut queue, 9).into_iter().map(|start| start.backlog).collect();
    assert_eq!(order, ["job-0", "job-1", "job-2", "job-0", "job-1", "job-2"]);
}

#[test]
fn a_job_starts_its_requests_in_the_order_of_the_input() {
    let mut queue = Queue::default();
    queue.put_backlog("job", backlog("a"));
    [5, 3, 4].into_iter().for_each(|number| queue.put("job", &Work { max_tokens: 10 * number, ..work(number) }));
    let order: Vec<RequestId> = starts(&mut queue, 9).into_iter().map(|start| start.request).collect();
    assert_eq!(order, [3, 4, 5].map(id));
}

#[test]
fn weights_are_kept() {
    let mut queue = jobs(&["heavy", "light"], 400);
    queue.set_weights([("heavy".into(), 3)].into());
    let started = starts(&mut queue, 400);
    let heavy = started.iter().filter(|start| start.backlog == "job-0").count();
    assert!((298..=302).contains(&heavy), "{heavy}");
}

#[test]
fn shares_are_of_tokens_not_of_requests() {
    let long = (0..200).map(|number| Work { max_tokens: 290, ..work(number) }).collect();
    let short = (1000..2000).map(work).collect();
    let mut queue = filled(&[(backlog("long"), long), (backlog("short"), short)]);
    let mut tokens = [0u64; 2];
    for _ in 0..440 {
        let start = queue.plan(&[worker(1, 1)], &mut dice(1)).assignments.remove(0);
        let (job, used) = if start.backlog == "job-0" { (0, 300) } else { (1, 30) };
        queue.finished(&start.request, used);
        tokens[job] += used;
    }
    assert!(tokens[0].abs_diff(tokens[1]) <= 330, "{tokens:?}");
}

#[test]
fn an_answer_that_ends_early_is_not_charged_in_full() {
    let wordy = (0..100).map(|number| Work { max_tokens: 900, ..work(number) }).collect();
    let exact = (1000..1100).map(work).collect();
    let mut queue = filled(&[(backlog("wordy"), wordy), (backlog("exact"), exact)]);
    // Both turn out to take 30 tokens.
    let started = starts(&mut queue, 100);
    let wordy = started.iter().filter(|start| start.backlog == "job-0").count();
    assert!((48..=52).contains(&wordy), "{wordy}");
}

#[test]
fn suspended_jobs_and_full_ones_start_nothing_and_hold_nobody_up() {
    let works = |job: u32| (0..9).map(|number| work(100 * job + number)).collect::<Vec<_>>();
    let two_at_once = Backlog { parallelism: 2, ..backlog("a") };
    let suspended = Backlog { suspended: true, ..backlog("a") };
    let mut queue = filled(&[(suspended, works(0)), (two_at_once.clone(), works(1)), (backlog("b"), works(2))]);
    let plan = queue.plan(&[worker(1, 9)], &mut dice(1));
    assert_eq!([0, 1, 2].map(|job| of_job(&plan, job)), [0, 2, 7]);
    assert!(queue.plan(&[worker(1, 9)], &mut dice(1)).assignments.iter().all(|start| start.backlog == "job-2"));
    queue.put_backlog("job-1", Backlog { parallelism: 3, ..two_at_once });
    queue.put_backlog("job-0", backlog("a"));
    assert_eq!(queue.plan(&[worker(1, 20)], &mut dice(1)).assignments.len(), 10);
}

#[test]
fn of_two_workers_the_faster_one_is_chosen() {
    let fast = Rates { prefill_milli: 1_000_000, decode_milli: 100_000, context_length: 1000 };
    let fast = Serving { locality: Locality::Loaded, rates: fast };
    let workers = [worker(1, 9), Worker { models: [(model(1), fast)].into(), ..worker(2, 9) }];
    for seed in 0..50 {
        assert_eq!(jobs(&["a"], 1).plan(&workers, &mut dice(seed)).assignments[0].worker, peer(2));
    }
}

#[test]
fn a_worker_that_still_loads_the_model_gets_nothing_yet() {
    let soon = Worker { models: [(model(1), loading(Locality::OnDisk))].into(), ..worker(1, 9) };
    assert_eq!(jobs(&["a"], 3).plan(&[soon], &mut dice(1)), Plan::default());
}

#[test]
fn equal_workers_get_about_equal_shares() {
    let workers: Vec<Worker> = (1..=10).map(|number| worker(number, 100)).collect();
    let plan = jobs(&["a"], 200).plan(&workers, &mut dice(3));
    let load = |number| plan.assignments.iter().filter(|assignment| assignment.worker == peer(number)).count();
    let loads: Vec<usize> = (1..=10).map(load).collect();
    // Two choices keep the largest load within ln ln n of the mean; one choice would give about ±9.
    assert!(loads.iter().all(|load| (16..=24).contains(load)), "{loads:?}");
}

#[test]
fn interactive_work_goes_to_a_proven_worker_while_one_is_free() {
    let unproven = Worker { verified: false, queued_tokens: 0, ..worker(1, 5) };
    let proven = Worker { queued_tokens: 9000, ..worker(2, 1) };
    let mut queue = filled(&[(interactive("a"), vec![work(1), work(2)])]);
    let plan = queue.plan(&[unproven, proven], &mut dice(1));
    assert_eq!(plan.assignments.into_iter().map(|start| start.worker).collect::<Vec<_>>(), [peer(2), peer(1)]);
}

#[test]
fn a_job_nobody_can_start_does_not_hold_up_others_of_its_namespace() {
    let other = Backlog { needs: Needs { model: model(9), ..needs() }, ..backlog("a") };
    let mut queue = filled(&[(other, vec![work(1)]), (backlog("a"), vec![work(2)])]);
    assert_eq!(queue.plan(&[worker(1, 1)], &mut dice(1)).assignments[0].request, id(2));
}

#[test]
fn a_request_too_long_for_the_free_worker_does_not_hold_up_those_behind_it() {
    let mut long = worker(2, 0);
    long.models.values_mut().for_each(|serving| serving.rates.context_length = 9000);
    let works = vec![Work { max_tokens: 5000, ..work(1) }, Work { max_tokens: 991, ..work(2) }, work(3)];
    let mut queue = filled(&[(backlog("a"), works)]);
    let plan = queue.plan(&[worker(1, 1), long], &mut dice(1));
    assert_eq!(plan.assignments[0].request, id(3));
    assert!(plan.hopeless.is_empty(), "the long one will have its worker");
}

#[test]
fn a_request_too_long_for_everybody_is_told_and_its_job_may_have_others() {
    let works = vec![Work { max_tokens: 5000, ..work(1) }, Work { max_tokens: 991, ..work(2) }];
    let mut queue = filled(&[(backlog("a"), works.clone())]);
    let plan = queue.plan(&[worker(1, 1), worker(2, 0)], &mut dice(1));
    let refusal = |needed| Refusal::ContextTooShort { needed, context_length: 1000 };
    let hopeless = [(1, 1001), (2, 5010)].map(|(_, needed)| refusal(needed));
    assert_eq!(plan.hopeless.iter().map(|one| one.refusal.clone()).collect::<Vec<_>>(), hopeless);
    assert_eq!((plan.assignments.len(), plan.stuck), (0, vec![key(0)]));
    // A cordoned worker may be the one.
    let cordoned = Worker { schedulable: false, ..worker(3, 1) };
    assert_eq!(filled(&[(backlog("a"), works)]).plan(&[worker(1, 1), cordoned], &mut dice(1)).hopeless, []);
}

#[test]
fn a_worker_to_be_avoided_gets_the_request_only_when_there_is_no_other() {
    let works = vec![Work { avoid: Some(peer(1)), ..work(1) }];
    let mut queue = filled(&[(backlog("a"), works)]);
    assert!(queue.plan(&[worker(1, 1), worker(2, 0)], &mut dice(1)).assignments.is_empty());
    assert_eq!(queue.plan(&[worker(1, 1)], &mut dice(1)).assignments.len(), 1);
}

#[test]
fn batch_gets_its_turn_on_a_worker_that_interactive_requests_keep_busy() {
    let mut queue = filled(&[
        (interactive("people"), (0..100).map(work).collect()),
        (backlog("batch"), (1000..1100).map(work).collect()),
    ]);
    let started = starts(&mut queue, 90);
    let batch: Vec<usize> = (0..90).filter(|at| started[*at].backlog == "job-1").collect();
    assert_eq!(batch, (0..10).map(|turn| 8 + 9 * turn).collect::<Vec<_>>());
    // In one plan, too.
    let mut queue = filled(&[
        (interactive("people"), (0..100).map(work).collect()),
        (backlog("batch"), (1000..1100).map(work).collect()),
    ]);
    assert_eq!(of_job(&queue.plan(&[worker(1, 27)], &mut dice(1)), 1), 3);
}

#[test]
fn nothing_to_do_is_an_empty_plan() {
    assert_eq!(jobs(&["a"], 1).plan(&[], &mut dice(1)), Plan::default());
    assert_eq!(Queue::default().plan(&[worker(1, 1)], &mut dice(1)), Plan::default());
}

proptest! {
    #[test]
    fn no_plan_breaks_a_filter_or_a_slot_or_assigns_twice(workers in any_workers(), backlogs in any_backlogs(), seed in any::<u64>()) {
        let plan = filled(&backlogs).plan(&workers, &mut dice(seed));
        apply(&workers, &backlogs, &plan);
        let requests: BTreeSet<RequestId> = plan.assignments.iter().map(|assignment| assignment.request).collect();
        prop_assert_eq!(requests.len(), plan.assignments.len());
        for (number, (spec, _)) in backlogs.iter().enumerate() {
            prop_assert!(spec.parallelism == 0 || of_job(&plan, number) <= spec.parallelism as usize);
        }
    }

    #[test]
    fn no_request_waits_that_a_free_worker_could_start(workers in any_workers(), backlogs in any_backlogs(), seed in any::<u64>()) {
        let plan = filled(&backlogs).plan(&workers, &mut dice(seed));
        let after = apply(&workers, &backlogs, &plan);
        for (number, (spec, works)) in backlogs.iter().enumerate() {
            let full = spec.parallelism > 0 && of_job(&plan, number) >= spec.parallelism as usize;
            let waits = |work: &&Work| plan.assignments.iter().all(|start| start.request != work.request);
            for work in works.iter().filter(waits).filter(|_| !full && !spec.suspended) {
                prop_assert!(after.iter().all(|worker| !may_start(worker, &after, spec, work)));
            }
        }
    }

    #[test]
    fn the_same_dice_make_the_same_plan(workers in any_workers(), backlogs in any_backlogs(), seed in any::<u64>()) {
        prop_assert_eq!(filled(&backlogs).plan(&workers, &mut dice(seed)), filled(&backlogs).plan(&workers, &mut dice(seed)));
    }

    #[test]
    fn of_any_nine_starts_of_a_worker_one_is_batch(slots in 1u32..4, lengths in prop::collection::vec(1usize..5, 60), seed in any::<u64>()) {
        let mut queue = filled(&[
            (interactive("people"), (0..200).map(work).collect()),
            (backlog("batch"), (1000..1200).map(work).collect()),
        ]);
        let (mut dice, mut running, mut kinds) = (dice(seed), Vec::<(usize, Assignment)>::new(), BTreeMap::<GridPeerId, Vec<bool>>::new());
        for length in lengths {
            running.retain(|(end, start)| { let over = *end == 0; if over { queue.finished(&start.request, 30); } !over });
            running.iter_mut().for_each(|(end, _)| *end -= 1);
            let free = |number| slots - running.iter().filter(|(_, start)| start.worker == peer(number)).count() as u32;
            let workers = [worker(1, free(1)), worker(2, free(2))];
            for start in queue.plan(&workers, &mut dice).assignments {
                kinds.entry(start.worker.clone()).or_default().push(start.backlog == "job-1");
                running.push((length, start));
            }
        }
        for kinds in kinds.values() {
            prop_assert!(kinds.windows(INTERACTIVE_RUN as usize + 1).all(|starts| starts.contains(&true)));
        }
    }

    #[test]
    fn the_next_request_of_a_job_starts_within_the_stated_bound(
        others in 0usize..5, siblings in 1usize..4, before in 0usize..60, traffic in any::<bool>(),
    ) {
        let mut owners: Vec<String> = (0..others).map(|number| format!("other-{number}")).collect();
        owners.extend((1..siblings).map(|_| "own".to_owned()));
        let mut queue = jobs(&owners.iter().map(String::as_str).collect::<Vec<_>>(), 300);
        if traffic {
            queue.put_backlog("online", interactive("people"));
            (50_000..51_000).for_each(|number| queue.put("online", &work(number)));
        }
        starts(&mut queue, before);
        queue.put_backlog("new", backlog("own"));
        queue.put("new", &work(90_000));
        let bound = (others + 1) * siblings * (INTERACTIVE_RUN as usize + 1);
        let started = starts(&mut queue, bound);
        prop_assert!(started.iter().any(|start| start.backlog == "new"), "not among the next {}", bound);
    }

    #[test]
    fn namespaces_with_enough_to_do_share_by_weight(
        weights in prop::collection::vec(1u32..=20, 2..5), sizes in prop::collection::vec(1u32..900, 1..6), slots in 1u32..8, seed in any::<u64>(),
    ) {
        let mut queue = Queue::default();
        for owner in 0..weights.len() {
            queue.put_backlog(&key(owner), backlog(&format!("team-{owner}")));
            for number in 0..400 {
                let max_tokens = sizes[number as usize % sizes.len()];
                let work = Work { prompt_tokens_estimate: 0, max_tokens, ..work(1000 * owner as u32 + number) };
                queue.put(&key(owner), &work);
            }
        }
        queue.set_weights(weights.iter().enumerate().map(|(owner, weight)| (format!("team-{owner}"), *weight)).collect());
        let (mut dice, mut served) = (dice(seed), vec![0.0; weights.len()]);
        for _ in 0..300 / slots {
            for start in queue.plan(&[worker(1, slots)], &mut dice).assignments {
                served[start.backlog["job-".len()..].parse::<usize>().unwrap()] += f64::from(start.max_tokens);
                queue.finished(&start.request, u64::from(start.max_tokens));
            }
        }
        let largest = f64::from(*sizes.iter().max().unwrap());
        for a in 0..weights.len() {
            for b in 0..weights.len() {
                let [of_a, of_b] = [a, b].map(|owner| f64::from(weights[owner]));
                let apart = served[a] / of_a - served[b] / of_b;
                prop_assert!(apart <= largest / of_a + largest / of_b + 1e-2, "{:?} of {:?}", served, weights);
            }
        }
    }
}
