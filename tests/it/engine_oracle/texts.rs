//! Texts to compare with llama.cpp on.

pub const ENGLISH: &str = "The lighthouse at the end of the peninsula was built in 1857, after three ships had been lost on the \
rocks in a single winter. For more than a century its keepers lived there with their families, growing vegetables behind \
the stone wall and waiting for the supply boat that came once a month, weather permitting. In the archive of the harbour \
office you can still read their daily notes: the direction of the wind, the height of the waves, the number of ships that \
passed, and now and then a sentence about a birthday or an illness. The last keeper left in 1974, when an electric lamp and \
a small computer took over. Today the building is a museum. Visitors climb the 142 steps to the gallery, look at the great \
lens that once turned on a bath of mercury, and see, on a clear evening, the mountains on the other side of the bay. The \
light itself still works; sailors say that they trust it more than the little arrows on their screens.";

pub const CODE: &str = r#"//! A queue whose oldest entries make room for new ones.

use std::collections::VecDeque;

/// Keeps the last `capacity` entries that were pushed.
pub struct Recent<T> {
    entries: VecDeque<T>,
    capacity: usize,
    dropped: u64,
}

impl<T: Clone> Recent<T> {
    pub fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::with_capacity(capacity), capacity, dropped: 0 }
    }

    pub fn push(&mut self, entry: T) -> Option<T> {
        let oldest = if self.entries.len() == self.capacity { self.entries.pop_front() } else { None };
        if oldest.is_some() {
            self.dropped += 1;
        }
        self.entries.push_back(entry);
        oldest
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter()
    }
}

#[test]
fn the_oldest_entry_makes_room() {
    let mut recent = Recent::new(2);
    for i in 0..5 {
        recent.push(i);
    }
    assert_eq!(recent.iter().copied().collect::<Vec<i32>>(), [3, 4]);
}
"#;

/// Beginnings to go on from.
pub const PROMPTS: [&str; 34] = [
    "The capital of France is",
    "Once upon a time, there was",
    "def fibonacci(n):\n",
    "1, 2, 3, 4,",
    "Water boils at a temperature of",
    "The three primary colours are",
    "To make a cup of tea, first",
    "In the year 1969, the first",
    "fn main() {\n    println!(",
    "SELECT name, age FROM users WHERE",
    "Dear Sir or Madam,\n\nI am writing to",
    "The opposite of hot is",
    "Photosynthesis is the process by which",
    "Q: What is the largest planet in the solar system?\nA:",
    "Monday, Tuesday, Wednesday,",
    "The quick brown fox jumps over",
    "import numpy as np\n\ndef mean(values):\n    return",
    "A triangle has three sides and a square has",
    "Shakespeare wrote many plays, among them",
    "<html>\n<head>\n<title>",
    "La capitale de l'Espagne est",
    "Der schnellste Weg nach Hause",
    "The ingredients of bread are flour,",
    "She opened the door and saw",
    "E = mc^2 is an equation that",
    "The moon goes around the",
    "for (int i = 0; i < n; i++) {\n",
    "It was a dark and stormy night;",
    "The best way to learn a language is",
    "Cats and dogs are",
    "{\"name\": \"Alice\", \"age\":",
    "The river Rhine flows through",
    "Roses are red, violets are",
    "My favourite book is",
];

const PIECES: &[&str] = &[
    " ",
    "  ",
    "     ",
    "\t",
    "\t\t",
    "\n",
    "\n\n",
    "\n \n",
    "\r\n",
    " \n",
    "a",
    "the",
    " the",
    "The",
    "don't",
    "I'll",
    "WE'RE",
    "it's",
    "'",
    "\"",
    "1",
    "12",
    "123456",
    " 3.14",
    "1,000,000",
    "٣",
    "½",
    "²",
    "Ⅷ",
    "é",
    "naïve",
    "über",
    "ß",
    "Ærø",
    "中文",
    "日本語",
    "한국어",
    "עברית",
    "العربية",
    "ไทย",
    "हिन्दी",
    "🦀",
    "👩‍👩‍👧",
    "🇫🇷",
    "❤️",
    "\u{200b}",
    "\u{a0}",
    "\u{3000}",
    "\u{feff}",
    "e\u{301}",
    "<|im_end|>",
    "<|im_start|>user\n",
    "<|endoftext|>",
    "<|",
    "|>",
    "[INST]",
    "</s>",
    "<s>",
    "fn main() {}",
    "x_y",
    "a->b",
    "!=",
    "...",
    "!!!",
    "—",
    "“q”",
    "$5",
    "100%",
    "C++",
    "#",
    "@user",
    "https://a.b/c?d=e",
    "\u{1}",
    "\u{4}",
    "\u{7f}",
    "\u{10ffff}",
    "\u{40000}",
    "_",
    "__init__",
    "    return x",
    "-",
    "--",
    "\u{2028}",
    "ﬁ",
    "ǅ",
    "İ",
    "ſ",
    "<bos>",
    "<eos>",
    "<pad>",
    "<start_of_turn>user\n",
    "<end_of_turn>",
    "<unused5>",
    "<table>",
    "</table>",
    "<b>",
    "<0x0A>",
    "<0x",
    "▁",
    "▁▁▁",
    "\n\n\n\n\n",
    "\t\t\t\t\t",
    "            ",
    "\u{fffd}",
    "\u{fffd}\u{fffd}",
    "\u{2581}the",
    "[multimodal]",
    "2026-11-27",
    "0x1F",
    "1e-6",
    "²³",
    "ﷺ",
    "\u{fe0f}",
    "ꙮ",
    "𝔘𝔫𝔦",
    "👨🏽‍🚀",
];

/// Strings that tokenizers stumble over, and arbitrary mixtures of them.
pub fn strings() -> Vec<String> {
    let mut state = 42u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mixed = (0..1_200).map(|_| (0..=next(9)).map(|_| PIECES[next(PIECES.len())]).collect::<String>());
    let mut strings: Vec<String> = mixed.collect();
    let any = |next: &mut dyn FnMut(usize) -> usize| char::from_u32(1 + next(0x2_ffff) as u32).unwrap_or('x');
    strings.extend((0..300).map(|_| (0..12).map(|_| any(&mut next)).collect::<String>()));
    strings.extend(PIECES.iter().map(|piece| (*piece).to_owned()));
    strings.extend([ENGLISH.to_owned(), CODE.to_owned()]);
    strings
}
