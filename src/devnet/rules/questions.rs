//! What a client asks, made into what anvil understands: XDC's addresses, XDC's block tags, and the block that a stale node would look at.

use serde_json::{Value, json};

use super::{
    hex_of,
    jsonrpc::{Call, RpcError},
    quantity,
    view::View,
};

/// Blocks of one `eth_getLogs`, from the first to the last.
pub const MAX_LOG_RANGE: u64 = 5_000;

/// Where a method takes its block. A block that is itself asked for comes first; the state to look at comes after what is looked for.
fn block_argument(method: &str) -> Option<usize> {
    match method {
        "eth_getBlockByNumber"
        | "eth_getHeaderByNumber"
        | "eth_getBlockReceipts"
        | "eth_getBlockTransactionCountByNumber"
        | "eth_getTransactionByBlockNumberAndIndex"
        | "eth_getRawTransactionByBlockNumberAndIndex"
        | "eth_getUncleByBlockNumberAndIndex"
        | "eth_getUncleCountByBlockNumber" => Some(0),
        "eth_getBalance"
        | "eth_getCode"
        | "eth_getTransactionCount"
        | "eth_call"
        | "eth_estimateGas"
        | "eth_createAccessList"
        | "eth_feeHistory" => Some(1),
        "eth_getStorageAt" | "eth_getProof" => Some(2),
        _ => None,
    }
}

/// Whether answering takes the number of the newest block.
pub fn needs_head(call: &Call, behind: u64) -> bool {
    let final_tag = |value: &Value| matches!(value.as_str(), Some("finalized" | "committed"));
    let names_final =
        |value: &Value| final_tag(value) || value.as_object().is_some_and(|map| map.values().any(final_tag));
    behind > 0 || call.method == "eth_getLogs" || call.params.iter().any(names_final)
}

/// The call as anvil is to get it.
pub fn rewrite(mut call: Call, view: &View) -> Result<Call, RpcError> {
    call.params.iter_mut().for_each(plain_addresses);
    match call.method.as_str() {
        "eth_getLogs" | "eth_newFilter" => rewrite_filter(&mut call, view)?,
        method => {
            if let Some(index) = block_argument(method) {
                rewrite_block(&mut call, index, view)?;
            }
        }
    }
    Ok(call)
}

/// `xdc…` in place of `0x…`, which XDC's nodes take everywhere.
fn plain_addresses(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(digits) = text.strip_prefix("xdc").or_else(|| text.strip_prefix("XDC"))
                && digits.len() == 40
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            {
                *text = format!("0x{digits}");
            }
        }
        Value::Array(values) => values.iter_mut().for_each(plain_addresses),
        Value::Object(map) => map.values_mut().for_each(plain_addresses),
        _ => {}
    }
}

fn rewrite_block(call: &mut Call, index: usize, view: &View) -> Result<(), RpcError> {
    // Of all that asks for it, only this looks into the pool.
    let pending = if call.method == "eth_getTransactionCount" { "pending" } else { "latest" };
    let looks_at_state = index > 0;
    if view.is_stale() && call.params.len() == index {
        call.params.push(hex_of(view.latest()));
    }
    match call.params.get_mut(index) {
        Some(Value::Object(map)) => {
            if let Some(number) = map.get_mut("blockNumber") {
                *number = resolve(number, index, pending, view)?;
            }
        }
        Some(block) if !block.is_null() => *block = resolve(block, index, pending, view)?,
        Some(block) if view.is_stale() => *block = hex_of(view.latest()),
        _ => {}
    }
    let asked = call.params.get(index).and_then(quantity);
    if view.is_stale() && looks_at_state && asked.is_some_and(|number| number > view.latest()) {
        return Err(RpcError::refused("header not found"));
    }
    Ok(())
}

/// A block argument in anvil's words; `pending` is what that tag stands for.
fn resolve(block: &Value, index: usize, pending: &str, view: &View) -> Result<Value, RpcError> {
    let no_number = || RpcError::invalid_params(format!("invalid argument {index}: hex string without 0x prefix"));
    if block.is_number() {
        return Err(no_number());
    }
    let Some(tag) = block.as_str() else { return Ok(block.clone()) };
    match tag {
        // XDC has no such tag and takes it for a number.
        "safe" => Err(no_number()),
        "finalized" | "committed" => Ok(hex_of(view.finalized()?)),
        "latest" | "pending" if view.is_stale() => Ok(hex_of(view.latest())),
        "pending" => Ok(json!(pending)),
        _ => Ok(block.clone()),
    }
}

