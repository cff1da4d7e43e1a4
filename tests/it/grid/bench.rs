//! Latency on loopback. Not a test: `cargo test --test it grid::bench -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use xdc_grid::{grid::Rate, protocol::wire::Offer};

use super::node::{QUIC, TCP, gateway_limits, pair_with, worker_limits};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures; run it alone"]
async fn offer_to_accept_on_loopback() {
    for (name, listen) in [("tcp", TCP), ("quic", QUIC)] {
        let (mut gateway, mut worker) = (gateway_limits(), worker_limits());
        for limits in [&mut gateway, &mut worker] {
            limits.rates.job = Rate::new(1e6, 1e6);
            limits.rates.info = Rate::new(1e6, 1e6);
        }
        let (gateway, worker) = pair_with(listen, gateway, worker).await;
        let (handle, peer) = (gateway.grid.handle.clone(), worker.peer());
        let offer = Offer { request_id: vec![1; 32], model: vec![2; 32], ..Default::default() };
        let mut offers = vec![];
        let mut infos = vec![];
        for round in 0..2200 {
            let at = Instant::now();
            handle.offer(&peer, offer.clone()).await.unwrap();
            let between = Instant::now();
            handle.info(&peer).await.unwrap();
            if round >= 200 {
                offers.push(between - at);
                infos.push(between.elapsed());
            }
        }
        let at = Instant::now();
        let parallel = (0..64).map(|_| {
            let (handle, peer, offer) = (handle.clone(), peer.clone(), offer.clone());
            tokio::spawn(async move {
                for _ in 0..100 {
                    handle.offer(&peer, offer.clone()).await.unwrap();
                }
            })
        });
        futures::future::join_all(parallel).await;
        let rate = 6400.0 / at.elapsed().as_secs_f64();
        println!("{name}: offer {} info {} 64 parallel: {rate:.0} offers/s", spread(offers), spread(infos));
    }
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    format!("n={} p50={:?} p99={:?}", times.len(), at(0.5), at(0.99))
}
