//! Each rule of XDC that anvil lacks.

use alloy::{consensus::Transaction as _, eips::BlockNumberOrTag, rpc::types::TransactionRequest};
use xdc_grid::{
    api::ids::Wei,
    chain::{ChainKey, deploy},
};

use super::*;

#[tokio::test]
async fn every_block_has_the_constant_base_fee() {
    let net = TestNet::start().await;
    net.send(&signed(|_| ())).await.unwrap();
    net.mine(5).await;
    net.request("anvil_mine", json!([3, 2])).await;
    net.request("evm_mine", json!([])).await;
    net.reorganise("mined").await;
    assert_eq!(net.head().await, 9);
    for height in 0..=9u64 {
        let block = net.request("eth_getBlockByNumber", json!([format!("{height:#x}"), false])).await;
        assert_eq!(block["baseFeePerGas"], "0x2e90edd00", "block {height}");
    }
    let provider = provider(&net);
    assert_eq!(provider.get_gas_price().await.unwrap(), BASE_FEE);
    let history = provider.get_fee_history(4, BlockNumberOrTag::Latest, &[]).await.unwrap();
    assert_eq!(history.base_fee_per_gas, [BASE_FEE; 5]);
}

#[tokio::test]
async fn the_pool_refuses_what_xdcs_refuses() {
    let net = TestNet::start().await;
    for (refusal, raw) in [
        ("under min gas price", signed(|tx| tx.gas_price = BASE_FEE - 1)),
        ("nonce too high", signed(|tx| tx.nonce = 11)),
        ("tx fee (1.0000 ether) exceeds the configured cap", signed(|tx| tx.gas_limit = 80_000_001)),
        ("oversized data", signed(|tx| (tx.input, tx.gas_limit) = (vec![0; 65_536].into(), 400_000))),
        ("intrinsic gas too low", signed(|tx| (tx.input, tx.gas_limit) = (vec![1; 10].into(), 21_679))),
        ("insufficient funds", signed(|tx| tx.value = U256::from(10_000u64) * U256::from(10u64.pow(18)))),
        ("invalid sender", signed(|tx| tx.chain_id = Some(50))),
        ("transaction type not supported", vec![3, 0xc0].into()),
        ("transaction type not supported", vec![4, 0xc0].into()),
    ] {
        let told = net.send(&raw).await.unwrap_err();
        assert!(told.starts_with(refusal), "{told:?} is not {refusal:?}");
    }
    assert!(net.send(&signed(|tx| tx.nonce = 10)).await.is_ok());
    assert!(net.send(&signed(|tx| (tx.input, tx.gas_limit) = (vec![1; 10].into(), 21_680))).await.is_ok());
    net.mine(1).await;
    assert!(net.send(&signed(|_| ())).await.unwrap_err().starts_with("nonce too low"));
    // The first free nonce is 1 now.
    assert!(net.send(&signed(|tx| tx.nonce = 11)).await.is_ok());
    assert_eq!(net.send(&signed(|tx| tx.nonce = 12)).await.unwrap_err(), "nonce too high");
}

#[tokio::test]
async fn a_replacement_pays_a_tenth_more() {
    let net = TestNet::start().await;
    let cheap = signed(|_| ());
    net.send(&cheap).await.unwrap();
    assert_eq!(net.send(&cheap).await.unwrap_err(), "already known");
    let short = signed(|tx| tx.gas_price = BASE_FEE * 11 / 10 - 1);
    assert_eq!(net.send(&short).await.unwrap_err(), "replacement transaction underpriced");
    let enough = signed(|tx| tx.gas_price = BASE_FEE * 11 / 10);
    net.send(&enough).await.unwrap();
    net.mine(1).await;
    assert_eq!(net.block_of(&enough).await, 1);
    assert_eq!(net.receipt(&cheap).await, Value::Null);
}

#[tokio::test]
async fn estimates_are_what_xdc_needs_and_what_the_pool_takes() {
    let net = TestNet::start().await;
    let request = TransactionRequest::default()
        .from(signer().address())
        .to(Address::repeat_byte(9))
        .input(Bytes::from(vec![7; 100]).into());
    let estimate = provider(&net).estimate_gas(request).await.unwrap();
    assert_eq!(estimate, 21_000 + 68 * 100);
    let with_gas = |gas: u64| signed(|tx| (tx.input, tx.gas_limit) = (vec![7; 100].into(), gas));
    assert!(net.send(&with_gas(estimate - 1)).await.unwrap_err().starts_with("intrinsic gas too low"));
    net.send(&with_gas(estimate)).await.unwrap();
    net.mine(1).await;
    assert_eq!(net.receipt(&with_gas(estimate)).await["status"], "0x1");
}

#[tokio::test]
async fn block_tags_mean_what_they_mean_on_xdc() {
    let net = TestNet::start().await;
    net.mine(9).await;
    let provider = provider(&net);
    let block = provider.get_block_by_number(BlockNumberOrTag::Finalized).await.unwrap().unwrap();
    assert_eq!(block.header.number, 7);
    let committed = net.request("eth_getBlockByNumber", json!(["committed", false])).await;
    assert_eq!(number(&committed["number"]), 7);
    let refusal = provider.get_block_by_number(BlockNumberOrTag::Safe).await.unwrap_err().to_string();
    assert!(refusal.contains("hex string without 0x prefix"), "{refusal}");

    net.send(&signed(|_| ())).await.unwrap();
    let sender = signer().address();
    let pending = net.request("eth_getBlockByNumber", json!(["pending", false])).await;
    assert_eq!(number(&pending["number"]), 9, "pending is latest");
    let balances = ["pending", "latest"].map(|tag| net.request("eth_getBalance", json!([sender, tag])));
    let [pending, latest] = futures::future::join_all(balances).await.try_into().unwrap();
    assert_eq!(pending, latest);
    assert_eq!(provider.get_transaction_count(sender).pending().await.unwrap(), 1);
    assert_eq!(provider.get_transaction_count(sender).await.unwrap(), 0);
}

