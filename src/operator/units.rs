//! Numbers for people.

/// `138 MiB`, with one decimal below ten.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scale: u64 = 1;
    let mut index = 0;
    while index + 1 < units.len() && bytes / scale >= 1024 {
        scale *= 1024;
        index += 1;
    }
    let unit = units.get(index).copied().unwrap_or("B");
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    if scale == 1 || tenths >= 100 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// A rate in thousandths as a decimal with one digit.
pub fn from_milli(milli: u64) -> String {
    format!("{}.{}", milli / 1000, milli % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (144_703_488, "138 MiB"), (u64::MAX, "16777215 TiB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
        assert_eq!(from_milli(12_345), "12.3");
    }
}
