//! Forms that a text must have (OpenAI's `response_format`): from a JSON Schema to the tokens that may come next. Uses the
//! tokenizer and the grammar crate, a thread of its own for each compilation, and nothing else; never sees a logit.
//!
//! A token may come next if its bytes, put behind the text so far, are the beginning of a text in the form; one that ends
//! the answer, if the text is in the form as it is. That depends on the schema, the vocabulary and the tokens before, not
//! on how a schema was compiled or what else is computed, so whoever has the request can derive every mask again.
//!
//! Texts are JSON, with at most a line break and 24 blanks, or 8 blanks, between two of its tokens, so that no answer is
//! filled with white space. Objects have the schema's properties in the schema's order. Control tokens are no text.

mod schema;
#[cfg(test)]
mod speed;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod words;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use llguidance::api::TopLevelGrammar;
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::text::Tokenizer;
use super::{AdmissionError, Tenant};
pub(crate) use state::FormState;
use xdc_grid_exact::sampler::TextForm;

/// The name of these masks. It changes whenever any mask may: its number with the rules of this room, the rest with the grammar crate, which a
/// test compares.
pub(crate) const FORM_PROFILE: &str = "form1-llguidance1.9.1";

/// What may stand between two tokens of JSON, unless nothing does.
const WHITE_SPACE: &str = r"\n[ \t]{0,24}|[ \t]{1,8}";
/// How long a schema may compile.
const COMPILE_TIME: Duration = Duration::from_secs(5);
/// How long a request waits for its turn to compile one.
const WAITING_TIME: Duration = Duration::from_secs(30);
/// The compiler is recursive, and a chain of references can be as deep as a schema is long. What is not touched takes no memory.
const COMPILE_STACK: usize = 128 << 20;
/// Compiled forms that are kept.
const KEPT: usize = 8;
/// The crate takes alternatives of which it can see that no two have a text in common; it looks behind no reference for that.
const ONE_OF: &str = "the alternatives of oneOf must visibly exclude one another, by their types or by a const in a required property, \
                      and stand in place, not behind a $ref; or use anyOf";
/// Characters of what the grammar crate says that are passed on.
const MAX_SENTENCE: usize = 300;

/// Why a text cannot be kept to the form that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    #[error("the JSON schema cannot be compiled: {0}")]
    Schema(String),
    #[error("the JSON schema has more than {most} {what}")]
    Bounds { what: &'static str, most: usize },
    #[error("the JSON schema takes longer than {} s to compile; make it simpler", .0.as_secs())]
    Slow(Duration),
    #[error("the JSON schema became too complex in the middle of the answer; make it simpler: {0}")]
    TooComplex(String),
    #[error("the beginning of the answer does not have the form that is asked for")]
    Left,
    #[error("this model has no token that ends an answer, so it can keep to no form; leave response_format out")]
    NoEnd,
    #[error("the compiler of JSON schemas failed; leave response_format out, and please report it")]
    Compiler,
}

/// The forms that requests to one model ask for.
pub(crate) struct Forms {
    inner: Arc<Inner>,
    /// One schema is compiled at a time: one that turns out to be endless costs a core and not all of them.
    turn: Arc<Semaphore>,
    waiting_time: Duration,
}

struct Inner {
    tokenizer: Arc<Tokenizer>,
    /// Made when the first request asks for a form: that takes a moment, and most models are never asked.
    words: OnceLock<Result<ParserFactory, FormError>>,
    /// The last ones, the latest first. Tenants share none: the time it takes would tell one what another asks for.
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    tenant: Tenant,
    form: TextForm,
    start: FormState,
}

impl Forms {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let inner = Inner { tokenizer, words: OnceLock::new(), kept: Mutex::default() };
        Self { inner: Arc::new(inner), turn: Arc::new(Semaphore::new(1)), waiting_time: WAITING_TIME }
    }

    /// The beginning of a text in the form; `None` where any text will do. Compiles on a thread of its own, within a time
    /// limit, unless the tenant asked for the same lately.
    pub async fn begin(&self, tenant: Option<Tenant>, form: &TextForm) -> Result<Option<FormState>, AdmissionError> {
        if *form == TextForm::Free {
            return Ok(None);
        }
        if let Some(start) = tenant.and_then(|tenant| self.inner.kept(tenant, form)) {
            return Ok(Some(start));
        }
        let turn = timeout(self.waiting_time, self.turn.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| AdmissionError::Busy { retry_after: COMPILE_TIME })?;
        if self.inner.words.get().is_none() {
            let inner = self.inner.clone();
            on_thread(move || inner.words().is_ok())?.await.map_err(|_| FormError::Compiler)?;
        }
        let (inner, wanted) = (self.inner.clone(), form.clone());
        let start = on_thread(move || {
            let start = inner.compile(&wanted);
            // Also where nobody waits any more: the core is busy until here.
            drop(turn);
            start
        })?;
        let start = timeout(COMPILE_TIME, start).await.map_err(|_| FormError::Slow(COMPILE_TIME))?;
        let start = start.map_err(|_| FormError::Compiler)??;
        if let Some(tenant) = tenant {
            self.inner.keep(Kept { tenant, form: form.clone(), start: start.another() });
        }
        Ok(Some(start))
    }
}

impl Inner {
    fn words(&self) -> Result<&ParserFactory, FormError> {
        self.words.get_or_init(|| words::of(&self.tokenizer)).as_ref().map_err(Clone::clone)
    }

    fn compile(&self, form: &TextForm) -> Result<FormState, FormError> {
        let words = self.words()?;
        let mut schema = schema::of(form)?;
        // The crate reads its options from the schema; this also takes the place of those that a stranger may have put there.
        JsonCompileOptions { whitespace_pattern: Some(WHITE_SPACE.into()), ..JsonCompileOptions::default() }
            .apply_to(&mut schema);
        let refused = |error: String| FormError::Schema(sentence(&error));
        let parser = words.create_parser(TopLevelGrammar::from_json_schema(schema));
        let mut start = FormState::new(Matcher::new(Ok(parser.map_err(|error| refused(format!("{error:#}")))?)));
        // What nothing can begin with is refused now and not in the first step.
        match start.prepare() {
            Err(FormError::TooComplex(error)) => Err(FormError::Schema(error)),
            outcome => outcome.map(|()| start),
        }
    }

    fn kept(&self, tenant: Tenant, form: &TextForm) -> Option<FormState> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|kept| kept.tenant == tenant && kept.form == *form)?;
        let found = kept.remove(at)?;
        let start = found.start.another();
        kept.push_front(found);
        Some(start)
    }

    fn keep(&self, compiled: Kept) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front(compiled);
        kept.truncate(KEPT);
    }
}

/// Runs something on a thread with a large stack. The answer does not come if it panics.
fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<oneshot::Receiver<T>, FormError> {
    let (answer, outcome) = oneshot::channel();
    let thread = std::thread::Builder::new().name("form".into()).stack_size(COMPILE_STACK);
    let started = thread.spawn(move || {
        // Whoever asked may be gone.
        let _ = answer.send(work());
    });
    started.map(|_| outcome).map_err(|error| {
        tracing::error!(%error, "cannot start a thread to compile a schema");
        FormError::Compiler
    })
}

/// The first line of what the grammar crate says, and nothing of its inside.
fn sentence(error: &str) -> String {
    if error.contains("panic: ") {
        return "it is of a kind that the compiler does not take".into();
    }
    if error.contains("oneOf constraints are not supported") {
        return ONE_OF.into();
    }
    error.lines().next().unwrap_or_default().chars().take(MAX_SENTENCE).collect()
}
