//! The compact packed form: only the leaves that an epoch raised, by the node's index on the contract, and what a stranger needs to do
//! the sum again. Whoever has the calldata of all epochs has all leaves.
//!
//! ```text
//!  1  version, 0x01
//! 32  statement: BLAKE3 of the epoch's totals, which name the receipts
//!  v  block in which registrations were read
//!  4  split: work and capacity in basis points, big-endian; storage is the rest
//!  1  n, then n bytes: the budget in wei, big-endian, without leading zeros
//!  v  number of changes
//!  1  w: bits of the largest increase; 0 without changes
//!  v  for each change, by ascending index: the gap to the index before it (first: the index itself)
//!     for each change: w bits, the increase in wei, the highest bit first; then zeros to the end of the byte
//!  1  0x00, only where the length would be a multiple of 36 otherwise: so nothing can be taken for the whole form
//! ```
//!
//! A vote for a report carries the head alone, up to and with the budget: whoever has that and the receipts can make the rest.
//!
//! v is unsigned LEB128 in its shortest form. XDC charges 68 gas for a byte and 4 for a zero: gaps of neighbours are zero bytes, and
//! bits are packed because a byte for the last of them costs as much as any other. Raises and not sums, because a sum gets longer
//! with every epoch.

use std::collections::BTreeMap;

use alloy::primitives::B256;

use super::{
    allocation::RewardSplit,
    packed::{LEAF, MAX_PACKED, PackedError},
    tree::RewardLeaf,
};
use crate::api::ids::{NodeAddress, Wei};

/// First byte of the compact form.
pub const VERSION: u8 = 1;

/// What the leaves of an epoch were made from, beside its receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// BLAKE3 of the epoch's totals as the gateway closed it: the first line of its published statement.
    pub statement: B256,
    /// Block in which registrations were read.
    pub block: u64,
    pub split: RewardSplit,
    /// What the epoch was to allocate, fees aside.
    pub budget: Wei,
}

/// A leaf that an epoch raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafChange {
    /// Of the node on the contract.
    pub index: u32,
    /// Above zero.
    pub increase: Wei,
}

/// What one report carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedChanges {
    pub recipe: Recipe,
    /// By ascending index.
    pub changes: Vec<LeafChange>,
}