#[tokio::test]
async fn headers_have_xdcs_fields_and_alloy_reads_them() {
    let net = TestNet::start().await;
    let raw = signed(|_| ());
    net.send(&raw).await.unwrap();
    net.mine(1).await;
    let block = net.request("eth_getBlockByNumber", json!(["latest", true])).await;
    for field in ["validators", "validator", "penalties"] {
        assert_eq!(block[field], "0x", "{field}");
    }
    for field in ["withdrawalsRoot", "withdrawals", "blobGasUsed", "excessBlobGas"] {
        assert!(block.get(field).is_none(), "{field}");
    }
    let provider = provider(&net);
    let read = provider.get_block_by_number(BlockNumberOrTag::Latest).full().await.unwrap().unwrap();
    assert_eq!(read.header.hash.to_string(), block["hash"]);
    assert_eq!(read.header.base_fee_per_gas, Some(BASE_FEE as u64));
    let transaction = provider.get_transaction_by_hash(keccak256(&raw)).await.unwrap().unwrap();
    assert_eq!(transaction.nonce(), 0);
    assert!(provider.get_transaction_receipt(keccak256(&raw)).await.unwrap().unwrap().status());
}

#[tokio::test]
async fn both_forms_of_an_address_are_understood_and_one_is_given_on_request() {
    let plain = TestNet::start().await;
    let address = signer().address();
    let xdc = format!("xdc{}", hex::encode(address));
    let balance = plain.request("eth_getBalance", json!([xdc, "latest"])).await;
    assert_eq!(balance, plain.request("eth_getBalance", json!([address, "latest"])).await);
    assert_ne!(balance, "0x0");

    let marked = TestNet::start_with(|options| options.xdc_addresses = true).await;
    let raw = signed(|_| ());
    for net in [&plain, &marked] {
        net.send(&raw).await.unwrap();
        net.mine(1).await;
    }
    assert_eq!(marked.receipt(&raw).await["from"], xdc);
    assert_eq!(plain.receipt(&raw).await["from"], format!("0x{}", hex::encode(address)));
}

#[tokio::test]
async fn logs_come_in_ranges_of_five_thousand_blocks() {
    let net = TestNet::start().await;
    let range = |last: &str| net.call("eth_getLogs", json!([{"fromBlock": "0x0", "toBlock": last}]));
    assert_eq!(range("0x1388").await, Ok(json!([])));
    assert_eq!(net.request("eth_getLogs", json!([{"fromBlock": "0x1"}])).await, json!([]), "none of blocks to come");
    let refusal = range("0x1389").await.unwrap_err();
    assert_eq!((&refusal["code"], &refusal["message"]), (&json!(-32602), &json!("exceed maximum block range: 5000")));
}

#[tokio::test]
async fn a_node_signs_for_nobody() {
    let net = TestNet::start().await;
    assert_eq!(net.request("eth_accounts", json!([])).await, json!([]));
    let refusal = net.call("eth_sendTransaction", json!([{"from": signer().address()}])).await.unwrap_err();
    assert!(refusal["message"].as_str().unwrap().starts_with("unknown account"), "{refusal}");
}

#[tokio::test]
async fn what_drives_the_chain_passes_but_nobody_else_makes_blocks() {
    let net = TestNet::start().await;
    let account = Address::repeat_byte(5);
    net.request("anvil_setBalance", json!([account, "0x7"])).await;
    assert_eq!(net.request("eth_getBalance", json!([account, "latest"])).await, "0x7");
    net.mine(1).await;
    let time = async || number(&net.request("eth_getBlockByNumber", json!(["latest", false])).await["timestamp"]);
    let before = time().await;
    net.pass(1_000).await;
    assert!(time().await >= before + 1_000);
    let snapshot = net.request("evm_snapshot", json!([])).await;
    net.mine(3).await;
    assert_eq!(net.request("evm_revert", json!([snapshot])).await, json!(true));
    assert_eq!(net.head().await, 2);
    assert!(net.call("evm_setAutomine", json!([true])).await.is_err());
    net.send(&signed(|_| ())).await.unwrap();
    assert_eq!(net.head().await, 2, "a transaction makes no block");
}

#[tokio::test]
async fn the_reward_contract_is_deployed_by_our_client() {
    let net = TestNet::start().await;
    let admin = ChainKey::from_bytes(&[1; 32]).unwrap();
    net.give(admin.address(), Wei(100 * Wei::XDC.0)).await;
    let parameters = deploy::DeployParameters {
        epoch_seconds: 600,
        challenge_window: 100,
        unbonding: 1_000,
        max_epoch_increase: Wei::XDC,
        roles: deploy::Roles::reporter(admin.address()),
        members: deploy::MemberParameters::default(),
        funding: Wei(0),
    };
    let inclusion = net.execute(&admin, deploy::create_intent(admin.address(), &parameters)).await.unwrap();
    assert!(inclusion.contract.is_some(), "{inclusion:?}");
}
