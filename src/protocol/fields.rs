//! What a request may ask for beyond what every version of the protocol knows. A worker states which of these fields it knows; a request
//! that uses one goes to such workers only, because another would skip the field and answer a different question.

use std::fmt;

/// A field of a request that came after the first version. Numbers and names are kept for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestField {
    MinP,
    RepetitionPenalty,
    PresencePenalty,
    FrequencyPenalty,
    LogitBias,
    Logprobs,
    ResponseFormat,
    /// The template of a chat, in place of the model's own.
    ChatTemplate,
}

impl RequestField {
    pub const ALL: [RequestField; 8] = [
        RequestField::MinP,
        RequestField::RepetitionPenalty,
        RequestField::PresencePenalty,
        RequestField::FrequencyPenalty,
        RequestField::LogitBias,
        RequestField::Logprobs,
        RequestField::ResponseFormat,
        RequestField::ChatTemplate,
    ];

    /// As OpenAI's API and the statements of workers write it.
    pub fn name(self) -> &'static str {
        match self {
            RequestField::MinP => "min_p",
            RequestField::RepetitionPenalty => "repetition_penalty",
            RequestField::PresencePenalty => "presence_penalty",
            RequestField::FrequencyPenalty => "frequency_penalty",
            RequestField::LogitBias => "logit_bias",
            RequestField::Logprobs => "logprobs",
            RequestField::ResponseFormat => "response_format",
            RequestField::ChatTemplate => "chat_template",
        }
    }

    fn bit(self) -> u32 {
        match self {
            RequestField::MinP => 1,
            RequestField::RepetitionPenalty => 1 << 1,
            RequestField::PresencePenalty => 1 << 2,
            RequestField::FrequencyPenalty => 1 << 3,
            RequestField::LogitBias => 1 << 4,
            RequestField::Logprobs => 1 << 5,
            RequestField::ResponseFormat => 1 << 6,
            RequestField::ChatTemplate => 1 << 7,
        }
    }
}

/// A set of fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestFields(u32);

impl RequestFields {
    /// What every version knows.
    pub const NONE: Self = RequestFields(0);

    pub fn all() -> Self {
        RequestField::ALL.into_iter().collect()
    }

    /// Reads names; those of a later version say nothing to this one.
    pub fn of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let known = |name: &str| RequestField::ALL.into_iter().find(|field| field.name() == name);
        names.into_iter().filter_map(known).collect()
    }

    /// As one number, for a column.
    pub fn bits(self) -> u32 {
        self.0
    }

    pub fn of_bits(bits: u32) -> Self {
        RequestFields(bits)
    }

    pub fn with(self, other: Self) -> Self {
        RequestFields(self.0 | other.0)
    }

    /// Those of them that `known` lacks.
    pub fn missing_in(self, known: Self) -> Self {
        RequestFields(self.0 & !known.0)
    }

    /// Those of them without `field`.
    pub fn without(self, field: RequestField) -> Self {
        RequestFields(self.0 & !field.bit())
    }

    pub fn contains(self, field: RequestField) -> bool {
        self.0 & field.bit() != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = RequestField> {
        RequestField::ALL.into_iter().filter(move |field| self.contains(*field))
    }
}

impl FromIterator<RequestField> for RequestFields {
    fn from_iter<I: IntoIterator<Item = RequestField>>(fields: I) -> Self {
        RequestFields(fields.into_iter().fold(0, |bits, field| bits | field.bit()))
    }
}

impl fmt::Display for RequestFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(RequestField::name).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_those_of_a_later_version_are_skipped() {
        let names = RequestField::ALL.map(RequestField::name);
        assert_eq!(RequestFields::of_names(names), RequestFields::all());
        assert_eq!(RequestFields::of_names(["min_p", "telepathy"]), [RequestField::MinP].into_iter().collect());
        assert_eq!(RequestFields::of_bits(RequestFields::all().bits()), RequestFields::all());
    }

    #[test]
    fn what_is_missing_is_named_in_order() {
        let asked: RequestFields = [RequestField::Logprobs, RequestField::MinP].into_iter().collect();
        assert_eq!(asked.missing_in(RequestFields::NONE).to_string(), "min_p, logprobs");
        assert!(asked.missing_in(RequestFields::all()).is_empty());
        let rest = asked.without(RequestField::MinP);
        assert!(rest.contains(RequestField::Logprobs) && !rest.contains(RequestField::MinP));
    }
}
