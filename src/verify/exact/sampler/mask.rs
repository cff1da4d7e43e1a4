//! Which tokens may be candidates where the text must have a form.

/// A set of tokens, a bit for each: 32 to a word, the lowest bit first. Tokens past its end are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenMask(Vec<u32>);

impl TokenMask {
    /// The set with these words.
    pub fn from_words(words: Vec<u32>) -> Self {
        Self(words)
    }

    /// Whether a token is in it.
    pub fn allows(&self, token: u32) -> bool {
        (self.word(token as usize / 32) >> (token % 32)) & 1 == 1
    }

    /// The 32 tokens from `32 * index` on.
    pub(super) fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(0)
    }
}

impl FromIterator<u32> for TokenMask {
    fn from_iter<I: IntoIterator<Item = u32>>(tokens: I) -> Self {
        let mut words = Vec::new();
        for token in tokens {
            let at = token as usize / 32;
            if words.len() <= at {
                words.resize(at + 1, 0);
            }
            if let Some(word) = words.get_mut(at) {
                *word |= 1 << (token % 32);
            }
        }
        Self(words)
    }
}
