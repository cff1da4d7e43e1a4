//! Two operators at once, as after a lease that moved while its former holder did not know. A Lease fences nothing; the report's
//! name, its resource version and the contract do.

use super::stage::{Life, Stage};
use crate::support::faults::{Fault, Faults};

#[tokio::test]
async fn two_operators_that_take_turns_report_every_epoch_once() {
    let stage = Stage::set().await;
    let (one, other) = (stage.life(), stage.life());
    for epoch in 0..3 {
        stage.end_epoch(epoch).await;
        for look in 0..120 {
            let _ = if look % 2 == 0 { one.look().await } else { other.look().await };
            if stage.is_live(epoch).await {
                break;
            }
            stage.step().await;
        }
    }
    stage.assert_exactly_once(3).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn two_operators_that_act_at_the_same_time_report_every_epoch_once() {
    let stage = Stage::set().await;
    let (one, other) = (stage.life(), stage.life());
    for epoch in 0..5 {
        stage.end_epoch(epoch).await;
        for _ in 0..120 {
            let _ = tokio::join!(one.look(), other.look());
            if stage.is_live(epoch).await {
                break;
            }
            stage.step().await;
        }
    }
    stage.assert_exactly_once(5).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn an_operator_that_wakes_up_with_a_write_of_long_ago_changes_nothing() {
    let stage = Stage::set().await;
    let mut epoch = 0;
    // It sleeps at its n-th write until its successor has brought the epoch to its end.
    for n in 0.. {
        let sleeper = stage.life_with(Faults::at_write(n, Fault::Sleep), Faults::none());
        let woken = outlived(&stage, &sleeper, &sleeper.api, epoch).await;
        epoch += 1;
        assert_eq!(stage.sent().await, 2 * epoch, "asleep at write {n}");
        if !woken {
            break;
        }
    }
    for n in 0..2 {
        let sleeper = stage.life_with(Faults::none(), Faults::at_write(n, Fault::Sleep));
        assert!(outlived(&stage, &sleeper, &sleeper.chain, epoch).await, "two transactions an epoch");
        epoch += 1;
        assert_eq!(stage.sent().await, 2 * epoch, "asleep before transaction {n}");
    }
    stage.assert_exactly_once(epoch).await;
    stage.assert_everybody_is_paid().await;
}

/// Whether `sleeper` fell asleep; then it is woken only after another one was done with the epoch.
async fn outlived(stage: &Stage, sleeper: &Life, faults: &Faults, epoch: u64) -> bool {
    let mut following = Box::pin(stage.epoch_by(sleeper, epoch));
    let fell_asleep = tokio::select! {
        biased;
        () = faults.fell_asleep() => true,
        _ = &mut following => false,
    };
    if fell_asleep {
        assert!(stage.epoch_by(&stage.life(), epoch).await);
        faults.wake();
        assert!(following.await);
    }
    fell_asleep
}
