//! IO: files, standard input, and a little randomness for names.

use std::{
    io::{IsTerminal, Read},
    path::Path,
};

use rand::RngExt;

use crate::cli::{CliError, output::note};

/// Nothing larger goes through the API server anyway.
const MAX_BYTES: u64 = 4 << 20;

/// The text of a file, or of standard input for `-`.
pub fn read(path: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| CliError::Other(format!("cannot read {}: {error}", path.display()));
    if path == Path::new("-") {
        let input = std::io::stdin();
        if input.is_terminal() {
            note(format_args!("reading from the terminal; Ctrl-D ends it"));
        }
        return bounded(input.lock(), path);
    }
    bounded(std::fs::File::open(path).map_err(failed)?, path)
}

fn bounded(from: impl Read, path: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = from.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| CliError::Other(format!("cannot read {}: {error}", path.display())))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(CliError::Other(format!(
            "{} is larger than {} MiB: put the requests at a URL or into a bucket, and name it in an InferenceJob (spec.workload.input)",
            path.display(),
            MAX_BYTES >> 20
        )));
    }
    Ok(text)
}

/// Five letters and digits, without those that are easily confused or make words.
pub fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).filter_map(|_| ALPHABET.get(rng.random_range(0..ALPHABET.len()))).map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_too_large_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = read(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
        let large = folder.path().join("large");
        std::fs::write(&large, vec![b'a'; usize::try_from(MAX_BYTES).unwrap() + 1]).unwrap();
        assert!(read(&large).unwrap_err().to_string().contains("larger than 4 MiB"));
    }

    #[test]
    fn a_suffix_fits_into_a_name() {
        let suffix = random_suffix();
        assert_eq!(suffix.len(), 5);
        assert!(suffix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
    }
}
