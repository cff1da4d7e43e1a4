//! A vector of an embedding: single precision, the same bits from the kernel to the client. JSON between our own programs has
//! it as base64 of its little-endian bytes, which is OpenAI's `encoding_format: base64` too.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most elements of a vector; the largest embedding models have 8192.
pub const MAX_DIMENSIONS: usize = 8192;

/// At least one element, each finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector(Vec<f32>);

impl Vector {
    /// `None` for a vector that is empty, too long or has an element that is no number.
    pub fn new(values: Vec<f32>) -> Option<Self> {
        let sound = (1..=MAX_DIMENSIONS).contains(&values.len()) && values.iter().all(|value| value.is_finite());
        sound.then_some(Vector(values))
    }

    /// Reads little-endian single precision.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (values, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() || values.len() > MAX_DIMENSIONS {
            return None;
        }
        Self::new(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    pub fn to_base64(&self) -> String {
        BASE64_STANDARD.encode(self.to_bytes())
    }

    pub fn values(&self) -> &[f32] {
        &self.0
    }

    pub fn dimensions(&self) -> usize {
        self.0.len()
    }
}

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Self::from_bytes(&bytes).ok_or_else(|| serde::de::Error::custom("these bytes are no vector"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_survives_bytes_and_json_to_the_bit() {
        let vector = Vector::new(vec![0.1, -0.0, f32::MIN_POSITIVE, 1e30]).unwrap();
        let bits = |vector: &Vector| vector.values().iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&Vector::from_bytes(&vector.to_bytes()).unwrap()), bits(&vector));
        let json = serde_json::to_string(&vector).unwrap();
        assert_eq!(bits(&serde_json::from_str(&json).unwrap()), bits(&vector));
    }

    #[test]
    fn what_is_no_vector_is_refused() {
        assert_eq!(Vector::new(vec![]), None);
        assert_eq!(Vector::new(vec![1.0, f32::NAN]), None);
        assert_eq!(Vector::from_bytes(&[0; 7]), None);
        assert_eq!(Vector::from_bytes(&vec![0; 4 * (MAX_DIMENSIONS + 1)]), None);
        assert!(serde_json::from_str::<Vector>("\"AAA\"").is_err());
    }
}
