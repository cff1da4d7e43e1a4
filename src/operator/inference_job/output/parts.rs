//! Pure: a file cut into parts that are named by their content. No part ever changes, so a part that is there already is the
//! right one; and a reader may take parts one by one and check each.

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::manifest::FileSummary;

/// A part is closed by the line that reaches this size: this, twice for each job that publishes, is what memory holds of it.
pub const PART_BYTES: usize = 4 << 20;
/// More parts would make a manifest that is no small file any more.
pub const MAX_PARTS: usize = 4096;

/// A part, as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    pub name: String,
    pub bytes: u64,
    pub lines: u64,
    pub sha256: String,
}

/// A part to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub name: String,
    pub bytes: Bytes,
}

/// Takes the lines of one file and gives its parts.
#[derive(Debug)]
pub struct Cutter {
    /// First word of the parts' names.
    stem: &'static str,
    part_bytes: usize,
    buffer: Vec<u8>,
    lines: u64,
    whole: Sha256,
    bytes: u64,
    parts: Vec<Part>,
}

impl Cutter {
    pub fn new(stem: &'static str) -> Self {
        Self::with_part_bytes(stem, PART_BYTES)
    }

    fn with_part_bytes(stem: &'static str, part_bytes: usize) -> Self {
        Cutter { stem, part_bytes, buffer: Vec::new(), lines: 0, whole: Sha256::new(), bytes: 0, parts: Vec::new() }
    }

    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Adds whole lines; returns the part that they complete.
    pub fn push(&mut self, lines: &str) -> Option<Sealed> {
        self.buffer.extend_from_slice(lines.as_bytes());
        self.lines += lines.bytes().filter(|byte| *byte == b'\n').count() as u64;
        if self.buffer.len() < self.part_bytes { None } else { self.seal() }
    }

    /// The last part, if something is left.
    pub fn last(&mut self) -> Option<Sealed> {
        if self.buffer.is_empty() { None } else { self.seal() }
    }

    pub fn summary(self) -> FileSummary {
        FileSummary { sha256: hex::encode(self.whole.finalize()), bytes: self.bytes, parts: self.parts }
    }

    fn seal(&mut self) -> Option<Sealed> {
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        self.whole.update(&bytes);
        self.bytes += bytes.len() as u64;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let name = format!("{}-{:05}-{sha256}.jsonl", self.stem, self.parts.len());
        let lines = std::mem::take(&mut self.lines);
        self.parts.push(Part { name: name.clone(), bytes: bytes.len() as u64, lines, sha256 });
        Some(Sealed { name, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(lines: &[&str], part_bytes: usize) -> (Vec<Sealed>, FileSummary) {
        let mut cutter = Cutter::with_part_bytes("results", part_bytes);
        let mut sealed: Vec<_> = lines.iter().filter_map(|line| cutter.push(line)).collect();
        sealed.extend(cutter.last());
        (sealed, cutter.summary())
    }

    #[test]
    fn parts_are_whole_lines_and_together_the_file() {
        let (sealed, summary) = cut(&["aaaa\n", "bb\n", "cccccccc\n", "d\n"], 6);
        let texts: Vec<_> = sealed.iter().map(|part| std::str::from_utf8(&part.bytes).unwrap()).collect();
        assert_eq!(texts, ["aaaa\nbb\n", "cccccccc\n", "d\n"]);
        assert_eq!(summary.sha256, hex::encode(Sha256::digest(texts.concat())));
        assert_eq!(summary.bytes, 19);
        assert_eq!(summary.parts.iter().map(|part| part.lines).collect::<Vec<_>>(), [2, 1, 1]);
        for (sealed, part) in sealed.iter().zip(&summary.parts) {
            assert_eq!((&sealed.name, sealed.bytes.len() as u64), (&part.name, part.bytes));
            assert!(part.name.contains(&hex::encode(Sha256::digest(&sealed.bytes))));
        }
        assert!(summary.parts.is_sorted_by_key(|part| part.name.clone()), "a listing is in the order of the file");
    }

    #[test]
    fn the_same_lines_give_the_same_parts() {
        assert_eq!(cut(&["a\n", "b\n"], 2), cut(&["a\n", "b\n"], 2));
    }

    #[test]
    fn an_empty_file_has_no_part_and_the_digest_of_nothing() {
        let (sealed, summary) = cut(&[], 6);
        assert!(sealed.is_empty() && summary.parts.is_empty());
        assert_eq!(summary.sha256, hex::encode(Sha256::digest("")));
    }
}
