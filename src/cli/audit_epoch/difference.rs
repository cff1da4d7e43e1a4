//! What an audit found: one difference a row, and never more rows than a person reads.

use std::fmt::Display;

use serde::Serialize;

/// The most differences of one epoch that are listed; the others are counted.
const MAX_LISTED: usize = 1_000;

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum What {
    /// keccak256 of the leaves in the calldata, and the hash that the contract logged.
    DataHash,
    /// The leaves in the calldata are in no known form.
    Calldata,
    /// The leaves before this epoch do not hash to the root before it: an earlier report is wrong.
    LeavesBefore,
    /// Root over the leaves in the calldata, and the reported one.
    CalldataRoot,
    /// Sum of the leaves in the calldata, and the reported one.
    CalldataTotal,
    /// A leaf is lower than before.
    LeafFell,
    /// What a vote says that the leaves were made from, and what may be.
    Recipe,
    /// Digest of the statement, and the one that was named.
    Statement,
    /// The receipts are not those that the statement's totals name.
    Receipts,
    /// A receipt that does not verify; it is not counted.
    Receipt,
    /// What the receipts of a node add up to, and what the statement says.
    NodeTotals,
    /// What the chain says of a paid job's escrow, and what the statement says.
    Escrow,
    /// What a node should have earned so far, and its leaf.
    Leaf,
    /// The root that follows from the statement, and the reported one.
    Root,
    /// The sum that follows from the statement, and the reported one.
    Total,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub what: What,
    /// Node or receipt; empty for the report itself.
    pub subject: String,
    pub expected: String,
    pub found: String,
}

/// All findings of an epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    pub listed: Vec<Difference>,
    /// Those beyond the limit.
    pub omitted: u64,
}

impl Differences {
    pub fn add(&mut self, what: What, subject: impl Display, expected: impl Display, found: impl Display) {
        if self.listed.len() >= MAX_LISTED {
            self.omitted = self.omitted.saturating_add(1);
            return;
        }
        let difference =
            Difference { what, subject: subject.to_string(), expected: expected.to_string(), found: found.to_string() };
        self.listed.push(difference);
    }

    /// Adds one where two values are not equal.
    pub fn compare<T: PartialEq + Display>(&mut self, what: What, subject: impl Display, expected: T, found: T) {
        if expected != found {
            self.add(what, subject, expected, found);
        }
    }

    pub fn extend(&mut self, others: &Differences) {
        for other in &others.listed {
            self.add(other.what, &other.subject, &other.expected, &other.found);
        }
        self.omitted = self.omitted.saturating_add(others.omitted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_beyond_the_limit_are_counted_only() {
        let mut found = Differences::default();
        for at in 0..MAX_LISTED + 5 {
            found.compare(What::Leaf, at, 1, 2);
        }
        found.compare(What::Leaf, "equal", 1, 1);
        assert_eq!((found.listed.len(), found.omitted), (MAX_LISTED, 5));
    }
}
