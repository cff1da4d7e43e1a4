//! Each fault, seen from the client's side.

use alloy::eips::BlockNumberOrTag;
use futures::FutureExt;

use xdc_grid::{
    api::ids::{NodeAddress, Wei},
    chain::{ChainKey, Intent, IntentKind, TxCall},
};

use super::*;
use crate::support::eventually;

#[tokio::test]
async fn a_lost_answer_is_not_a_lost_transaction() {
    let net = TestNet::start().await;
    net.fault(json!({"kind": "drop", "methods": ["eth_sendRawTransaction"], "count": 1})).await;
    let (raw, provider) = (signed(|_| ()), provider(&net));
    let error = provider.send_raw_transaction(&raw).await.map(drop).unwrap_err();
    assert!(error.as_error_resp().is_none(), "nobody answered, yet {error}");
    assert_eq!(net.send(&raw).await.unwrap_err(), "already known");
    net.mine(1).await;
    assert_eq!(net.block_of(&raw).await, 1);
}

#[tokio::test]
async fn a_lost_request_is_a_lost_transaction() {
    let net = TestNet::start().await;
    net.fault(json!({"kind": "drop", "loses": "request", "methods": ["eth_sendRawTransaction"], "count": 1})).await;
    let raw = signed(|_| ());
    assert!(provider(&net).send_raw_transaction(&raw).await.is_err());
    net.mine(1).await;
    assert_eq!(net.receipt(&raw).await, Value::Null);
    net.send(&raw).await.unwrap();
}

#[tokio::test]
async fn a_delayed_call_holds_up_nobody_else() {
    let net = TestNet::start().await;
    net.fault(json!({"kind": "delay", "millis": 60_000, "methods": ["eth_gasPrice"]})).await;
    let provider = provider(&net);
    let mut late = Box::pin(async { provider.get_gas_price().await });
    let others = async {
        eventually("the call to arrive", async || (net.faults().await[0]["hits"] == 1).then_some(())).await;
        for _ in 0..20 {
            assert_eq!(net.head().await, 0);
        }
    };
    tokio::select! {
        _ = &mut late => panic!("it was not late"),
        () = others => {}
    }
    assert!(late.now_or_never().is_none());
}

#[tokio::test]
async fn too_many_requests_are_told_in_http() {
    let net = TestNet::start().await;
    net.fault(json!({"kind": "tooManyRequests", "count": 2})).await;
    let error = provider(&net).get_block_number().await.unwrap_err().to_string();
    assert!(error.contains("429"), "{error}");
    let batch = json!([{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}]).to_string();
    assert_eq!(net.post("", batch.clone()).await.0, 429, "a batch is one request");
    assert_eq!(net.post("", batch).await.0, 200);
}

#[tokio::test]
async fn a_stale_node_denies_the_newest_blocks() {
    let net = TestNet::start().await;
    net.mine(5).await;
    let raw = signed(|_| ());
    net.send(&raw).await.unwrap();
    net.mine(1).await;
    net.fault(json!({"kind": "lie", "behind": 3})).await;
    let (provider, sender) = (provider(&net), signer().address());
    assert_eq!(provider.get_block_number().await.unwrap(), 3);
    assert_eq!(provider.get_block_by_number(BlockNumberOrTag::Latest).await.unwrap().unwrap().header.number, 3);
    assert_eq!(provider.get_block_by_number(BlockNumberOrTag::Finalized).await.unwrap().unwrap().header.number, 1);
    assert!(provider.get_block_by_number(5.into()).await.unwrap().is_none());
    assert!(provider.get_transaction_receipt(keccak256(&raw)).await.unwrap().is_none());
    assert_eq!(provider.get_transaction_count(sender).await.unwrap(), 0);
    assert_eq!(net.request("eth_getBalance", json!([Address::repeat_byte(9), "latest"])).await, "0x0");
    net.clear_faults().await;
    assert_eq!(provider.get_transaction_count(sender).await.unwrap(), 1);
    assert_eq!(net.request("eth_getBalance", json!([Address::repeat_byte(9), "latest"])).await, "0x1");
}

