//! Log-probabilities in the two forms of OpenAI: that of chat and the older one of completions.

use serde_json::{Map, Value, json};

use crate::protocol::{
    internal::Endpoint,
    logprobs::{TokenLogprob, TokenText},
};

fn text(token: &TokenText) -> String {
    String::from_utf8_lossy(&token.0).into_owned()
}

/// As an answer of `endpoint` has them.
pub fn of_answer(endpoint: Endpoint, tokens: &[TokenLogprob]) -> Value {
    match endpoint {
        Endpoint::ChatCompletions => of_chat(tokens),
        Endpoint::Completions | Endpoint::Embeddings => of_completion(tokens, 0),
    }
}

pub(super) fn of_chat(tokens: &[TokenLogprob]) -> Value {
    let one = |token: &TokenText, logprob: f32| json!({"token": text(token), "logprob": logprob, "bytes": token.0});
    let content = tokens.iter().map(|token| {
        let mut body = one(&token.token, token.logprob);
        body["top_logprobs"] = token.top.iter().map(|(token, logprob)| one(token, *logprob)).collect();
        body
    });
    json!({"content": content.collect::<Value>(), "refusal": null})
}

/// `offset`: characters of the answer before the first of them.
pub(super) fn of_completion(tokens: &[TokenLogprob], offset: usize) -> Value {
    let mut at = offset;
    let offsets = tokens.iter().map(|token| {
        let here = at;
        at += text(&token.token).chars().count();
        here
    });
    let offsets: Vec<usize> = offsets.collect();
    let top = tokens.iter().map(|token| {
        let mut map = Map::new();
        for (other, logprob) in &token.top {
            // Two tokens may read alike; the likelier one comes first and stays.
            map.entry(text(other)).or_insert_with(|| json!(logprob));
        }
        Value::Object(map)
    });
    json!({
        "tokens": tokens.iter().map(|token| text(&token.token)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": top.collect::<Value>(),
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(bytes: &[u8], logprob: f32) -> TokenLogprob {
        let text = TokenText(bytes.to_vec());
        TokenLogprob { token: text.clone(), logprob, top: vec![(text, logprob), (TokenText(b"x".to_vec()), -3.0)] }
    }

    #[test]
    fn chat_has_bytes_and_completions_have_offsets() {
        let tokens = [token("é".as_bytes(), -0.5), token(b"b", -1.0)];
        let chat = of_chat(&tokens);
        assert_eq!(chat["content"][0]["bytes"], json!([0xc3, 0xa9]));
        assert_eq!(chat["content"][1]["top_logprobs"][1], json!({"token": "x", "logprob": -3.0, "bytes": [120]}));
        let text = of_completion(&tokens, 4);
        assert_eq!((&text["tokens"], &text["text_offset"]), (&json!(["é", "b"]), &json!([4, 5])));
        assert_eq!(text["top_logprobs"][0], json!({"é": -0.5, "x": -3.0}));
    }
}
