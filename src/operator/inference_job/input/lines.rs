//! Bytes to lines, within the bounds. Pure.

use super::{MAX_BYTES, MAX_LINE, MAX_LINES};

/// Why an input as a whole cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    #[error("the input has more than {MAX_BYTES} bytes; split it into several jobs")]
    Bytes,
    #[error("the input has more than {MAX_LINES} requests; split it into several jobs")]
    Lines,
}

/// One line of the input, its number from 0. Lines of white space only do not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub index: u32,
    pub content: LineContent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineContent {
    Bytes(Vec<u8>),
    /// Longer than a line may be; the bytes were dropped.
    TooLong,
}

/// Splits a stream of chunks into lines; feed it every chunk, then call `finish`.
#[derive(Debug, Default)]
pub struct LineSplitter {
    partial: Vec<u8>,
    overlong: bool,
    bytes: u64,
    lines: u32,
}

impl LineSplitter {
    /// The lines that `chunk` completes.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<Line>, TooLarge> {
        self.bytes += chunk.len() as u64;
        if self.bytes > MAX_BYTES {
            return Err(TooLarge::Bytes);
        }
        let mut complete = Vec::new();
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            self.extend(text);
            if ends && let Some(line) = self.take()? {
                complete.push(line);
            }
        }
        Ok(complete)
    }

    /// The last line, when the input does not end with a line break.
    pub fn finish(mut self) -> Result<Option<Line>, TooLarge> {
        self.take()
    }

    fn extend(&mut self, text: &[u8]) {
        if self.overlong {
            return;
        }
        if self.partial.len() + text.len() > MAX_LINE {
            self.overlong = true;
            self.partial = Vec::new();
            return;
        }
        self.partial.extend_from_slice(text);
    }

    fn take(&mut self) -> Result<Option<Line>, TooLarge> {
        let overlong = std::mem::take(&mut self.overlong);
        let text = std::mem::take(&mut self.partial);
        if !overlong && text.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        if self.lines >= MAX_LINES {
            return Err(TooLarge::Lines);
        }
        let index = self.lines;
        self.lines += 1;
        let content = if overlong { LineContent::TooLong } else { LineContent::Bytes(text) };
        Ok(Some(Line { index, content }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&str]) -> Result<Vec<String>, TooLarge> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            lines.extend(splitter.push(chunk.as_bytes())?);
        }
        lines.extend(splitter.finish()?);
        Ok(lines
            .into_iter()
            .map(|line| match line.content {
                LineContent::Bytes(bytes) => format!("{}:{}", line.index, String::from_utf8_lossy(&bytes)),
                LineContent::TooLong => format!("{}:too long", line.index),
            })
            .collect())
    }

    #[test]
    fn lines_do_not_depend_on_where_chunks_end() {
        let whole = split(&["a\n\n b\nc"]).unwrap();
        assert_eq!(whole, ["0:a", "1: b", "2:c"]);
        assert_eq!(split(&["", "a", "\n", "\n b", "\nc"]).unwrap(), whole);
    }

    #[test]
    fn an_overlong_line_is_dropped_and_the_next_one_is_read() {
        let long = "x".repeat(MAX_LINE + 1);
        assert_eq!(split(&[&long, "yz\nok\n"]).unwrap(), ["0:too long", "1:ok"]);
    }

    #[test]
    fn more_lines_than_allowed_are_refused() {
        let text = "x\n".repeat(MAX_LINES as usize);
        assert_eq!(split(&[&text]).unwrap().len(), MAX_LINES as usize);
        assert_eq!(split(&[&text, "x"]), Err(TooLarge::Lines));
    }

    #[test]
    fn more_bytes_than_allowed_are_refused() {
        let mut splitter = LineSplitter { bytes: MAX_BYTES, ..LineSplitter::default() };
        assert_eq!(splitter.push(b"x"), Err(TooLarge::Bytes));
    }
}