#[tokio::test]
async fn a_transaction_that_arrives_twice_is_mined_once() {
    let net = TestNet::start().await;
    net.fault(json!({"kind": "duplicate"})).await;
    let raw = signed(|_| ());
    assert_eq!(net.send(&raw).await.unwrap_err(), "already known");
    net.mine(2).await;
    assert_eq!(net.block_of(&raw).await, 1);
    assert_eq!(net.request("eth_getBalance", json!([Address::repeat_byte(9), "latest"])).await, "0x1");
}

/// A chain of three blocks with a transaction in the second.
async fn three_blocks() -> (TestNet, Bytes, B256) {
    let net = TestNet::start().await;
    net.mine(1).await;
    let raw = signed(|_| ());
    net.send(&raw).await.unwrap();
    net.mine(2).await;
    assert_eq!(net.block_of(&raw).await, 2);
    let old = net.hash_of_block(2).await;
    (net, raw, old)
}

#[tokio::test]
async fn a_reorganisation_replaces_the_newest_two_blocks() {
    let (net, raw, old) = three_blocks().await;
    let kept = net.hash_of_block(1).await;
    net.reorganise("pooled").await;
    assert_eq!(net.head().await, 3);
    assert_eq!(net.hash_of_block(1).await, kept);
    assert_ne!(net.hash_of_block(2).await, old);
    assert_eq!(net.request("eth_getBlockByHash", json!([old, false])).await, Value::Null);
    assert_eq!(net.receipt(&raw).await, Value::Null);
    assert_eq!(net.send(&raw).await.unwrap_err(), "already known");
    net.mine(1).await;
    assert_eq!(net.block_of(&raw).await, 4);
}

#[tokio::test]
async fn a_reorganisation_may_mine_again_or_lose_what_was_mined() {
    let (net, raw, old) = three_blocks().await;
    net.reorganise("mined").await;
    assert_eq!(net.block_of(&raw).await, 2);
    assert_ne!(net.receipt(&raw).await["blockHash"], old.to_string());

    let (net, raw, _) = three_blocks().await;
    net.reorganise("lost").await;
    net.mine(2).await;
    assert_eq!(net.request("eth_getTransactionByHash", json!([keccak256(&raw)])).await, Value::Null);
    assert_eq!(net.request("eth_getTransactionCount", json!([signer().address(), "latest"])).await, "0x0");
}

#[tokio::test]
async fn a_reorganisation_goes_on_with_the_chains_clock() {
    let (net, ..) = three_blocks().await;
    net.pass(10_000).await;
    let time = async || number(&net.request("eth_getBlockByNumber", json!(["latest", false])).await["timestamp"]);
    let before = time().await;
    net.reorganise("lost").await;
    assert!((before + 1..before + 60).contains(&time().await), "{before} then {}", time().await);
    net.mine(1).await;
    assert!(time().await >= before);
}

#[tokio::test]
async fn a_reorganisation_strikes_after_the_answer() {
    let (net, raw, old) = three_blocks().await;
    net.fault(json!({"kind": "reorg", "methods": ["eth_getTransactionReceipt"], "count": 1})).await;
    assert_eq!(net.receipt(&raw).await["blockHash"], old.to_string());
    assert_eq!(net.receipt(&raw).await, Value::Null);
}

#[tokio::test]
async fn a_committed_block_stays_unless_finality_stands_still() {
    let net = TestNet::start().await;
    net.mine(6).await;
    let deep = json!({"depth": 3}).to_string();
    let (status, answer) = net.post("/devnet/reorg", deep.clone()).await;
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("only the newest 2"), "{answer}");
    net.fault(json!({"kind": "finalityFrozen"})).await;
    net.mine(2).await;
    assert_eq!(net.post("/devnet/reorg", deep).await.0, 200);
}

