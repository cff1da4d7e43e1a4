//! Division that loses nothing: floors first, then one wei each to the largest remainders.

use alloy::primitives::U256;

/// Divides `budget` in proportion to `weights`. The parts sum to it, or are all zero when there is no weight. Equal remainders
/// go to the earlier entry.
pub(super) fn divide(budget: u128, weights: &[u128]) -> Vec<u128> {
    let total: U256 = weights.iter().map(|weight| U256::from(*weight)).sum();
    if total.is_zero() {
        return vec![0; weights.len()];
    }
    let (mut shares, remainders): (Vec<u128>, Vec<U256>) = weights
        .iter()
        .map(|weight| {
            // 128 × 128 bits fit in 256, and a quotient never exceeds the budget because a weight never exceeds the total.
            let (quotient, remainder) = (U256::from(budget) * U256::from(*weight)).div_rem(total);
            (quotient.saturating_to::<u128>(), remainder)
        })
        .unzip();
    let given: u128 = shares.iter().sum();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_unstable_by(|a, b| remainders.get(*b).cmp(&remainders.get(*a)).then(a.cmp(b)));
    let left = usize::try_from(budget - given).unwrap_or(usize::MAX);
    for index in order.into_iter().take(left) {
        if let Some(share) = shares.get_mut(index) {
            *share += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_remainders_get_what_the_floors_left() {
        assert_eq!(divide(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(divide(7, &[3, 2, 2]), [3, 2, 2]);
        assert_eq!(divide(u128::MAX, &[u128::MAX, u128::MAX]), [u128::MAX / 2 + 1, u128::MAX / 2]);
    }

    #[test]
    fn nothing_is_given_to_nobody() {
        assert_eq!(divide(10, &[]), Vec::<u128>::new());
        assert_eq!(divide(10, &[0, 0]), [0, 0]);
        assert_eq!(divide(0, &[1, 2]), [0, 0]);
    }
}
