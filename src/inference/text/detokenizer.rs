//! Bytes of tokens into text, one token at a time, never in the middle of a character.

/// Keeps the bytes of a character that has not ended yet.
#[derive(Debug, Default)]
pub struct Detokenizer {
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Adds a token's bytes and returns the text that is complete now. Bytes that are not UTF-8 become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(invalid) = error.error_len() else {
                        self.pending.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + invalid);
                }
            }
        }
    }

    /// What is left when no more tokens come.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_appears_when_its_last_byte_does() {
        let mut detokenizer = Detokenizer::default();
        let bytes = "a🦀".as_bytes();
        assert_eq!(detokenizer.push(&bytes[..2]), "a");
        assert_eq!(detokenizer.push(&bytes[2..4]), "");
        assert_eq!(detokenizer.push(&bytes[4..]), "🦀");
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        let mut detokenizer = Detokenizer::default();
        assert_eq!(detokenizer.push(&[0xff, b'x', 0xe2, 0x82]), "\u{fffd}x");
        assert_eq!(detokenizer.push(b"y"), "\u{fffd}y");
        detokenizer.push(&[0xe2]);
        assert_eq!(detokenizer.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_text(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 1usize..7) {
            let mut detokenizer = Detokenizer::default();
            let mut text: String = bytes.chunks(cut).map(|part| detokenizer.push(part)).collect();
            text += &detokenizer.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
