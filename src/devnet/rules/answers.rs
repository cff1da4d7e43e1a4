//! What anvil answers, made into what XDC would: its header fields, its gas for calldata, and nothing from above a stale node's head.

use serde_json::{Map, Value, json};

use super::{
    BASE_FEE, calldata_surcharge, hex_of,
    jsonrpc::{Call, RpcError},
    quantity,
    view::View,
};

/// What `eth_call` and `eth_estimateGas` may use.
pub const GAS_CAP: u64 = 50_000_000;

/// How addresses in answers look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressForm {
    /// `0x…`, XDC's default.
    Hex,
    /// `xdc…`, as nodes with their prefix flag answer. Most libraries cannot read it.
    Xdc,
}

/// Header fields of Ethereum's forks that XDC's headers lack.
const FOREIGN_FIELDS: [&str; 6] =
    ["withdrawalsRoot", "withdrawals", "blobGasUsed", "excessBlobGas", "parentBeaconBlockRoot", "requestsHash"];
/// Header fields that only XDC has: the validators of an epoch, the validator's signature, the penalised.
const OWN_FIELDS: [&str; 3] = ["validators", "validator", "penalties"];
/// Fields of answers that hold an address.
const ADDRESS_FIELDS: [&str; 6] = ["address", "author", "contractAddress", "from", "miner", "to"];

/// The answer as XDC would give it to `call`.
pub fn rewrite(call: &Call, mut result: Value, view: &View, form: AddressForm) -> Result<Value, RpcError> {
    if view.is_stale() {
        result = forget_newer(&call.method, result, view);
    }
    match call.method.as_str() {
        "eth_getBlockByNumber" | "eth_getBlockByHash" | "eth_getHeaderByNumber" | "eth_getHeaderByHash" => {
            if let Some(block) = result.as_object_mut() {
                dress_block(block);
            }
        }
        "eth_estimateGas" => result = surcharged(&result, call)?,
        "eth_createAccessList" => {
            if let Some(gas) = result.get_mut("gasUsed") {
                *gas = surcharged(gas, call)?;
            }
        }
        // No tip gets anybody served earlier.
        "eth_gasPrice" => result = json!(format!("{:#x}", BASE_FEE.0)),
        "eth_feeHistory" => {
            let fees = result.get_mut("baseFeePerGas").and_then(Value::as_array_mut);
            // The last one is a forecast.
            if let Some(next) = fees.and_then(|fees| fees.last_mut()) {
                *next = json!(format!("{:#x}", BASE_FEE.0));
            }
        }
        // A node signs for nobody.
        "eth_accounts" => result = json!([]),
        _ => {}
    }
    if form == AddressForm::Xdc {
        mark_addresses(&mut result);
    }
    Ok(result)
}

/// Takes away what a node that is behind has not seen.
fn forget_newer(method: &str, result: Value, view: &View) -> Value {
    let newer = |item: &Value| {
        let number = item.get("blockNumber").or_else(|| item.get("number")).and_then(quantity);
        number.is_some_and(|number| number > view.latest())
    };
    match (method, result) {
        ("eth_blockNumber", _) => hex_of(view.latest()),
        ("eth_getLogs" | "eth_getFilterLogs" | "eth_getFilterChanges", Value::Array(logs)) => {
            logs.into_iter().filter(|log| !newer(log)).collect()
        }
        ("eth_getBlockReceipts", Value::Array(receipts)) if receipts.iter().any(newer) => Value::Null,
        (_, item) if newer(&item) => Value::Null,
        (_, result) => result,
    }
}

fn dress_block(block: &mut Map<String, Value>) {
    for field in FOREIGN_FIELDS {
        block.remove(field);
    }
    for field in OWN_FIELDS {
        block.insert(field.to_owned(), json!("0x"));
    }
}

/// Gas with what XDC asks for the call's non-zero bytes on top.
fn surcharged(gas: &Value, call: &Call) -> Result<Value, RpcError> {
    let Some(gas) = quantity(gas) else { return Ok(gas.clone()) };
    let request = call.params.first();
    let data = request.and_then(|request| request.get("input").or_else(|| request.get("data"))).and_then(Value::as_str);
    let bytes = data.and_then(|data| hex::decode(data.trim_start_matches("0x")).ok()).unwrap_or_default();
    let total = gas.saturating_add(calldata_surcharge(&bytes));
    if total > GAS_CAP {
        return Err(RpcError::refused(format!("gas required exceeds allowance ({GAS_CAP})")));
    }
    Ok(hex_of(total))
}

