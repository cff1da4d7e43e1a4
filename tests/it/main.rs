//! One integration binary: a module per question.

mod grid;
