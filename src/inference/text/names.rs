//! Finds tokens that stand in a text by name.

use std::collections::{BTreeSet, HashMap};

/// The bytes of a name that it is looked up by.
const KEY: usize = 4;

/// Names of tokens.
pub(super) struct Names {
    /// Longest first.
    all: Vec<(String, u32)>,
    /// Numbers in `all` by their first bytes: four, or all of a shorter name.
    by_start: HashMap<Vec<u8>, Vec<usize>>,
    /// Whether a name begins with the byte.
    first: Vec<bool>,
}

/// A piece of a text that was cut at names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(&'a str),
    Token(u32),
}

impl Names {
    pub(super) fn new(mut all: Vec<(String, u32)>) -> Self {
        all.retain(|(name, _)| !name.is_empty());
        all.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let mut by_start: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        let mut first = vec![false; 256];
        for (index, (name, _)) in all.iter().enumerate() {
            let bytes = name.as_bytes();
            by_start.entry(bytes[..bytes.len().min(KEY)].to_vec()).or_default().push(index);
            first[usize::from(bytes[0])] = true;
        }
        Self { all, by_start, first }
    }

    /// The names that occur in a text, longest first.
    pub(super) fn names_in(&self, text: &str) -> Vec<&str> {
        self.present(text).into_iter().map(|index| self.all[index].0.as_str()).collect()
    }

    /// Cuts `text` at the names: at all places of the longest first, from left to right, then in what is left at those of
    /// the next, as llama.cpp does.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = vec![Part::Text(text)];
        for index in self.present(text) {
            let (name, id) = &self.all[index];
            parts = parts.into_iter().flat_map(|part| cut(part, name, *id)).collect();
        }
        parts.retain(|part| *part != Part::Text(""));
        parts
    }

    /// Numbers of the names that occur anywhere. Few do, and a vocabulary may have thousands.
    fn present(&self, text: &str) -> BTreeSet<usize> {
        let bytes = text.as_bytes();
        let mut present = BTreeSet::new();
        for at in (0..bytes.len()).filter(|at| self.first[usize::from(bytes[*at])]) {
            let rest = &bytes[at..];
            let keys = (1..=rest.len().min(KEY)).filter_map(|length| self.by_start.get(&rest[..length]));
            present.extend(keys.flatten().filter(|index| rest.starts_with(self.all[**index].0.as_bytes())));
        }
        present
    }
}

fn cut<'a>(part: Part<'a>, name: &str, id: u32) -> Vec<Part<'a>> {
    let Part::Text(text) = part else { return vec![part] };
    let mut parts = Vec::new();
    for (index, piece) in text.split(name).enumerate() {
        if index > 0 {
            parts.push(Part::Token(id));
        }
        parts.push(Part::Text(piece));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Names {
        Names::new(all.iter().zip(0..).map(|(name, id)| ((*name).to_owned(), id)).collect())
    }

    #[test]
    fn the_longest_name_wins_even_where_a_shorter_one_begins_earlier() {
        let names = names(&["ab", "bcd", "a", ""]);
        assert_eq!(names.split("abcd"), [Part::Token(2), Part::Token(1)]);
        assert_eq!(names.split("xabab"), [Part::Text("x"), Part::Token(0), Part::Token(0)]);
        assert_eq!(names.split(""), []);
        assert_eq!(names.split("xyz"), [Part::Text("xyz")]);
        assert_eq!(names.names_in("abcd"), ["bcd", "ab", "a"]);
    }

    #[test]
    fn runs_are_cut_from_the_left() {
        let names = names(&["\n\n\n", "\n\n", "<table>", "é"]);
        assert_eq!(names.split("\n\n\n\n\n"), [Part::Token(0), Part::Token(1)]);
        assert_eq!(names.split("\n\n\n\n"), [Part::Token(0), Part::Text("\n")]);
        assert_eq!(names.split("<table<table>é"), [Part::Text("<table"), Part::Token(2), Part::Token(3)]);
    }
}