fn mark_addresses(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(mark_addresses),
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                match value {
                    Value::String(text) if ADDRESS_FIELDS.contains(&name.as_str()) && text.len() == 42 => {
                        if let Some(digits) = text.strip_prefix("0x") {
                            *text = format!("xdc{digits}");
                        }
                    }
                    other => mark_addresses(other),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::questions, *};

    fn call(method: &str, params: Value) -> Call {
        Call { id: None, method: method.to_owned(), params: params.as_array().unwrap().clone() }
    }

    fn answered(method: &str, params: Value, result: Value, view: &View) -> Value {
        rewrite(&call(method, params), result, view, AddressForm::Hex).unwrap()
    }

    const VIEW: View = View { head: 0, behind: 0, finality: super::super::view::Finality::Following };
    const STALE: View = View { head: 100, behind: 10, ..VIEW };

    #[test]
    fn headers_have_xdcs_fields_and_none_of_ethereums_later_ones() {
        let block = json!({"number": "0x1", "hash": "0xab", "withdrawalsRoot": "0x", "withdrawals": [], "blobGasUsed": "0x0",
                           "excessBlobGas": "0x0", "parentBeaconBlockRoot": "0x", "transactions": []});
        let found = answered("eth_getBlockByNumber", json!([]), block, &VIEW);
        assert_eq!(
            found,
            json!({"number": "0x1", "hash": "0xab", "transactions": [], "validators": "0x", "validator": "0x", "penalties": "0x"})
        );
        assert_eq!(answered("eth_getBlockByHash", json!([]), Value::Null, &VIEW), Value::Null);
    }

    #[test]
    fn estimates_hold_xdcs_price_of_calldata() {
        let estimate = |request: Value| answered("eth_estimateGas", json!([request]), json!("0x5208"), &VIEW);
        assert_eq!(estimate(json!({"data": "0x00ff01"})), json!("0x5270"));
        assert_eq!(estimate(json!({"input": "0xff", "data": "0x"})), json!("0x523c"));
        assert_eq!(estimate(json!({})), json!("0x5208"));
        let list = answered("eth_createAccessList", json!([{"data": "0x01"}]), json!({"gasUsed": "0x0"}), &VIEW);
        assert_eq!(list, json!({"gasUsed": "0x34"}));
        let huge = rewrite(&call("eth_estimateGas", json!([{}])), json!("0x2faf081"), &VIEW, AddressForm::Hex);
        assert_eq!(huge.unwrap_err().message, "gas required exceeds allowance (50000000)");
    }

    #[test]
    fn prices_are_the_constant() {
        assert_eq!(answered("eth_gasPrice", json!([]), json!("0x1"), &VIEW), json!("0x2e90edd00"));
        let history = answered("eth_feeHistory", json!([]), json!({"baseFeePerGas": ["0x1", "0x2"]}), &VIEW);
        assert_eq!(history, json!({"baseFeePerGas": ["0x1", "0x2e90edd00"]}));
    }

    #[test]
    fn a_stale_node_knows_nothing_of_newer_blocks() {
        let at = |number: &str| json!({"blockNumber": number});
        assert_eq!(answered("eth_blockNumber", json!([]), json!("0x64"), &STALE), json!("0x5a"));
        assert_eq!(answered("eth_getTransactionReceipt", json!([]), at("0x5b"), &STALE), Value::Null);
        assert_eq!(answered("eth_getTransactionReceipt", json!([]), at("0x5a"), &STALE), at("0x5a"));
        assert_eq!(answered("eth_getBlockByNumber", json!([]), json!({"number": "0x5b"}), &STALE), Value::Null);
        assert_eq!(answered("eth_getLogs", json!([]), json!([at("0x5a"), at("0x5b")]), &STALE), json!([at("0x5a")]));
        assert_eq!(answered("eth_getBlockReceipts", json!([]), json!([at("0x5b")]), &STALE), Value::Null);
        let pending = json!({"blockNumber": null});
        assert_eq!(answered("eth_getTransactionByHash", json!([]), pending.clone(), &STALE), pending);
    }

    /// JSON as strangers write it: words that mean something here in places where they do not.
    fn any_json() -> impl Strategy<Value = Value> {
        let word = prop_oneof![
            Just("latest"),
            Just("safe"),
            Just("finalized"),
            Just("pending"),
            Just("0x"),
            Just("0xffffffffffffffff"),
            Just("0x-1"),
            Just("xdc"),
            Just("xdcé"),
            Just("0x00000000000000000000000000000000000000aa"),
            Just("-0x1"),
        ];
        let leaf = prop_oneof![
            word.prop_map(|word| json!(word)),
            Just(Value::Null),
            any::<bool>().prop_map(|value| json!(value)),
            any::<f64>().prop_map(|value| json!(value)),
            any::<u64>().prop_map(|value| json!(value)),
            ".{0,45}".prop_map(|text| json!(text)),
        ];
        let name = prop_oneof![
            Just("blockNumber"),
            Just("blockHash"),
            Just("fromBlock"),
            Just("toBlock"),
            Just("number"),
            Just("data"),
            Just("input"),
            Just("gasUsed"),
            Just("baseFeePerGas"),
            Just("from"),
            Just("é"),
        ];
        leaf.prop_recursive(4, 32, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                proptest::collection::vec((name.clone(), inner), 0..5)
                    .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_asked_and_answered_is_rewritten_without_a_panic(
            method in prop_oneof![
                Just("eth_getLogs"), Just("eth_newFilter"), Just("eth_call"), Just("eth_estimateGas"), Just("eth_getBlockByNumber"),
                Just("eth_getTransactionCount"), Just("eth_getStorageAt"), Just("eth_feeHistory"), Just("eth_createAccessList"),
                Just("eth_blockNumber"), Just("eth_getBlockReceipts"),
            ],
            params in proptest::collection::vec(any_json(), 0..4),
            result in any_json(),
            (head, behind) in (any::<u64>(), any::<u64>()),
        ) {
            let view = View { head, behind, ..VIEW };
            let asked = Call { id: None, method: method.to_owned(), params };
            if let Ok(call) = questions::rewrite(asked, &view) {
                questions::asks_for_the_future(&call, &view);
                let _ = rewrite(&call, result, &view, AddressForm::Xdc);
            }
        }
    }

    #[test]
    fn addresses_are_marked_on_request_and_nothing_else_is() {
        let address = "0x00000000000000000000000000000000000000aa";
        let receipt =
            json!({"from": address, "to": null, "logs": [{"address": address, "data": address}], "hash": "0xab"});
        let marked = rewrite(&call("eth_getTransactionReceipt", json!([])), receipt, &VIEW, AddressForm::Xdc).unwrap();
        let xdc = "xdc00000000000000000000000000000000000000aa";
        assert_eq!(
            marked,
            json!({"from": xdc, "to": null, "logs": [{"address": xdc, "data": address}], "hash": "0xab"})
        );
    }
}
