//! Whatever is sent, the answer is an error of JSON-RPC, and the next one is served.

use super::*;

#[tokio::test]
async fn what_is_no_call_gets_an_error_and_not_a_panic() {
    let net = TestNet::start().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_call","params":{deep}}}"#);
    for (body, code) in [
        ("".to_owned(), -32700),
        ("{".to_owned(), -32700),
        ("\u{feff}null".to_owned(), -32700),
        (deep, -32700),
        (nested, -32700),
        ("null".to_owned(), -32600),
        ("[]".to_owned(), -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#.to_owned(), -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_call","params":{}}"#.to_owned(), -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"XDPoS_getV2BlockByNumber","params":["latest"]}"#.to_owned(), -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"nonsense"}"#.to_owned(), -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":""}"#.to_owned(), -32601),
    ] {
        let shown: String = body.chars().take(80).collect();
        let (status, answer) = net.post("", body).await;
        assert_eq!((status, &answer["error"]["code"]), (200, &json!(code)), "{shown}: {answer}");
    }
    let (_, answer) = net.post("", vec![0xff, 0xfe]).await;
    assert_eq!(answer["error"]["code"], -32700);
    assert_eq!(net.head().await, 0);
}

#[tokio::test]
async fn wrong_parameters_get_an_error_and_not_a_panic() {
    let net = TestNet::start().await;
    for (method, params) in [
        ("eth_sendRawTransaction", json!([])),
        ("eth_sendRawTransaction", json!([7])),
        ("eth_sendRawTransaction", json!(["ff"])),
        ("eth_sendRawTransaction", json!(["0xf"])),
        ("eth_sendRawTransaction", json!(["0x"])),
        ("eth_sendRawTransaction", json!(["0xc0"])),
        ("eth_sendRawTransaction", json!([format!("0x{}", "00".repeat(1_000_000))])),
        ("eth_getBalance", json!([])),
        ("eth_getBalance", json!(["0x0", {"blockNumber": {}}])),
        ("eth_getBlockByNumber", json!([[], false])),
        ("eth_getLogs", json!([{"fromBlock": 7}])),
        ("eth_estimateGas", json!([{"data": 5}])),
        ("eth_notThere", json!([])),
    ] {
        let answer = net.call(method, params.clone()).await;
        assert!(answer.is_err(), "{method}: {answer:?}");
    }
    assert_eq!(net.head().await, 0);
}

#[tokio::test]
async fn bodies_end_at_five_mebibytes() {
    let net = TestNet::start().await;
    let padded = |length: usize| {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;
        format!("{call}{}", " ".repeat(length - call.len()))
    };
    let (status, answer) = net.post("", padded(5 * 1024 * 1024)).await;
    assert_eq!((status, &answer["result"]), (200, &json!("0x33")));
    let (status, answer) = net.post("", padded(5 * 1024 * 1024 + 1)).await;
    assert_eq!((status, &answer["error"]["message"]), (413, &json!("content length too large (>5242880)")));
    assert_eq!(net.head().await, 0);
}

#[tokio::test]
async fn a_batch_is_answered_call_by_call() {
    let net = TestNet::start().await;
    let batch = json!([
        {"jsonrpc": "2.0", "id": "a", "method": "eth_chainId"},
        {"jsonrpc": "2.0", "method": "eth_chainId"},
        {"jsonrpc": "2.0", "id": 2, "method": "nonsense"},
        7,
        {"jsonrpc": "2.0", "id": 3, "method": "eth_getBlockByNumber", "params": ["finalized", false]},
    ]);
    let (_, answer) = net.post("", batch.to_string()).await;
    let answers = answer.as_array().unwrap();
    assert_eq!(answers.len(), 4, "a notification has no answer");
    assert_eq!((&answers[0]["id"], &answers[0]["result"]), (&json!("a"), &json!("0x33")));
    assert_eq!((&answers[1]["id"], &answers[1]["error"]["code"]), (&json!(2), &json!(-32601)));
    assert_eq!((&answers[2]["id"], &answers[2]["error"]["code"]), (&Value::Null, &json!(-32600)));
    assert_eq!((&answers[3]["id"], &answers[3]["result"]["number"]), (&json!(3), &json!("0x0")));
    let alone = json!({"jsonrpc": "2.0", "method": "eth_chainId"}).to_string();
    assert_eq!(net.post("", alone).await, (200, Value::Null));
}

#[tokio::test]
async fn many_at_once_are_all_answered() {
    let net = TestNet::start().await;
    let sends = (0..10u64).map(|nonce| signed(move |tx| tx.nonce = nonce)).collect::<Vec<_>>();
    let (sent, heads) = futures::future::join(
        futures::future::join_all(sends.iter().map(|raw| net.send(raw))),
        futures::future::join_all((0..40).map(|_| net.head())),
    )
    .await;
    assert!(sent.iter().all(Result::is_ok), "{sent:?}");
    assert_eq!(heads, vec![0; 40]);
    net.mine(1).await;
    for raw in &sends {
        assert_eq!(net.block_of(raw).await, 1);
    }
}