fn rewrite_filter(call: &mut Call, view: &View) -> Result<(), RpcError> {
    let ranged = call.method == "eth_getLogs";
    let Some(Value::Object(filter)) = call.params.first_mut() else { return Ok(()) };
    for end in ["fromBlock", "toBlock"] {
        if let Some(block) = filter.get_mut(end).filter(|block| !block.is_null()) {
            *block = resolve(block, 0, "latest", view)?;
        }
    }
    if !ranged || filter.contains_key("blockHash") {
        return Ok(());
    }
    let named = |end: &str| match filter.get(end) {
        Some(Value::String(tag)) if tag == "earliest" => Some(0),
        other => other.and_then(quantity),
    };
    let (first, last) = (named("fromBlock"), named("toBlock"));
    if first.zip(last).is_some_and(|(first, last)| first > last) {
        return Err(RpcError::invalid_params("invalid block range params"));
    }
    let (first, last) = (first.unwrap_or(view.latest()), last.unwrap_or(view.latest()));
    if last.saturating_sub(first) > MAX_LOG_RANGE {
        return Err(RpcError::invalid_params(format!("exceed maximum block range: {MAX_LOG_RANGE}")));
    }
    Ok(())
}

/// Whether the call asks for logs of blocks to come, of which XDC finds none and anvil makes an error.
pub fn asks_for_the_future(call: &Call, view: &View) -> bool {
    let first = call.params.first().and_then(|filter| filter.get("fromBlock")).and_then(quantity);
    call.method == "eth_getLogs" && first.is_some_and(|first| first > view.latest())
}

#[cfg(test)]
mod tests {
    use super::{super::view::Finality, *};

    fn asked(method: &str, params: Value, view: &View) -> Result<Value, RpcError> {
        let call = Call { id: None, method: method.to_owned(), params: params.as_array().unwrap().clone() };
        rewrite(call, view).map(|call| Value::Array(call.params))
    }

    const VIEW: View = View { head: 100, behind: 0, finality: Finality::Following };
    const STALE: View = View { behind: 10, ..VIEW };

    #[test]
    fn safe_is_no_tag_on_xdc() {
        for (method, params) in [
            ("eth_getBlockByNumber", json!(["safe", false])),
            ("eth_call", json!([{}, "safe"])),
            ("eth_call", json!([{}, {"blockNumber": "safe"}])),
            ("eth_getLogs", json!([{"fromBlock": "safe"}])),
            ("eth_getBlockByNumber", json!([7, false])),
        ] {
            let error = asked(method, params, &VIEW).unwrap_err();
            assert_eq!(error.code, -32602);
            assert!(error.message.ends_with("hex string without 0x prefix"), "{error}");
        }
    }

    #[test]
    fn finalized_and_committed_are_two_blocks_behind() {
        for tag in ["finalized", "committed"] {
            assert_eq!(asked("eth_getBlockByNumber", json!([tag, true]), &VIEW), Ok(json!(["0x62", true])));
            assert_eq!(asked("eth_getBalance", json!(["0x0", tag]), &VIEW), Ok(json!(["0x0", "0x62"])));
            assert_eq!(asked("eth_getStorageAt", json!(["0x0", "0x0", tag]), &VIEW), Ok(json!(["0x0", "0x0", "0x62"])));
            let logs = json!([{"fromBlock": tag, "toBlock": tag}]);
            assert_eq!(asked("eth_getLogs", logs, &VIEW), Ok(json!([{"fromBlock": "0x62", "toBlock": "0x62"}])));
        }
        let lost = View { finality: Finality::Lost, ..VIEW };
        assert_eq!(asked("eth_getBlockByNumber", json!(["finalized", true]), &lost).unwrap_err().code, -32603);
        assert_eq!(asked("eth_getBlockByNumber", json!(["latest", true]), &lost), Ok(json!(["latest", true])));
    }

