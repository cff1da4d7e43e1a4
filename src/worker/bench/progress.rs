//! What is being done, for whoever waits: a line a step, when the step begins.

use std::{io::Write, time::Instant};

/// Where the lines go, with the seconds since the beginning before each.
pub(super) struct Progress<'a> {
    lines: &'a mut (dyn Write + Send),
    began: Instant,
}

impl<'a> Progress<'a> {
    pub(super) fn new(lines: &'a mut (dyn Write + Send)) -> Self {
        Progress { lines, began: Instant::now() }
    }

    /// A step begins.
    pub(super) fn step(&mut self, what: impl std::fmt::Display) {
        let seconds = self.began.elapsed().as_secs_f64();
        // Nobody may be looking any more; the measurement goes on.
        let _ = writeln!(self.lines, "{seconds:7.1} s  {what}").and_then(|()| self.lines.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_line_of_its_own() {
        let mut lines = Vec::new();
        let mut progress = Progress::new(&mut lines);
        progress.step("loading a.gguf");
        progress.step("warming up");
        let text = String::from_utf8(lines).unwrap();
        let steps: Vec<&str> = text.lines().map(|line| line.split_once(" s  ").unwrap().1).collect();
        assert_eq!(steps, ["loading a.gguf", "warming up"]);
    }
}
