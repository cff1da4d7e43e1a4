//! Between rows and newtypes. SQLite knows signed 64-bit integers, text and blobs; what does not parse is `Corrupt`.

use std::{fmt::Display, str::FromStr};

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row, sqlite::SqliteRow};

use super::LedgerError;

/// Into an integer column. No count here comes near 2⁶³; one that did would be kept at the top rather than turn negative.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Into a JSON column.
pub(super) fn json(column: &'static str, value: &impl Serialize) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|error| corrupt(column, error))
}

/// Token ids as four little-endian bytes each.
pub(super) fn token_bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

pub(super) fn corrupt(column: &'static str, error: impl Display) -> LedgerError {
    LedgerError::Corrupt { column, message: error.to_string() }
}

/// Typed reading of columns.
pub(super) trait Columns {
    fn count(&self, column: &'static str) -> Result<u64, LedgerError>;
    fn count32(&self, column: &'static str) -> Result<u32, LedgerError>;
    fn flag(&self, column: &'static str) -> Result<bool, LedgerError>;
    fn text(&self, column: &'static str) -> Result<String, LedgerError>;
    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, LedgerError>;
    fn fixed<const N: usize>(&self, column: &'static str) -> Result<[u8; N], LedgerError>;
    fn tokens(&self, column: &'static str) -> Result<Vec<u32>, LedgerError>;
    fn parsed<T: FromStr<Err: Display>>(&self, column: &'static str) -> Result<T, LedgerError>;
    fn parsed_or_none<T: FromStr<Err: Display>>(&self, column: &'static str) -> Result<Option<T>, LedgerError>;
    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, LedgerError>;
}

impl Columns for SqliteRow {
    fn count(&self, column: &'static str) -> Result<u64, LedgerError> {
        u64::try_from(self.try_get::<i64, _>(column)?).map_err(|error| corrupt(column, error))
    }

    fn count32(&self, column: &'static str) -> Result<u32, LedgerError> {
        u32::try_from(self.try_get::<i64, _>(column)?).map_err(|error| corrupt(column, error))
    }

    fn flag(&self, column: &'static str) -> Result<bool, LedgerError> {
        Ok(self.try_get::<i64, _>(column)? != 0)
    }

    fn text(&self, column: &'static str) -> Result<String, LedgerError> {
        Ok(self.try_get(column)?)
    }

    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, LedgerError> {
        Ok(self.try_get(column)?)
    }

    fn fixed<const N: usize>(&self, column: &'static str) -> Result<[u8; N], LedgerError> {
        let bytes: &[u8] = self.try_get(column)?;
        bytes.try_into().map_err(|_| corrupt(column, format!("{} bytes instead of {N}", bytes.len())))
    }

    fn tokens(&self, column: &'static str) -> Result<Vec<u32>, LedgerError> {
        let bytes: &[u8] = self.try_get(column)?;
        let ids = bytes.chunks(4).map(|id| <[u8; 4]>::try_from(id).map(u32::from_le_bytes));
        ids.collect::<Result<_, _>>().map_err(|error| corrupt(column, error))
    }

    fn parsed<T: FromStr<Err: Display>>(&self, column: &'static str) -> Result<T, LedgerError> {
        self.try_get::<&str, _>(column)?.parse().map_err(|error| corrupt(column, error))
    }

    fn parsed_or_none<T: FromStr<Err: Display>>(&self, column: &'static str) -> Result<Option<T>, LedgerError> {
        let text: Option<&str> = self.try_get(column)?;
        text.map(|text| text.parse().map_err(|error| corrupt(column, error))).transpose()
    }

    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, LedgerError> {
        serde_json::from_str(self.try_get(column)?).map_err(|error| corrupt(column, error))
    }
}