    #[test]
    fn pending_is_latest_but_for_nonces() {
        assert_eq!(asked("eth_call", json!([{}, "pending"]), &VIEW), Ok(json!([{}, "latest"])));
        assert_eq!(asked("eth_getBlockByNumber", json!(["pending", false]), &VIEW), Ok(json!(["latest", false])));
        assert_eq!(asked("eth_getTransactionCount", json!(["0x0", "pending"]), &VIEW), Ok(json!(["0x0", "pending"])));
    }

    #[test]
    fn a_stale_node_looks_at_its_own_head() {
        assert_eq!(asked("eth_call", json!([{}]), &STALE), Ok(json!([{}, "0x5a"])));
        assert_eq!(asked("eth_call", json!([{}, null]), &STALE), Ok(json!([{}, "0x5a"])));
        assert_eq!(asked("eth_call", json!([{}, "latest"]), &STALE), Ok(json!([{}, "0x5a"])));
        assert_eq!(asked("eth_call", json!([{}, "0x50"]), &STALE), Ok(json!([{}, "0x50"])));
        assert_eq!(asked("eth_call", json!([{}, "0x60"]), &STALE).unwrap_err().message, "header not found");
        assert_eq!(asked("eth_getBlockByNumber", json!(["0x60", false]), &STALE), Ok(json!(["0x60", false])));
        assert_eq!(asked("eth_getTransactionCount", json!(["0x0", "pending"]), &STALE), Ok(json!(["0x0", "0x5a"])));
    }

    #[test]
    fn addresses_with_xdc_are_addresses() {
        let digits = "00000000000000000000000000000000000000aA";
        let params =
            json!([{"to": format!("xdc{digits}"), "data": "0x"}, [format!("XDC{digits}")], "xdcshort", "latest"]);
        let found = asked("eth_any", params, &VIEW).unwrap();
        assert_eq!(
            found,
            json!([{"to": format!("0x{digits}"), "data": "0x"}, [format!("0x{digits}")], "xdcshort", "latest"])
        );
    }

    #[test]
    fn logs_are_asked_for_in_bounded_ranges() {
        let range =
            |first: Value, last: Value| asked("eth_getLogs", json!([{"fromBlock": first, "toBlock": last}]), &VIEW);
        assert!(range(json!("0x0"), json!("0x1388")).is_ok());
        assert_eq!(range(json!("0x0"), json!("0x1389")).unwrap_err().message, "exceed maximum block range: 5000");
        assert_eq!(range(json!("0x2"), json!("0x1")).unwrap_err().message, "invalid block range params");
        let far = View { head: 9_000, ..VIEW };
        assert!(asked("eth_getLogs", json!([{"fromBlock": "earliest"}]), &far).is_err());
        assert!(asked("eth_getLogs", json!([{"fromBlock": "0x2000"}]), &far).is_ok());
        assert!(asked("eth_getLogs", json!([{"blockHash": "0x00"}]), &far).is_ok());
        assert!(asked("eth_newFilter", json!([{"fromBlock": "earliest"}]), &far).is_ok());
    }

    #[test]
    fn logs_of_blocks_to_come_are_none() {
        let call = |first: &str| Call {
            id: None,
            method: "eth_getLogs".to_owned(),
            params: vec![json!({"fromBlock": first})],
        };
        assert!(asks_for_the_future(&call("0x65"), &VIEW) && !asks_for_the_future(&call("0x64"), &VIEW));
        assert!(asks_for_the_future(&call("0x5b"), &STALE) && !asks_for_the_future(&call("latest"), &STALE));
    }

    #[test]
    fn the_head_is_asked_for_only_where_it_matters() {
        let call = |method: &str, params: Value| Call {
            id: None,
            method: method.to_owned(),
            params: params.as_array().unwrap().clone(),
        };
        assert!(!needs_head(&call("eth_chainId", json!([])), 0));
        assert!(needs_head(&call("eth_chainId", json!([])), 1));
        assert!(needs_head(&call("eth_call", json!([{}, "finalized"])), 0));
        assert!(needs_head(&call("eth_newFilter", json!([{"fromBlock": "committed"}])), 0));
        assert!(needs_head(&call("eth_getLogs", json!([{}])), 0));
    }
}