/// The head of the compact form: what the leaves are made from.
pub fn pack_recipe(recipe: &Recipe) -> Vec<u8> {
    let Recipe { statement, block, split, budget } = *recipe;
    let [work, capacity, _] = <[u16; 3]>::from(split);
    let mut out = vec![VERSION];
    out.extend_from_slice(statement.as_slice());
    put_varint(&mut out, block);
    out.extend_from_slice(&work.to_be_bytes());
    out.extend_from_slice(&capacity.to_be_bytes());
    let digits = without_zeros(budget.0);
    out.push(u8::try_from(digits.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(&digits);
    out
}

/// Reads what [`pack_recipe`] wrote, and nothing else.
pub fn unpack_recipe(bytes: &[u8]) -> Result<Recipe, PackedError> {
    let mut reader = Reader { rest: bytes };
    let [version] = reader.fixed()?;
    if version != VERSION {
        return Err(PackedError::Version(version));
    }
    let recipe = reader.recipe()?;
    if reader.rest.is_empty() { Ok(recipe) } else { Err(PackedError::Trailing { bytes: reader.rest.len() }) }
}

/// Packs changes. Fails on what [`unpack_changes`] would refuse.
pub fn pack_changes(packed: &PackedChanges) -> Result<Vec<u8>, PackedError> {
    let mut out = pack_recipe(&packed.recipe);
    put_varint(&mut out, packed.changes.len() as u64);
    let largest = packed.changes.iter().map(|change| change.increase.0).max().unwrap_or(0);
    let width = bits_of(largest);
    out.push(u8::try_from(width).unwrap_or(u8::MAX));
    let mut next = 0u64;
    for (at, change) in packed.changes.iter().enumerate() {
        if change.increase.0 == 0 {
            return Err(PackedError::Zero(at));
        }
        let gap = u64::from(change.index).checked_sub(next).ok_or(PackedError::Order(at))?;
        put_varint(&mut out, gap);
        next = u64::from(change.index) + 1;
    }
    out.extend(pack_bits(packed.changes.iter().map(|change| change.increase.0), width));
    if out.len().is_multiple_of(LEAF) {
        out.push(0);
    }
    if out.len() > MAX_PACKED {
        return Err(PackedError::TooLong { bytes: out.len() });
    }
    Ok(out)
}

/// Reads the compact form. Refuses everything that [`pack_changes`] would not have written, so one content has one form and one
/// hash. Takes no more memory than a small multiple of `bytes`, whatever they say.
pub fn unpack_changes(bytes: &[u8]) -> Result<PackedChanges, PackedError> {
    if bytes.len() > MAX_PACKED {
        return Err(PackedError::TooLong { bytes: bytes.len() });
    }
    let mut reader = Reader { rest: bytes };
    let [version] = reader.fixed()?;
    if version != VERSION {
        return Err(PackedError::Version(version));
    }
    let recipe = reader.recipe()?;
    let count = usize::try_from(reader.varint()?).map_err(|_| PackedError::Short)?;
    let [width] = reader.fixed()?;
    // Before anything is set aside for them: each takes a byte for its gap at least.
    if width > 128 || (width == 0) != (count == 0) || count > reader.rest.len() {
        return Err(PackedError::Short);
    }
    let indexes = reader.indexes(count)?;
    let increases = reader.numbers(count, u32::from(width))?;
    if let Some(at) = increases.iter().position(|increase| *increase == 0) {
        return Err(PackedError::Zero(at));
    }
    if bits_of(increases.iter().copied().max().unwrap_or(0)) != u32::from(width) {
        return Err(PackedError::NotShortest);
    }
    let change = |(index, increase)| LeafChange { index, increase: Wei(increase) };
    let changes = indexes.into_iter().zip(increases).map(change).collect();
    let padding: &[u8] = if (bytes.len() - reader.rest.len()).is_multiple_of(LEAF) { &[0] } else { &[] };
    if reader.rest != padding {
        return Err(PackedError::Trailing { bytes: reader.rest.len() });
    }
    Ok(PackedChanges { recipe, changes })
}

/// Which leaves `after` raised over `before`; both ascend by node. `None` when a leaf fell or is gone, which no report may do,
/// or a node has no index.
pub fn changes_between(
    before: &[RewardLeaf],
    after: &[RewardLeaf],
    index_of: impl Fn(NodeAddress) -> Option<u32>,
) -> Option<Vec<LeafChange>> {
    let mut known: BTreeMap<NodeAddress, u128> = before.iter().map(|leaf| (leaf.node, leaf.cumulative.0)).collect();
    let mut changes = Vec::new();
    for leaf in after {
        let increase = leaf.cumulative.0.checked_sub(known.remove(&leaf.node).unwrap_or(0))?;
        if increase > 0 {
            changes.push(LeafChange { index: index_of(leaf.node)?, increase: Wei(increase) });
        }
    }
    changes.sort_unstable_by_key(|change| change.index);
    known.is_empty().then_some(changes)
}

/// The leaves after `changes`, by ascending node.
pub fn apply_changes(
    before: &[RewardLeaf],
    changes: &[LeafChange],
    node_of: impl Fn(u32) -> Option<NodeAddress>,
) -> Result<Vec<RewardLeaf>, PackedError> {
    let mut leaves: BTreeMap<NodeAddress, Wei> = before.iter().map(|leaf| (leaf.node, leaf.cumulative)).collect();
    for change in changes {
        let node = node_of(change.index).ok_or(PackedError::UnknownIndex(change.index))?;
        let sum = leaves.entry(node).or_default();
        sum.0 = sum.0.checked_add(change.increase.0).ok_or(PackedError::Overflow(node))?;
    }
    Ok(leaves.into_iter().map(|(node, cumulative)| RewardLeaf { node, cumulative }).collect())
}

/// Takes from the front and never reads past the end.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], PackedError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(PackedError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], PackedError> {
        self.take(N)?.try_into().map_err(|_| PackedError::Short)
    }

    /// At most 16 bytes, big-endian.
    fn number(&mut self, width: usize) -> Result<u128, PackedError> {
        Ok(self.take(width)?.iter().fold(0, |number, byte| (number << 8) | u128::from(*byte)))
    }

    fn varint(&mut self) -> Result<u64, PackedError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.fixed()?;
            let group = u64::from(byte & 0x7f);
            if (shift > 0 && byte == 0) || (group << shift) >> shift != group {
                return Err(PackedError::NotShortest);
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(PackedError::NotShortest)
    }

    /// Ascending, by their gaps.
    fn indexes(&mut self, count: usize) -> Result<Vec<u32>, PackedError> {
        let (mut indexes, mut next) = (Vec::with_capacity(count), 0u64);
        for at in 0..count {
            let index = self.varint()?.checked_add(next).and_then(|index| u32::try_from(index).ok());
            let index = index.ok_or(PackedError::Index(at))?;
            indexes.push(index);
            next = u64::from(index) + 1;
        }
        Ok(indexes)
    }

    /// `count` numbers of `width` bits, and zeros to the end of the byte.
    fn numbers(&mut self, count: usize, width: u32) -> Result<Vec<u128>, PackedError> {
        let width = usize::try_from(width).map_err(|_| PackedError::Short)?;
        let bytes = self.take(count.checked_mul(width).ok_or(PackedError::Short)?.div_ceil(8))?;
        let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| (byte >> at) & 1));
        let number = |_| bits.by_ref().take(width).fold(0, |number, bit| (number << 1) | u128::from(bit));
        let numbers = (0..count).map(number).collect();
        if bits.any(|bit| bit != 0) {
            return Err(PackedError::NotShortest);
        }
        Ok(numbers)
    }

    fn recipe(&mut self) -> Result<Recipe, PackedError> {
        let statement = B256::from(self.fixed::<32>()?);
        let block = self.varint()?;
        let (work, capacity) = (u16::from_be_bytes(self.fixed()?), u16::from_be_bytes(self.fixed()?));
        let storage = 10_000u16.checked_sub(work).and_then(|rest| rest.checked_sub(capacity));
        let split = storage.and_then(|storage| RewardSplit::new(work, capacity, storage).ok());
        let [digits] = self.fixed()?;
        let digits = usize::from(digits);
        if digits > 16 {
            return Err(PackedError::NotShortest);
        }
        let budget = self.number(digits)?;
        if without_zeros(budget).len() != digits {
            return Err(PackedError::NotShortest);
        }
        Ok(Recipe { statement, block, split: split.ok_or(PackedError::Split)?, budget: Wei(budget) })
    }
}

/// Numbers of `width` bits one after the other, the highest bit first.
fn pack_bits(numbers: impl Iterator<Item = u128>, width: u32) -> Vec<u8> {
    let (mut out, mut free) = (Vec::new(), 0);
    for number in numbers {
        for at in (0..width).rev() {
            if free == 0 {
                out.push(0);
                free = 8;
            }
            free -= 1;
            if let Some(last) = out.last_mut() {
                *last |= u8::from((number >> at) & 1 == 1) << free;
            }
        }
    }
    out
}

fn bits_of(value: u128) -> u32 {
    u128::BITS - value.leading_zeros()
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Big-endian; nothing for zero.
fn without_zeros(value: u128) -> Vec<u8> {
    value.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
}

#[cfg(test)]
mod tests;
