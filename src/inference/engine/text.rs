//! What a handle tells of the model's words.

use serde_json::Value;

use super::Engine;
use crate::text::{ChatMessage, PromptError};

impl Engine {
    /// The bytes that a token stands for; none for control tokens.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.shared.tokenizer.bytes(token)
    }

    /// Whether the model's chat template shows the model tools that it may call.
    pub fn takes_tools(&self) -> bool {
        self.shared.template.as_ref().is_some_and(|template| template.takes_tools())
    }

    /// As [`render_chat`](Self::render_chat), by another template than the model's own. The last one is kept compiled.
    pub fn render_chat_by(&self, template: &str, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        self.shared.replacement.compiled(template)?.render(messages, &self.shared.tokenizer)
    }

    /// As [`render_chat`](Self::render_chat), for messages with calls of tools, in the form of Hugging Face's templates.
    pub fn render_tools(&self, messages: &[Value], tools: &[Value]) -> Result<Vec<u32>, PromptError> {
        let template = self.shared.template.as_ref().ok_or(PromptError::NoTemplate)?;
        template.render_tools(messages, tools, &self.shared.tokenizer)
    }
}
