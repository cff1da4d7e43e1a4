//! For every kind and every call: whatever happens to that one call, the object reaches the same state, leaves the same world
//! behind, and nothing was done twice.

use super::{
    life::{Fate, Life},
    scene::{Kind, Scene},
};
use crate::support::faults::{Fault, Faults};

/// What one object leaves: the world while it lives, the world after it, and what was counted on the way.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    alive: Vec<String>,
    gone: Vec<String>,
    transactions: u64,
    /// Stakes that were left behind.
    staked: usize,
    submissions: u32,
}

/// One object from its creation to its end. A process that dies is followed by the next one.
pub async fn live_and_die(scene: &Scene, kind: Kind, name: &str, mut process: impl FnMut() -> Life) -> Outcome {
    let (transactions, staked) = (scene.chain.transactions(), scene.chain.nodes());
    let submissions = scene.gateway.all_submissions();
    let mut life = process();
    scene.create(kind, name).await;
    while !Box::pin(scene.settle(&life, kind, name)).await {
        life = process();
    }
    let alive = scene.picture(kind, name).await;
    scene.delete(kind, name).await;
    while !Box::pin(scene.bury(&life, kind, name)).await {
        life = process();
    }
    let gone = scene.picture(kind, name).await;
    scene.clear_away(name).await;
    Outcome {
        alive,
        gone,
        transactions: scene.chain.transactions() - transactions,
        staked: scene.chain.nodes() - staked,
        submissions: scene.gateway.all_submissions() - submissions,
    }
}

/// The same with these faults in the first process and none in the next.
async fn under(scene: &Scene, kind: Kind, name: &str, faults: &Faults) -> Outcome {
    let mut first = Some(faults.clone());
    let process = || scene.life(first.take().map_or_else(Fate::none, Fate::at_api));
    Box::pin(live_and_die(scene, kind, name, process)).await
}

/// Names that no other name contains.
pub struct Names {
    scene: u8,
    given: u32,
}

impl Names {
    pub fn of(scene: u8) -> Self {
        Names { scene, given: 0 }
    }

    pub fn next(&mut self, kind: Kind) -> String {
        self.given += 1;
        format!("{}-{:03}-{:05}", format!("{kind:?}").to_lowercase(), self.scene, self.given)
    }
}

#[tokio::test]
async fn whatever_happens_to_one_write_every_object_ends_as_it_would_have() {
    let scene = Scene::set().await;
    let mut names = Names::of(0);
    for kind in Kind::ALL {
        let expected = under(&scene, kind, &names.next(kind), &Faults::none()).await;
        let mut moments = 0;
        for fault in [Fault::DieBefore, Fault::DieAfter, Fault::LoseAnswer, Fault::Refuse(409)] {
            for n in 0.. {
                let faults = Faults::at_write(n, fault);
                let outcome = under(&scene, kind, &names.next(kind), &faults).await;
                assert_eq!(outcome, expected, "{kind:?}: {fault:?} at write {n}: {:?}", faults.hit());
                if faults.hit().is_none() {
                    break;
                }
                moments += 1;
            }
        }
        println!("{kind:?}: {moments} moments");
        assert!(moments > 4, "{kind:?}: {moments} moments");
    }
}

#[tokio::test]
async fn whatever_happens_to_one_call_of_the_gateway_every_object_ends_as_it_would_have() {
    let scene = Scene::set().await;
    let mut names = Names::of(0);
    for kind in Kind::ALL {
        let expected = under(&scene, kind, &names.next(kind), &Faults::none()).await;
        for fault in [Fault::LoseRequest, Fault::LoseAnswer, Fault::Refuse(503)] {
            for n in 0.. {
                scene.gateway.fail_at(n, fault);
                let outcome = under(&scene, kind, &names.next(kind), &Faults::none()).await;
                assert_eq!(outcome, expected, "{kind:?}: {fault:?} at call {n} of the gateway");
                if scene.gateway.calls() <= n {
                    break;
                }
            }
        }
    }
}