#[tokio::test]
async fn finality_stands_still_or_is_an_error_until_it_goes_on() {
    let net = TestNet::start().await;
    net.mine(6).await;
    let provider = provider(&net);
    let finalized = async || {
        provider.get_block_by_number(BlockNumberOrTag::Finalized).await.map(|block| block.unwrap().header.number)
    };
    assert_eq!(finalized().await.unwrap(), 4);
    net.fault(json!({"kind": "finalityFrozen"})).await;
    net.mine(5).await;
    assert_eq!(finalized().await.unwrap(), 4);
    net.clear_faults().await;
    assert_eq!(finalized().await.unwrap(), 9);
    net.fault(json!({"kind": "finalityError", "forBlocks": 3})).await;
    net.mine(2).await;
    let error = finalized().await.unwrap_err();
    assert_eq!(error.as_error_resp().unwrap().message, "method handler crashed");
    assert_eq!(provider.get_block_number().await.unwrap(), 13, "all else goes on");
    net.mine(1).await;
    assert_eq!(finalized().await.unwrap(), 12);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let net = TestNet::start().await;
    let chain_id = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}).to_string();
    let mut runs = Vec::new();
    for _ in 0..2 {
        net.fault(json!({"kind": "tooManyRequests", "probability": 0.5, "seed": 3})).await;
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(net.post("", chain_id.clone()).await.0);
        }
        let faults = net.faults().await;
        assert_eq!(faults[0]["seen"], 40);
        assert_eq!(faults[0]["hits"], statuses.iter().filter(|status| **status == 429).count());
        net.clear_faults().await;
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].contains(&200) && runs[0].contains(&429), "{runs:?}");
}

#[tokio::test]
async fn a_fault_that_cannot_be_is_refused_with_its_cure() {
    let net = TestNet::start().await;
    for (spec, told) in [
        (r#"{"kind": "delay"}"#, "millis"),
        (r#"{"kind": "explode"}"#, "explode"),
        (r#"{"kind": "lie", "behind": 0}"#, "from 1"),
        ("{", "EOF"),
        ("", "kind"),
    ] {
        let (status, answer) = net.post("/devnet/faults", spec).await;
        assert_eq!(status, 400, "{spec}");
        assert!(answer["error"].as_str().unwrap().contains(told), "{spec}: {answer}");
    }
    assert_eq!(net.faults().await, json!([]));
    let fault = net.fault(json!({"kind": "drop", "methods": ["eth_call"]})).await;
    let one = reqwest::Client::new().delete(format!("{}/devnet/faults/{fault}", net.url)).send();
    assert_eq!(one.await.unwrap().status(), 200);
    assert_eq!(net.faults().await, json!([]));
}

#[tokio::test]
async fn our_client_does_each_thing_once_over_a_chain_that_drops_refuses_doubles_and_reorganises() {
    let net = TestNet::start().await;
    let (key, payee) = (ChainKey::from_bytes(&[1; 32]).unwrap(), NodeAddress([0xee; 20]));
    net.give(key.address(), Wei(100 * Wei::XDC.0)).await;
    net.mine(5).await;
    for spec in [
        json!({"kind": "drop", "probability": 0.1, "seed": 1}),
        json!({"kind": "drop", "loses": "request", "probability": 0.1, "seed": 2}),
        json!({"kind": "tooManyRequests", "probability": 0.1, "seed": 3}),
        json!({"kind": "duplicate", "probability": 0.5, "seed": 4}),
        json!({"kind": "reorg", "methods": ["eth_getTransactionReceipt"], "probability": 0.2, "seed": 5}),
    ] {
        net.fault(spec).await;
    }
    for number in 0..10 {
        let call = TxCall { to: Some(payee), value: Wei(1), data: Bytes::new() };
        let intent = Intent { kind: IntentKind::Fund, key: format!("transfer/{number}"), call };
        net.execute(&key, intent).await.unwrap();
    }
    let faults = net.faults().await;
    assert!(faults.as_array().unwrap().iter().all(|fault| fault["hits"].as_u64() > Some(0)), "{faults}");
    net.clear_faults().await;
    assert_eq!(net.request("eth_getBalance", json!([payee.to_string(), "latest"])).await, "0xa");
    assert_eq!(net.request("eth_getTransactionCount", json!([key.address().to_string(), "latest"])).await, "0xa");
}
